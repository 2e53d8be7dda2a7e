"""Minibatches without replacement, from a keyed permutation evaluated where it is needed.

The numbers 0 … N−1 are encrypted by a Feistel network on Z_a × Z_b, ab ≥ N, whose round keys come from (seed, chain,
step); results of N or more are encrypted again until they fall below N (cycle walking; Black & Rogaway 2002, "Ciphers
with arbitrary finite domains", CT-RSA). A batch of B is the image of 0 … B−1: O(B) work whatever N is, no state and
no shuffled copy of the data. Each pair of rounds divides what is left of the input's order by min(a, b); the number
of rounds is chosen so that less than 10⁻⁶ of it, relative to a uniform pair distribution, remains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from .control import while_loop
from .threefry import words

MAX_DATA = 2**40  # a and b stay below 2²⁰ or so, where products with 24-bit fractions are exact in float32
RESIDUAL = 1e-6


def domain(num_data: int) -> tuple[int, int]:
    """Choose a ≤ b with ab ≥ N and as little excess as possible, so that cycle walking is rare."""
    root = math.isqrt(num_data)
    if num_data < 3:
        return 1, num_data
    best, least = (0, 0), num_data
    for a in range(max(2, root), max(2, root // 2) - 1, -1):  # the squarest first
        b = -(-num_data // a)
        if a * b - num_data < least:
            best, least = (a, b), a * b - num_data
    return best


def num_rounds(a: int) -> int:
    """Even number of rounds after which the residual order is below `RESIDUAL`."""
    return 2 * math.ceil(-math.log(RESIDUAL) / math.log(max(a, 2)))


def _round_function(half: Tensor, key: Tensor, size: int) -> Tensor:
    """Hash to 0 … size−1: multiply, xor-shift, multiply; the top 24 bits scaled to the range."""
    mixed = (half ^ key) * 0x21F0AAAD
    mixed = (mixed ^ ((mixed >> 15) & 0x1FFFF)) * -0x2A6E9F09
    return (((mixed >> 8) & 0xFFFFFF).to(torch.float32) * (size / 2**24)).to(torch.int32)


def permute(
    index: Int[Tensor, "row batch"], keys: Int[Tensor, "row 2"], step: Int[Tensor, "..."], num_data: int
) -> Int[Tensor, "row batch"]:
    """Send `index` through the permutation of 0 … N−1 that belongs to each row's key and step."""
    if not 1 <= num_data <= MAX_DATA:
        raise ValueError(f"num_data must lie in [1, 2**40], got {num_data}")
    a, b = domain(num_data)
    rounds = num_rounds(min(a, b))
    round_keys = words(keys, step, rounds)

    def encrypt(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        size, other = a, b
        for r in range(rounds):
            left = left + _round_function(right, round_keys[:, r : r + 1], size)
            left = torch.where(left >= size, left - size, left)
            left, right, size, other = right, left, other, size
        return left, right  # an even number of rounds: halves and sizes are back in place

    wide = torch.int64 if a * b >= 2**31 else torch.int32
    left = torch.div(index, b, rounding_mode="floor").to(torch.int32)
    right = (index % b).to(torch.int32)
    left, right = encrypt(left, right)

    def outside(left: Tensor, right: Tensor) -> Tensor:
        return left.to(wide) * b + right >= num_data

    def walk(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        out = outside(left, right)
        next_left, next_right = encrypt(left, right)
        return torch.where(out, next_left, left), torch.where(out, next_right, right)

    if a * b > num_data:
        first = outside(left, right)
        walked = while_loop(lambda *halves: outside(*halves).any(), walk, (left, right))
        # A compiled loop that makes no turn returns its inputs, whose memory the compiler has by then given to others
        # unless they are still in use: read them here, at the same time.
        left, right = (torch.where(first, *halves) for halves in zip(walked, (left, right), strict=True))
    return (left.to(wide) * b + right).to(torch.int64)


@dataclass(frozen=True)
class Batches:
    """Which examples each chain looks at, at each step.

    Attributes
    ----------
    num_data, batch_size
        N and B ≤ N.
    order
        ``"independent"``: a fresh draw without replacement at every step, for which the covariance of the mean
        gradient is (1/B)(1 − B/N) Σ. ``"epoch"``: sweeps through reshuffled data; successive gradient noises are then
        anti-correlated and heat the chain several times less than independent ones (so N/B and lr no longer give its
        temperature).
    """

    num_data: int
    batch_size: int
    order: str = "independent"

    def __post_init__(self):
        if not 1 <= self.batch_size <= self.num_data:
            raise ValueError(
                f"batch_size must lie in [1, N] with N = {self.num_data} examples, got {self.batch_size}; "
                "use batch_size=None for the full data at every step"
            )
        if self.order not in ("independent", "epoch"):
            raise ValueError(f'batches must be "independent" or "epoch", got {self.order!r}')

    def indices(self, keys: Int[Tensor, "row 2"], step: Int[Tensor, "..."]) -> Int[Tensor, "row batch"]:
        """Indices of the examples for each row, at one step (0-d) or one step per row."""
        rows = keys.shape[0]
        place = torch.arange(self.batch_size, dtype=torch.int32, device=keys.device).expand(rows, -1)
        if self.order == "independent":
            return permute(place, keys, step, self.num_data)
        # The sweep goes on where the last batch ended: a batch can straddle two epochs, never more.
        place = place + (step.to(torch.int64) * self.batch_size).reshape(-1, 1)
        epoch = torch.div(place, self.num_data, rounding_mode="floor")
        offset = place - epoch * self.num_data
        first = epoch[:, 0].expand(rows)
        this, following = (permute(offset, keys, first + shift, self.num_data) for shift in (0, 1))
        return torch.where(epoch == first[:, None], this, following)

    def ahead(self, keys: Int[Tensor, "row 2"], first: Int[Tensor, ""], count: int) -> Int[Tensor, "step row batch"]:
        """Indices for each row at `count` steps from the first on, in one go."""
        rows = keys.shape[0]
        steps = (first + torch.arange(count, device=keys.device)).repeat_interleave(rows)
        return self.indices(keys.repeat(count, 1), steps).unflatten(0, (count, rows))
