"""Chains beside a Laplace approximation of the same target: means, spreads, ellipses and one number in nats.

With m, S the mean and covariance of the draws and μ, Σ those of Laplace,

    KL(N(m, S) ‖ N(μ, Σ)) = ½ [tr(Σ⁻¹S) + (m−μ)ᵀ Σ⁻¹ (m−μ) − D + log|Σ| − log|S|].

S from n draws makes this positive even for draws of Laplace itself: on average, with i = 1 … D,

    ½ [D/n + D log((n−1)/2) − Σᵢ ψ((n−i)/2)] ≈ D(D+3)/(4n)

(from the log-determinant of a Wishart matrix: Muirhead, "Aspects of Multivariate Statistical Theory", 1982). It is
reported beside the KL, with the effective sample size of the means for n. For slowly mixing chains that is too large a
value: their squares, hence S, have a larger effective sample size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..samplers.chains import Chains
from ..samplers.posterior import Posterior
from ..samplers.target import Layout, Target
from .convergence import ess
from .laplace import Laplace

_DRAWS_PER_PARAMETER = 10  # effective draws per parameter below which a full covariance is not trusted
_LEAST_DRAWS = 5  # effective draws below which a spread is not worth comparing
_BLOCK = 2**22  # numbers converted to float64 at once

PerParameter = Float[Tensor, " dim"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` found. Tensors are float64 on the CPU, over the parameters that the chains kept.

    Attributes
    ----------
    layout
        Names and shapes of these parameters, in the (unconstrained) coordinates of Laplace.
    chain_mean, chain_sd
        Mean and standard deviation of the draws, all chains together, by their weights.
    chain_mean_error, chain_sd_error
        Monte-Carlo standard errors of the two (delta method, with the effective sample size of the weighted terms); NaN
        where a parameter never moved.
    laplace_mean, laplace_sd
        Laplace's: marginal over parameters that were not kept; conditional if its structure is "diagonal".
    effective
        Effective sample size for the mean, per parameter, at most the number of draws.
    kl
        KL(N(m, S) ‖ Laplace) in nats; None where `kl_reason` says why.
    kl_kind
        "full", with all of S; "diagonal", the sum over parameters of the KL of their marginals, which misses all
        differences in correlation; or None.
    kl_by_chance
        What `kl` would be on average with that many effective draws of Laplace itself.
    kl_reason
        Why it is not the full one; empty if it is.
    num_chains, num_draws
        Chains compared, and draws of each.
    notes
        What was left out, and what does not fit together.
    """

    layout: Layout = field(repr=False)
    chain_mean: PerParameter = field(repr=False)
    chain_sd: PerParameter = field(repr=False)
    chain_mean_error: PerParameter = field(repr=False)
    chain_sd_error: PerParameter = field(repr=False)
    laplace_mean: PerParameter = field(repr=False)
    laplace_sd: PerParameter = field(repr=False)
    effective: PerParameter = field(repr=False)
    kl: float | None
    kl_kind: Literal["full", "diagonal"] | None
    kl_by_chance: float | None
    kl_reason: str
    num_chains: int
    num_draws: int
    notes: tuple[str, ...]
    _draws: Float[Tensor, "chain draw dim"] = field(repr=False)
    _weights: Float[Tensor, "chain draw"] = field(repr=False)
    _covariance: Tensor = field(repr=False)

    @property
    def names(self) -> list[str]:
        """Labels of the parameters, such as ``0.weight[3, 1]``."""
        return [self.layout.label(index) for index in range(self.layout.dim)]

    @property
    def shift(self) -> PerParameter:
        """(chain mean − Laplace mean) / Laplace sd."""
        return (self.chain_mean - self.laplace_mean) / self.laplace_sd

    @property
    def shift_error(self) -> PerParameter:
        """Monte-Carlo standard error of `shift`."""
        return self.chain_mean_error / self.laplace_sd

    @property
    def ratio(self) -> PerParameter:
        """Chain sd / Laplace sd."""
        return self.chain_sd / self.laplace_sd

    @property
    def ratio_error(self) -> PerParameter:
        """Monte-Carlo standard error of `ratio`."""
        return self.chain_sd_error / self.laplace_sd

    @property
    def marginal_kl(self) -> PerParameter:
        """KL of each parameter's marginal Gaussian, in nats; infinite where the chains never moved."""
        return 0.5 * (self.ratio.square() + self.shift.square() - 1) - self.ratio.log()

    def worst(self, count: int = 10) -> list[dict[str, Any]]:
        """Describe the parameters that differ most, by `marginal_kl`."""
        order = self.marginal_kl.argsort(descending=True, stable=True)[:count].tolist()
        columns = ["chain_mean", "chain_sd", "laplace_mean", "laplace_sd"]
        columns += ["shift", "shift_error", "ratio", "ratio_error", "marginal_kl"]
        values = {column: getattr(self, column)[order].tolist() for column in columns}
        names = self.names
        return [{"name": names[i]} | {c: values[c][row] for c in columns} for row, i in enumerate(order)]

    def ellipse(
        self, i: int | str, j: int | str, level: float = 0.95, *, n_sd: float | None = None, num_points: int = 100
    ) -> tuple[Float[Tensor, "point 2"], Float[Tensor, "point 2"]]:
        """Closed outlines of the chains' and of Laplace's Gaussian in two parameters.

        Parameters
        ----------
        i, j
            Numbers or labels of the parameters.
        level
            Probability inside: radius √(−2 log(1 − level)) standard deviations.
        n_sd
            The radius itself, instead of `level`.
        num_points
            Points of an outline; the last is the first.

        Returns
        -------
        tuple of Tensor
            Chains, Laplace.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level}")
        if n_sd is not None and not 0 < n_sd < math.inf:
            raise ValueError(f"n_sd must be positive and finite, got {n_sd}")
        radius = math.sqrt(-2 * math.log1p(-level)) if n_sd is None else n_sd
        pair = [self._index(i), self._index(j)]
        draws = self._draws[..., pair].double().flatten(0, 1)
        whole = self._covariance
        laplace = whole[pair].diag() if whole.ndim == 1 else whole[pair][:, pair]
        angle = torch.linspace(0, 2 * math.pi, num_points, dtype=torch.float64)
        circle = radius * torch.stack((angle.cos(), angle.sin()), -1)
        chain = _covariance(draws, self._weights.flatten(), self.chain_mean[pair])
        return (
            self.chain_mean[pair] + circle @ _root(chain).mT,
            self.laplace_mean[pair] + circle @ _root(laplace).mT,
        )

    def _index(self, which: int | str) -> int:
        if isinstance(which, str):
            if which not in self.names:
                raise ValueError(f"no parameter is called {which!r}; labels are like {self.names[0]!r}")
            return self.names.index(which)
        if not -self.layout.dim <= which < self.layout.dim:
            raise ValueError(f"parameter {which} is out of range: {self.layout.dim} were compared")
        return which % self.layout.dim

    def __str__(self) -> str:
        shift, ratio = self.shift.abs(), self.ratio
        kl = f"KL(chains ‖ Laplace) not computed: {self.kl_reason}"
        if self.kl is not None:
            kl = f"KL(chains ‖ Laplace) {self.kl:.4g} nats ({self.kl_kind}; {self.kl_by_chance:.2g} by chance alone)"
            kl += f"; {self.kl_reason}" if self.kl_reason else ""
        lines = [
            f"{self.num_chains} chains × {self.num_draws} draws of {self.layout.dim} parameters beside Laplace",
            *self.notes,
            f"|shift| / Laplace sd: median {shift.median():.3f}, largest {shift.max():.3f}",
            f"chain sd / Laplace sd: {ratio.min():.3f} to {ratio.max():.3f}, median {ratio.median():.3f}",
            kl,
        ]
        worst = self.worst(5)
        width = max(len(row["name"]) for row in worst)
        lines.append(
            f"  {'':{width}}  {'chain mean':>10} {'sd':>9}  {'Laplace':>10} {'sd':>9}  {'shift':>15}  {'ratio':>15}"
        )
        lines += [
            f"  {row['name']:{width}}  {row['chain_mean']:10.4g} {row['chain_sd']:9.3g}  {row['laplace_mean']:10.4g} "
            f"{row['laplace_sd']:9.3g}  {row['shift']:7.3f} ± {row['shift_error']:5.3f}  "
            f"{row['ratio']:7.3f} ± {row['ratio_error']:5.3f}"
            for row in worst
        ]
        return "\n".join(lines)


def compare(chains: Chains, laplace: Laplace) -> Comparison:
    """Set chains beside a Laplace approximation of the same target.

    Parameters
    ----------
    chains
        What `sample` returned, with all parameters or those it was told to keep. Stopped chains are left out, draws
        count by their weights.
    laplace
        Fitted to the same target.

    Returns
    -------
    Comparison
        Its KL uses the full covariance of the draws if there are at least 10 effective draws per parameter, else the
        marginals only.

    Raises
    ------
    ValueError
        If every chain was stopped, fewer than 4 draws are left, draws are not finite, or chains and Laplace do not have
        the same parameters.
    """
    notes = [f"chain {c} was stopped at step {s} and left out" for c, s in (chains.attrs.get("stopped") or {}).items()]
    chains = chains.finished()
    if chains.num_draws < 4:
        raise ValueError(f"the chains hold {chains.num_draws} draws each, at least 4 are needed to judge a spread")
    heat = chains.attrs.get("temperature", laplace.temperature)
    if heat is not None and not math.isclose(heat, laplace.temperature):
        notes.append(
            f"the chains ran at temperature {heat:g}, Laplace is at {laplace.temperature:g}: spreads differ by that"
        )
    layout, columns = _kept(chains, laplace)
    fixed = [name for name in chains.draws if name not in laplace.layout.names]
    if fixed:
        notes.append(f"Laplace holds {fixed} fixed: they are not compared")
    if layout.dim < laplace.dim:
        notes.append(f"{layout.dim} of {laplace.dim} parameters were kept and are compared")
    draws = _positions(chains, laplace.posterior, layout, columns)
    weights = torch.ones(draws.shape[:2], dtype=torch.float64) if chains.weights is None else chains.weights.double()
    mean, sd, mean_error, sd_error, effective = _moments(draws, weights)
    covariance = laplace.covariance.cpu()
    if len(columns) < laplace.dim:
        covariance = covariance[columns] if covariance.ndim == 1 else covariance[columns][:, columns]
    laplace_mean = laplace.mean.cpu().double()[columns]
    return Comparison(
        layout=layout,
        chain_mean=mean,
        chain_sd=sd,
        chain_mean_error=mean_error,
        chain_sd_error=sd_error,
        laplace_mean=laplace_mean,
        laplace_sd=(covariance if covariance.ndim == 1 else covariance.diagonal()).sqrt(),
        effective=effective,
        **_divergence(draws, weights, mean, sd, effective, laplace_mean, covariance),
        num_chains=chains.num_chains,
        num_draws=chains.num_draws,
        notes=tuple(notes),
        _draws=draws,
        _weights=weights,
        _covariance=covariance,
    )


def _kept(chains: Chains, laplace: Laplace) -> tuple[Layout, Tensor]:
    """Layout of Laplace's parameters that have draws, and their columns in its mean."""
    whole, known = laplace.layout, laplace.posterior.layout.names
    unknown = set(chains.draws) - set(known)
    if unknown:
        raise ValueError(
            f"the chains hold draws of {sorted(unknown)}, which Laplace's target does not have ({list(known)}): "
            "compare chains and Laplace of one target"
        )
    if not set(chains.draws) & set(whole.names):
        raise ValueError(
            f"the chains hold draws of {sorted(chains.draws)} and Laplace is over {list(whole.names)} only: nothing "
            "to compare; keep draws of these"
        )
    kept = [(name, shape) for name, shape in zip(whole.names, whole.shapes, strict=True) if name in chains.draws]
    columns = dict(zip(whole.names, torch.arange(whole.dim).split(whole.sizes), strict=True))
    layout = Layout(tuple(name for name, _ in kept), tuple(shape for _, shape in kept))
    return layout, torch.cat([columns[name] for name in layout.names])


def _positions(chains: Chains, target: Target, layout: Layout, columns: Tensor) -> Float[Tensor, "chain draw dim"]:
    """Draws in the coordinates of Laplace."""
    if isinstance(target, Posterior):
        draws = layout.ravel({name: chains.draws[name] for name in layout.names})
    else:  # its map to unconstrained coordinates wants every parameter: those not kept stand at the starting point
        lead = (chains.num_chains, chains.num_draws)
        start = {n: v.expand(lead + v.shape) for n, v in target.unravel(target.default_position()).items()}
        known = {name: value.to(target.device, target.dtype) for name, value in chains.draws.items()}
        draws = target.ravel(start | known)[..., columns].cpu()
    if not bool(draws.isfinite().all()):
        bad = int((~draws.isfinite().all(-1)).sum())
        raise ValueError(
            f"{bad} draws are not finite in the coordinates of Laplace; leave them out or sample with a lower lr"
        )
    return draws


def _moments(draws: Float[Tensor, "chain draw dim"], weights: Float[Tensor, "chain draw"]) -> list[PerParameter]:
    """Mean, sd, their Monte-Carlo errors, and the effective sample size of the mean.

    A weighted average Σ w f / Σ w has the error of the plain average of w (f − average) / mean(w), whose effective
    sample size `ess` can tell: that accounts for weights and autocorrelation together.
    """
    share = (weights / weights.sum())[..., None]
    number = weights.numel()
    found = []
    for part in draws.split(max(1, _BLOCK // number), -1):
        x = part.double()
        still = (x == x[:1, :1]).all(1).all(0)
        mean = (share * x).sum((0, 1))
        square = (x - mean).square()
        variance = (share * square).sum((0, 1)) / (1 - share.square().sum())
        mean_error = _error(number * share * (x - mean))
        sd = variance.sqrt().masked_fill(still, 0.0)
        sd_error = _error(number * share * (square - variance)) / (2 * sd)
        effective = (variance / mean_error.square()).clamp(max=number)
        found.append((mean, sd, mean_error, sd_error, effective))
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def _error(terms: Float[Tensor, "chain draw dim"]) -> PerParameter:
    """Monte-Carlo standard error of the mean of terms."""
    return terms.flatten(0, 1).std(0) / ess(terms, kind="mean").sqrt()


def _covariance(draws: Float[Tensor, "draw dim"], weights: Float[Tensor, " draw"], mean: Tensor) -> Tensor:
    share = weights / weights.sum()
    centred = draws - mean
    return (share[:, None] * centred).mT @ centred / (1 - share.square().sum())


def _root(covariance: Float[Tensor, "dim dim"]) -> Float[Tensor, "dim dim"]:
    """A with A Aᵀ the covariance, singular ones included."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt()


def _divergence(
    draws: Tensor,
    weights: Tensor,
    mean: PerParameter,
    sd: PerParameter,
    effective: PerParameter,
    laplace_mean: PerParameter,
    covariance: Tensor,
) -> dict[str, Any]:
    """Compute the KL in the most detail that the draws support: value, kind, value by chance, reason."""
    dim, still, least = len(mean), int((sd == 0).sum()), float(effective.min())
    if still or not least >= _LEAST_DRAWS:
        reason = f"{still} of {dim} parameters never moved" if still else f"there are only {least:.1f} effective draws"
        return {"kl": None, "kl_kind": None, "kl_by_chance": None, "kl_reason": reason}
    shift = mean - laplace_mean
    reason = f"marginals only: the covariance of {dim} parameters takes {_DRAWS_PER_PARAMETER * dim} effective draws, "
    reason += f"there are {least:.0f}"
    if least >= _DRAWS_PER_PARAMETER * dim:
        chain, info = torch.linalg.cholesky_ex(_covariance(draws.double().flatten(0, 1), weights.flatten(), mean))
        if int(info) == 0:
            factor = torch.linalg.cholesky(covariance.diag() if covariance.ndim == 1 else covariance)
            scaled = torch.linalg.solve_triangular(factor, torch.cat((chain, shift[:, None]), 1), upper=False)
            log_det = 2 * float((factor.diagonal() / chain.diagonal()).log().sum())
            typical = 1 / (1 / effective).mean()  # errors of a covariance's entries go with 1/n
            kl = 0.5 * (float(scaled.square().sum()) - dim + log_det)
            return {"kl": kl, "kl_kind": "full", "kl_by_chance": _by_chance(typical, dim), "kl_reason": ""}
        reason = "marginals only: the covariance of the draws is singular"
    variance = covariance if covariance.ndim == 1 else covariance.diagonal()
    terms = (sd.square() + shift.square()) / variance - 1 + (variance / sd.square()).log()
    chance = _by_chance(effective, 1)
    return {"kl": 0.5 * float(terms.sum()), "kl_kind": "diagonal", "kl_by_chance": chance, "kl_reason": reason}


def _by_chance(n: Float[Tensor, "..."], dim: int) -> float:
    """Expected KL of n independent draws' moments from the Gaussian that they come from, summed over `n`."""
    psi = torch.digamma((n[..., None] - torch.arange(1, dim + 1)) / 2).sum(-1)
    return 0.5 * float((dim / n + dim * ((n - 1) / 2).log() - psi).sum())
