"""TONGA, topmoumoute online natural gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..metrics.dense import cholesky, eigh
from ..schedules import Schedule, at_step, check_lr, check_positive
from ..target import Batch, Target
from ..threefry import Noise


@dataclass
class TONGAState:
    """State of every chain.

    Attributes
    ----------
    position
        ω.
    gradient, cost
        ĝ and the estimate of C that the last step was made with, at the position before it.
    rows, gram
        Xᵀ of C = XXᵀ, one row for each of the `rank` leading eigenvectors and then for each gradient since, rows to
        come being zero; and XᵀX.
    step
        Number of steps made.
    """

    position: Float[Tensor, "chain dim"]
    gradient: Float[Tensor, "chain dim"]
    cost: Float[Tensor, " chain"]
    rows: Float[Tensor, "chain row dim"]
    gram: Float[Tensor, "chain row row"]
    step: Int[Tensor, ""]


@dataclass(frozen=True, kw_only=True)
class TONGA:
    r"""Natural gradient with the second moments of past gradients (Le Roux, Manzagol & Bengio 2007).

    .. math:: C ← γ C + ĝ ĝ^T, \qquad ω ← ω − ε (C + λI)^{-1} ĝ

    C is not centred and holds the minibatch gradients themselves, as a sum. It is kept as C = XXᵀ with few columns, X ←
    [√γ X, ĝ], and cut to its leading eigenvectors, XᵀX = UΛUᵀ, X ← XUₖ, every `refresh_every` steps. As ĝ is a column
    of X, the last, (C + λI)⁻¹ĝ = X(XᵀX + λI)⁻¹e_d; the Gram matrix XᵀX gets one row a step, so that a step costs
    O(Dd + d³). (Duda's slides print XXᵀ for it.)

    Good for minibatches with many parameters. **Approximate** in what is cut off, and in that C is no curvature: it
    follows the size of gradients. Where they are below √λ it is gradient descent at learning rate ε/λ. A saddle
    attracts it.

    Parameters
    ----------
    lr
        ε, or a schedule. Where C is well above λ, steps are about ε(1−γ) over the norm of ĝ long.
    damping
        λ > 0, in squared units of the gradient of the mean cost.
    decay
        γ in (0, 1].
    rank
        Eigenvectors k that are kept.
    refresh_every
        Steps b between two truncations: X has d = k + b columns.

    Raises
    ------
    ValueError
        For settings out of range.
    """

    lr: float | Schedule
    damping: float
    decay: float = 0.995
    rank: int = 10
    refresh_every: int = 10

    gradient_at: ClassVar[str] = "previous"
    stats: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        check_lr(self.lr)
        check_positive(damping=self.damping, decay=self.decay)
        if self.decay > 1:
            raise ValueError(f"decay must lie in (0, 1], got {self.decay!r}")
        for name in ("rank", "refresh_every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number ≥ 1, got {value!r}")

    def init(self, target: Target, position: Float[Tensor, "chain dim"], num_warmup: int = 0) -> TONGAState:
        """Start every chain at its position, with C = 0."""
        (chains, dim), d = position.shape, self.rank + self.refresh_every
        return TONGAState(
            position=position.clone(),
            gradient=torch.zeros_like(position),
            cost=position.new_zeros(chains),
            rows=position.new_zeros(chains, d, dim),
            gram=position.new_zeros(chains, d, d),
            step=torch.zeros((), dtype=torch.int64, device=position.device),
        )

    def step(self, target: Target, state: TONGAState, batch: Batch, noise: Noise) -> TONGAState:
        """ω ← ω − ε X(XᵀX + λI)⁻¹e_d, X ← [√γ X, ĝ]."""
        ε, _ = at_step(self.lr, state.step)
        cost, ĝ = target.cost_and_gradient(state.position, batch)
        X, gram, γ = state.rows, state.gram, self.decay
        place = self.rank + int(state.step) % self.refresh_every
        if place == self.rank and int(state.step):  # all columns are taken
            X, gram = truncated(X, gram, self.rank)
        X, gram = with_row(γ**0.5 * X, γ * gram, ĝ, place)
        return TONGAState(
            position=state.position - ε * solve_row(X, gram, self.damping, place),
            gradient=ĝ,
            cost=cost,
            rows=X,
            gram=gram,
            step=state.step + 1,
        )


def with_row(
    rows: Float[Tensor, "chain row dim"],
    gram: Float[Tensor, "chain row row"],
    row: Float[Tensor, "chain dim"],
    place: int,
) -> tuple[Float[Tensor, "chain row dim"], Float[Tensor, "chain row row"]]:
    """X with a row in the place of one that is zero, and its Gram matrix, of which one row changes."""
    rows, gram = rows.clone(), gram.clone()
    rows[:, place] = row
    products = (rows @ row[..., None])[..., 0]
    gram[:, place], gram[:, :, place] = products, products
    return rows, gram


def truncated(
    rows: Float[Tensor, "chain row dim"], gram: Float[Tensor, "chain row row"], rank: int
) -> tuple[Float[Tensor, "chain row dim"], Float[Tensor, "chain row row"]]:
    """X ← XUₖ with the `rank` leading eigenvectors of XᵀX = UΛUᵀ, largest first, and zeros behind them."""
    values, vectors = eigh(gram)
    values, vectors = values.flip(-1)[..., :rank], vectors.flip(-1)[..., :rank]
    spare = rows.shape[1] - rank
    return (
        torch.nn.functional.pad(vectors.mT @ rows, (0, 0, 0, spare)),
        torch.nn.functional.pad(torch.diag_embed(values), (0, spare, 0, spare)),
    )


def solve_row(
    rows: Float[Tensor, "chain row dim"], gram: Float[Tensor, "chain row row"], damping: float, place: int
) -> Float[Tensor, "chain dim"]:
    """(C + λI)⁻¹g for the g that is this row: X(XᵀX + λI)⁻¹e, because g = Xe."""
    unit = torch.zeros_like(gram[..., :1])
    unit[:, place] = 1.0
    return (torch.cholesky_solve(unit, _factor(gram, damping)).mT @ rows)[:, 0]


def solve(
    rows: Float[Tensor, "chain row dim"],
    gram: Float[Tensor, "chain row row"],
    damping: float,
    vector: Float[Tensor, "chain dim"],
) -> Float[Tensor, "chain dim"]:
    """(C + λI)⁻¹v for any v: (v − X(XᵀX + λI)⁻¹Xᵀv)/λ."""
    inside = torch.cholesky_solve(rows @ vector[..., None], _factor(gram, damping))
    return (vector - (inside.mT @ rows)[:, 0]) / damping


def _factor(gram: Tensor, damping: float) -> Tensor:
    return cholesky(gram + damping * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device))
