"""The Fisher information as a metric."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp, vjp, vmap

from .. import data as data_
from ..averages import newest_weight
from ..batches import Batches
from ..control import choose
from ..likelihoods import without_validation
from ..posterior import Posterior
from ..target import Target
from ..threefry import Noise
from .dense import DenseCurvature, gram
from .diagonal import DiagonalCurvature
from .kronecker import KroneckerCurvature
from .labels import draw_labels
from .layers import Layers, Signals, complete_layers, layers_of
from .low_rank import LowRankCurvature
from .metric import Curvature, MetricValue, no_noise
from .quasi_diagonal import QuasiDiagonalCurvature
from .rows import chunks_of, exact_directions, rows_of, score_directions, take_chunk
from .settings import Kind, Structure, check_settings

_INPUTS_KEY = 0x3C6EF372  # inputs are drawn independently of the gradient's minibatch


@dataclass
class Memory:
    """What a Fisher metric that averages or refreshes carries along.

    Attributes
    ----------
    value
        G as it is used until the next refresh.
    average
        The moving average of F; () without one.
    updates
        How many estimates went in, for each chain the same.
    """

    value: MetricValue
    average: Curvature | tuple[()]
    updates: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Fisher:
    r"""The Fisher information of the model's outputs plus damping, G = F + δI.

    .. math:: F(ω) = \frac1N \sum_i \mathbb{E}_{y ∼ p(·|x_i, ω)} [∇L ∇L^T] = \frac1N \sum_i J_i^T H_i J_i

    with Jᵢ the derivative of the outputs for input i and Hᵢ the Fisher information of their distribution (Amari 1998;
    Martens 2014). The prior has no part in it.

    Parameters
    ----------
    kind
        ``"exact"``: the expectation over labels, in closed form from `likelihood.fisher`. ``"sampled"``: labels drawn
        from the model at the present ω, an unbiased estimate. ``"empirical"``: the observed labels (Smith et al. 2018,
        Eq. 10), which is not the Fisher information away from the truth.
    structure
        ``"dense"``; ``"low_rank"``: the leading `rank` eigenvectors (TONGA, Le Roux et al. 2007). **Approximations** of
        F: ``"diagonal"``; ``"quasi_diagonal"``: every weight with the bias of its unit, weights independent given it
        (Marceau-Caron & Ollivier 2017); ``"kronecker"``: S⊗A for each layer, the second moments of its output gradients
        and of its inputs (K-FAC, Martens & Grosse 2015), which neglects covariance between layers, between inputs and
        gradients, and between the positions of a convolution. Of the last two, parameters outside of linear and
        two-dimensional convolution layers get the diagonal.
    damping
        δ ≥ 0. It cools directions whose curvature is not well above it, see `NGD`.
    inputs
        Over which inputs to average: None, all of the data; a number n, as many drawn anew at every step, independently
        of the gradient's minibatch; or inputs, in the form of the posterior's.
    average
        Coefficient c in (0, 1) of a moving average over steps, F ← cF + (1−c)F̂, begun as a plain mean; of
        ``"kronecker"``, S and A are averaged, each by itself. Such a metric depends on the past, which no drift
        corrects: it is frozen when warm-up ends (see `freeze`).
    refresh_every
        Evaluate F at every k-th step only. The metric is then up to k − 1 steps old, an O(ε) error.
    num_labels
        Labels drawn for each input, for ``kind="sampled"``.
    centered
        Subtract the mean gradient (divisor n − 1), for ``kind="empirical"``: the covariance Σ of the gradients, the
        metric for which minibatch noise is a temperature whether or not the model is right.
    rank
        Rank of ``structure="low_rank"``; None for all rows.
    freeze
        Whether an averaged metric stays as it is after warm-up. False is an **approximation**: the law is then only
        close to π where the average is slow or the gradient noise dominates.

    Notes
    -----
    **Exact** up to rounding for ``kind="exact"``, ``structure="dense"`` over all inputs. Fewer inputs or sampled labels
    make the metric random: with injected noise the law is that of the mean of G⁻¹; minibatch noise is heated by about
    m(m−1)/((m−D)(m−D−3)) for m rows in D dimensions at δ = 0.

    A dense Fisher of fewer rows than parameters is solved in the space of the rows.

    Raises
    ------
    ValueError
        For settings out of range; when sampling begins, for a target without inputs, a singular F without damping, and
        for a drift or measure that this metric cannot have.
    """

    kind: Kind = "exact"
    structure: Structure = "dense"
    damping: float = 0.0
    inputs: Any = None
    average: float | None = None
    refresh_every: int = 1
    num_labels: int = 1
    centered: bool = False
    rank: int | None = None
    freeze: bool = True

    def __post_init__(self):
        check_settings(self)

    @property
    def constant(self) -> bool:
        """False."""
        return False

    def check(self, target: Target, drift: str, measure: str, num_warmup: int | None) -> None:
        """Refuse what this Fisher metric cannot do, and name what can."""
        if not isinstance(target, Posterior):
            raise ValueError(
                f"a Fisher metric needs a Posterior, whose outputs have a distribution; for {type(target).__name__} "
                "use MetricFunction(G) or ConstantMetric(matrix)"
            )
        if isinstance(self.inputs, int) and self.inputs > target.num_data:
            raise ValueError(f"inputs = {self.inputs} is more than the data has, {target.num_data}")
        if self.average is not None and drift != "none":
            raise NotImplementedError(
                f'drift="{drift}" is for a metric of the present position; one that averages over past steps has no '
                'such drift (algorithms page): use drift="none" with it, or average=None'
            )
        if self.average is not None and self.freeze and num_warmup == 0:
            raise ValueError(
                "an averaged metric is frozen when warm-up ends, and there is no warm-up: give num_warmup or "
                "freeze=False"
            )
        if self.refresh_every > 1 and drift == "midpoint":
            raise NotImplementedError(
                'drift="midpoint" evaluates the metric twice a step; with refresh_every > 1 use drift="probe", '
                '"exact" or "none"'
            )
        if measure == "jeffreys" and self.kind == "empirical":
            raise ValueError(
                "the Jeffreys measure is the Fisher information's root determinant; that of an empirical Fisher "
                'depends on the labels and would count them twice: use kind="exact", or measure="lebesgue"'
            )
        if measure == "jeffreys" and isinstance(self.inputs, int):
            raise NotImplementedError(
                "the Jeffreys factor of a metric over inputs drawn anew at every step has no unbiased gradient: use "
                'inputs=None, or as many fixed inputs (a tensor), or measure="lebesgue"'
            )
        kind, smooth = self._kind(target), self.rank is None or self.structure != "low_rank"
        if kind == "sampled" and self.kind == "exact":
            warnings.warn(
                f"the likelihood {target.likelihood!r} has no `fisher(outputs)`: the Fisher information is estimated "
                f'from {self.num_labels} sampled label(s) per input, as with kind="sampled"',
                stacklevel=4,  # whoever called `sample`
            )
        if (kind == "sampled" or not smooth) and (drift in ("exact", "probe") or measure == "jeffreys"):
            what = (
                "labels drawn at ω change with it by jumps" if kind == "sampled" else "truncated eigenvectors can swap"
            )
            raise NotImplementedError(
                f'{what}: drift="{drift}" with measure="{measure}" needs derivatives that this metric does not have; '
                'use drift="midpoint" or "none" with measure="lebesgue", or ' + self._smooth_alternative(kind)
            )
        if self.structure in ("quasi_diagonal", "kronecker"):
            self._check_layers(target)
        if self.damping == 0:
            self._check_regular(target)

    def _smooth_alternative(self, kind: Kind) -> str:
        if kind != "sampled":
            return "rank=None"
        return 'kind="exact"' if self.kind == "sampled" else "a likelihood with a method `fisher(outputs)`"

    def _check_layers(self, target: Posterior) -> None:
        layers = layers_of(target)
        if not layers.layers:
            raise ValueError(
                f'structure="{self.structure}" is for sampled weights and biases of nn.Linear and nn.Conv2d (one '
                'group, padded with zeros) used once in a forward pass, and this model has none: use "diagonal"'
            )
        if self.structure == "kronecker" and layers.outside:
            warnings.warn(
                f"{list(layers.outside)} are outside of the layers that K-FAC is for and get a diagonal Fisher",
                stacklevel=5,
            )

    def _check_regular(self, target: Posterior) -> None:
        """Refuse a Fisher that is singular at the target's own position up to rounding."""
        position, noise = target.default_position()[None], no_noise(target)
        curvature = self.curvature(target, position, noise)
        if isinstance(curvature, DenseCurvature):
            if target.dim > 2000:
                return
            values = torch.linalg.eigvalsh(curvature.matrix[0].double())
        elif isinstance(curvature, LowRankCurvature):  # fewer rows than parameters
            values = torch.stack((position.new_zeros(()), curvature.rows.square().sum()))
        elif isinstance(curvature, QuasiDiagonalCurvature):
            values = curvature.damped(0.0).pivots
        elif isinstance(curvature, KroneckerCurvature):
            values = curvature.damped(0.0).eigenvalues
        else:
            assert isinstance(curvature, DiagonalCurvature)
            values = curvature.diagonal
        values = values.nan_to_num(0.0)
        smallest, largest = float(values.min()), float(values.max())
        if smallest <= target.dim * torch.finfo(target.dtype).eps * largest:
            raise ValueError(
                f"the Fisher information is singular where the target starts: eigenvalues from {smallest:.3g} to "
                f"{largest:.3g}; give it damping, such as damping={max(1e-3 * largest, 1e-12):.1g}"
            )

    def at(self, target: Target, position: Float[Tensor, "chain dim"], noise: Noise) -> MetricValue:
        """F(ω) + δI, factorised."""
        return self.curvature(target, position, noise).damped(self.damping)

    def product(
        self, target: Target, position: Float[Tensor, "chain dim"], noise: Noise, vector: Float[Tensor, "chain dim"]
    ) -> Float[Tensor, "chain dim"]:
        """G(ω) v; of a dense F without ever forming it."""
        assert isinstance(target, Posterior)
        if self.structure == "quasi_diagonal":  # δ is part of what couples the weights of a unit
            return self.at(target, position, noise).multiply(vector)
        if self.structure != "dense" or self._kind(target) == "sampled":
            return self.curvature(target, position, noise).multiply(vector) + self.damping * vector
        inputs, targets, shared = self._examples(target, noise)

        def outputs_at(at: Tensor) -> Tensor:
            return target.outputs(at, inputs, shared)

        def costs_at(at: Tensor) -> Tensor:
            outputs = outputs_at(at)
            with without_validation():
                log_prob = vmap(lambda o, y: target.likelihood(o).log_prob(y), in_dims=(0, None if shared else 0))
                return -log_prob(outputs, targets).reshape(*outputs.shape[:2], -1).sum(-1)

        function = outputs_at if self.kind == "exact" else costs_at
        value, along = jvp(function, (position,), (vector,))  # pyright: ignore[reportAssignmentType]
        if self.kind == "exact":
            divisor, along = value.shape[1], _times_information(target, value, along)
        elif self.centered:
            divisor, along = value.shape[1] - 1, along - along.mean(1, keepdim=True)
        else:
            divisor = value.shape[1]
        return vjp(function, position)[1](along)[0] / divisor + self.damping * vector

    def curvature(self, target: Target, position: Float[Tensor, "chain dim"], noise: Noise) -> Curvature:
        """F(ω) in its structure, not yet damped."""
        assert isinstance(target, Posterior)
        inputs, targets, shared = self._examples(target, noise)
        outputs, pull_back = vjp(lambda at: target.outputs(at, inputs, shared), position)  # pyright: ignore[reportAssignmentType]
        directions = self._directions(target, outputs, targets, noise)
        size, num_directions = directions.shape[1:3]
        directions = directions / (size - 1 if self.centered else size) ** 0.5
        mean_row = pull_back(directions[:, :, 0])[0][:, None] / size if self.centered else 0.0
        # A dense F of few rows stays as rows: solving in their space is cheaper than in that of the parameters.
        as_rows = self.structure == "low_rank" or (
            self.structure == "dense" and size * num_directions < target.dim and self.average is None
        )

        without_rows = self.structure in ("dense", "diagonal", "quasi_diagonal") and not (self.centered or as_rows)
        layers = complete_layers(target) if without_rows else None

        def of_chunk(inputs: Any, directions: Tensor) -> Curvature:
            if self.structure == "kronecker":
                return _kronecker(target, position, inputs, directions, shared, size)
            if layers is not None:
                return _without_rows(
                    self.structure, layers, layers.signals(target, position, inputs, directions, shared)
                )
            rows = rows_of(target, position, inputs, directions, shared) - mean_row
            if as_rows:
                return LowRankCurvature(rows)
            if self.structure == "dense":
                return DenseCurvature(gram(rows))
            if self.structure == "quasi_diagonal":
                return QuasiDiagonalCurvature.of_rows(rows, layers_of(target).bias_of)
            return DiagonalCurvature(rows.square().sum(1))

        chunks = chunks_of(size, len(position) * num_directions * target.dim, position.device)
        parts = [of_chunk(*take_chunk(inputs, directions, chunk, shared)) for chunk in chunks]
        total = functools.reduce(lambda one, other: one.plus(other), parts)
        return total.truncated(self.rank) if isinstance(total, LowRankCurvature) and self.rank else total

    def _directions(
        self, posterior: Posterior, outputs: Float[Tensor, "chain batch ..."], targets: Tensor | None, noise: Noise
    ) -> Float[Tensor, "chain batch direction ..."]:
        kind = self._kind(posterior)
        if kind == "exact":
            return exact_directions(posterior, outputs)
        if kind == "sampled":
            return score_directions(posterior, outputs, draw_labels(posterior, outputs, noise, self.num_labels))
        assert targets is not None
        own = targets if targets.ndim > posterior.targets.ndim else targets.expand(len(outputs), *targets.shape)
        return score_directions(posterior, outputs, own[:, None])

    def _kind(self, posterior: Posterior) -> Kind:
        known = hasattr(posterior.likelihood, "fisher")
        return "sampled" if self.kind == "exact" and not known else self.kind

    def _examples(self, posterior: Posterior, noise: Noise) -> tuple[Any, Tensor | None, bool]:
        """Inputs, targets where there are any, and whether chains share them."""
        if self.inputs is None:
            return posterior.inputs, posterior.targets, True
        if isinstance(self.inputs, int):
            step = noise.step - noise.step % self.refresh_every  # the drift needs the inputs of the metric it is for
            index = Batches(posterior.num_data, self.inputs).indices(noise.keys ^ _INPUTS_KEY, step)
            return data_.take(posterior.inputs, index), posterior.targets[index], False
        return data_.cast(self.inputs, posterior.device, posterior.dtype), None, True

    def remember(self, target: Target, position: Float[Tensor, "chain dim"]) -> Memory | tuple[()]:
        """Shapes of what is carried along, filled at the start."""
        if self.average is None and self.refresh_every == 1:
            return ()
        curvature = self.curvature(target, position, no_noise(target, len(position)))
        average = () if self.average is None else curvature
        return Memory(curvature.damped(self.damping), average, torch.zeros((), dtype=torch.int64, device=target.device))

    def recall(
        self, target: Target, position: Float[Tensor, "chain dim"], noise: Noise, memory: Any, warming: Tensor
    ) -> tuple[MetricValue, Any]:
        """G for this step: F at the present position, or as old as `average` and `refresh_every` say."""
        if memory == ():
            return self.at(target, position, noise), memory
        due = noise.step % self.refresh_every == 0
        if self.average is not None and self.freeze:
            due = due & warming

        def refreshed() -> Memory:
            curvature, average = self.curvature(target, position, noise), ()
            if self.average is not None:
                weight = newest_weight(memory.updates, self.average).to(position)
                average = curvature = memory.average.scaled(1 - weight).plus(curvature.scaled(weight))
                if isinstance(average, LowRankCurvature):
                    assert self.rank is not None
                    average = curvature = average.truncated(self.rank)
            return Memory(curvature.damped(self.damping), average, memory.updates + 1)

        memory = choose(due, refreshed, memory)
        return memory.value, memory


def _without_rows(structure: Structure, layers: Layers, signals: Signals) -> Curvature:
    """Sums over rows from the layers' inputs and output gradients, as far as possible without ever forming the rows."""
    if structure == "dense":
        return DenseCurvature(layers.gram(signals) if layers.gram_pays(signals) else gram(layers.rows(signals)))
    diagonal, border = layers.moments(signals)
    if structure == "diagonal":
        return DiagonalCurvature(diagonal)
    return QuasiDiagonalCurvature(diagonal, border, layers.bias_of.expand_as(diagonal))


def _times_information(posterior: Posterior, outputs: Tensor, vector: Tensor) -> Tensor:
    """Hᵢ z for each example."""
    information = posterior.likelihood.fisher(outputs)  # pyright: ignore[reportFunctionMemberAccess]
    if information.shape == outputs.shape:
        return information * vector
    return (information @ vector[..., None])[..., 0]


def _kronecker(
    posterior: Posterior, position: Tensor, inputs: Any, directions: Tensor, shared: bool, size: int
) -> KroneckerCurvature:
    """The share of these of `size` examples in S, A and the diagonal of parameters outside of layers."""
    layers, outside = layers_of(posterior), position.new_zeros(len(position), 0)
    if layers.outside:
        first = sum(layer.index().numel() for layer in layers.layers)
        rows = rows_of(posterior, position, inputs, directions, shared)
        outside = rows[..., layers.order[first:]].square().sum(1)
    signals = layers.signals(posterior, position, inputs, directions, shared)
    return KroneckerCurvature.of_signals(layers, signals, outside, size)
