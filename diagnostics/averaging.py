"""Whatever predicts, as one thing: ensembles of draws, points, and linearised models."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from ..samplers import data as data_
from ..samplers.chains import Chains
from ..samplers.likelihoods import GaussianLikelihood
from ..samplers.posterior import Posterior
from . import mixture
from .ensemble import Approximation, Ensemble
from .grouped import GroupedDraws
from .laplace import Laplace
from .laplace_fit import check_examples
from .laplace_predictive import averages
from .mixture import Averages

Predictor = Ensemble | Chains | Laplace | Approximation | Tensor

_LINEARISED_DRAWS = 1000


class Linearised:
    """`Laplace.predict` with the methods of `GroupedDraws`: one group, without a Monte-Carlo error."""

    num_draws = 0

    def __init__(self, laplace: Laplace, num_draws: int, seed: int):
        self.posterior = check_examples(laplace.target, "prediction")
        self._laplace, self._drawn, self._seed = laplace, num_draws, seed

    @property
    def shares(self) -> Float[Tensor, " group"]:
        """One group."""
        return torch.ones(1, dtype=torch.float64, device=self.posterior.device)

    def rows(self, chunk: int) -> int:
        """As many as are asked for; Jacobians are taken a few at a time."""
        return chunk

    def averages(self, inputs: data_.Inputs, targets: Tensor | None, chunk: int) -> tuple[Averages, list[Averages]]:
        """Of the linearised model; there is nothing to leave out."""
        outputs = self._laplace.linearised(inputs)
        return averages(outputs, self.posterior, targets, "auto", self._drawn, self._seed), []

    def group_averages(self, inputs: data_.Inputs, targets: Tensor | None, chunk: int) -> list[Averages]:
        """Of the one group."""
        return [self.averages(inputs, targets, chunk)[0]]

    def group_cells(self, inputs: data_.Inputs, edges: Tensor, chunk: int) -> list[Tensor]:
        """Of the one group, for Gaussian noise."""
        if not isinstance(self.posterior.likelihood, GaussianLikelihood):
            raise NotImplementedError(
                f"the distribution function of a linearised model is known for gaussian(scale), not for "
                f"{self.posterior.likelihood!r}: give Ensemble(posterior, laplace) instead of the Laplace"
            )
        whole, _ = self.averages(inputs, None, chunk)
        law = Normal(whole["mean"][None], (whole["epistemic"] + whole["aleatoric"]).sqrt()[None], validate_args=False)
        return [mixture.cells([(law, self.shares)], edges)]


Averaging = GroupedDraws | Linearised


def prepare(predictor: Predictor, posterior: Posterior, num_draws: int | None, seed: int) -> Averaging:
    """The draws of what can be averaged over, or the linearised model of a `Laplace`."""
    if isinstance(predictor, Laplace):
        return Linearised(predictor, num_draws or _LINEARISED_DRAWS, seed)
    if isinstance(predictor, Ensemble):
        size = predictor.grouped.num_draws
        if num_draws is not None and size > num_draws:
            raise ValueError(
                f"an ensemble of {size} draws is not one of {num_draws}: give what it was made of, or make it with "
                f"num_draws={num_draws}"
            )
        return predictor.grouped
    if isinstance(predictor, Tensor) and predictor.ndim == 1:
        predictor = predictor[None]
    return Ensemble(posterior, predictor, num_draws, seed).grouped
