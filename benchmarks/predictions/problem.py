"""The network, its prior, where chains start and how stiff the posterior is there.

One hidden layer of 50 ReLU units. Weights enter divided by the root of their fan-in, so that every weight and bias is
standard normal a priori: the function's prior is that of weights with variance 1/fan-in, and no layer is stiffer for
its width. The noise is Gaussian, its standard deviation σ one more parameter, log σ ~ N(−1, 1) in units of the target's
standard deviation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from langevin.diagnostics import Laplace
from langevin.samplers import SGHMC, Posterior, find_mode, heteroscedastic_gaussian, sample
from torch import Tensor, nn
from torch.distributions import Normal

from .data import Split

HIDDEN = 50
PRIOR = {"log_noise": Normal(-1.0, 1.0), "*": Normal(0.0, 1.0)}
NUM_CHAINS = 4
NUM_DRAWS = 250  # per chain
START_STEPS = 300  # of L-BFGS from a draw of the prior: into the basin, not to the bottom
MODE_STEPS = 3000
PILOT_DRAWS, PILOT_STIFFNESS, PILOT_MOMENTUM = 60, 0.5, 0.9

# Gradients of the full data that every chain may take, half of them for warm-up.
SMALL, MEDIUM, LARGE = 15_000, 8_000, 3_000


class Network(nn.Module):
    """Features ``[n, feature]`` → (mean, log σ) ``[n, 2]``."""

    def __init__(self, features: int):
        super().__init__()
        self.hidden, self.output = nn.Linear(features, HIDDEN), nn.Linear(HIDDEN, 1)
        self.log_noise = nn.Parameter(torch.tensor(-1.0))

    def forward(self, x: Tensor) -> Tensor:
        """(mean, log σ)."""
        hidden = torch.relu(self.hidden(x / self.hidden.in_features**0.5))
        mean = self.output(hidden / self.output.in_features**0.5)[..., 0]
        return torch.stack((mean, self.log_noise.expand_as(mean)), -1)


@dataclass(frozen=True, eq=False)
class Problem:
    """A split and its posterior, with what every method starts from.

    Attributes
    ----------
    split, posterior
        Data, and the target.
    seed
        Of starts and chains.
    """

    split: Split
    posterior: Posterior
    seed: int

    @classmethod
    def of(cls, split: Split, seed: int, like: Problem | None = None) -> Problem:
        """The posterior of one split; `like` is an earlier split of the same set.

        What was compiled for a posterior stays with it, so the data are put into the earlier one instead, which is of
        no use from then on: splits of a set have the same sizes.
        """
        if like is None:
            network = Network(split.x.shape[1])
            return cls(split, Posterior(network, heteroscedastic_gaussian, (split.x, split.y), prior=dict(PRIOR)), seed)
        like.posterior.inputs.copy_(split.x)
        like.posterior.targets.copy_(split.y)
        return cls(split, like.posterior, seed)

    @cached_property
    def modes(self) -> Tensor:
        """A point near a mode for every chain, ``[chain, dim]``, each found from its own draw of the prior.

        Chains that start apart cannot agree before they have forgotten where they came from, which is what R̂ looks at.
        """
        draws = self.posterior.prior_draw([1000 * self.seed + chain for chain in range(NUM_CHAINS)])
        return torch.stack([self._descend(draw, START_STEPS) for draw in draws])

    @cached_property
    def laplace(self) -> Laplace:
        """At the mode below the first of these points, with the Gauss–Newton curvature."""
        return self._laplace(self._descend(self.modes[0], MODE_STEPS))

    @cached_property
    def starts(self) -> Tensor:
        """Where chains start: the ends of a short run of SGHMC from `modes`.

        At a mode σ is far too small, for it fits the noise, and the posterior much stiffer than where its mass is.
        """
        stiffness = max(_stiffness(self._laplace(mode).precision / self.posterior.num_data) for mode in self.modes)
        chains = sample(
            self.posterior,
            SGHMC(lr=PILOT_STIFFNESS / stiffness, momentum=PILOT_MOMENTUM),
            num_samples=PILOT_DRAWS,
            thinning=thinning(self.posterior.num_data),
            num_chains=NUM_CHAINS,
            init=self.modes,
            seed=self.seed + 1000,
            compile=True,
            progress=False,
        )
        return chains.position(self.posterior)[:, -1]

    @cached_property
    def curvatures(self) -> list[Tensor]:
        """H, Gauss–Newton matrix of the mean cost C/N at every start, ``[dim, dim]`` in float64."""
        return [self._laplace(start).precision / self.posterior.num_data for start in self.starts]

    def stiffness(self, preconditioner: Callable[[Tensor], Tensor] | None = None) -> float:
        """Largest eigenvalue of H, or of M^½ H M^½ with M = `preconditioner(diag H)`, over the starts."""
        return max(
            _stiffness(H, None if preconditioner is None else preconditioner(H.diagonal())) for H in self.curvatures
        )

    def _laplace(self, position: Tensor) -> Laplace:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a start is no mode, and at kinks of ReLU no mode's gradient is zero
            return Laplace.fit(self.posterior, position)

    def _descend(self, start: Tensor, steps: int) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            return find_mode(self.posterior, init=start, num_steps=steps)


def gradients(num_data: int) -> int:
    """How many gradients of the full data a chain may take."""
    return SMALL if num_data < 900 else MEDIUM if num_data < 2000 else LARGE


def thinning(num_data: int) -> int:
    """Steps of a Langevin sampler for one draw."""
    return gradients(num_data) // 2 // NUM_DRAWS


def _stiffness(H: Tensor, M: Tensor | None = None) -> float:
    matrix = H if M is None else M.sqrt()[:, None] * H * M.sqrt()
    return float(torch.linalg.eigvalsh(matrix)[-1])
