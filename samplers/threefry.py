"""Counter-based random numbers: the same (seed, chain, step, index) always gives the same number.

``threefry2x32`` with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC'11) maps a
64-bit key and a 64-bit counter to 64 random bits. A chain's key is derived from the seed, the chain's number and the
purpose of the numbers; the counter is (step, index). Nothing is stored and nothing is shared, so a chain draws the
same numbers whether it runs alone, beside others, on another device or after a resume, and the generator runs inside
compiled code.

Words are held in ``int32`` tensors, whose addition and multiplication wrap modulo 2³² as the cipher needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
KEY_PARITY = 0x1BD11BDA

# What a chain's numbers are for; each purpose has a key of its own.
NOISE, BATCHES, INIT, MOMENTA = 0, 1, 2, 3

VECTOR = 16  # numbers that one instruction works on

# A step's normals are counted by index; the top three bits of the index tell independent streams of one step apart.
MAX_STREAMS = 8
STREAM_SIZE = 2**32 // MAX_STREAMS


def _rotate_left(word: Tensor, bits: int) -> Tensor:
    # int32 shifts right arithmetically: the mask drops the copies of the sign bit.
    return (word << bits) | ((word >> (32 - bits)) & ((1 << bits) - 1))


def _signed(word: int) -> int:
    """Two's complement of an unsigned 32-bit word."""
    return word - 2**32 if word >= 2**31 else word


def threefry2x32(
    key: tuple[Int[Tensor, "..."], Int[Tensor, "..."]], counter: tuple[Int[Tensor, "..."], Int[Tensor, "..."]]
) -> tuple[Int[Tensor, "..."], Int[Tensor, "..."]]:
    """Encrypt a counter: the 20-round Threefry-2x32 of Random123, elementwise on broadcastable int32 tensors."""
    keys = (key[0], key[1], key[0] ^ key[1] ^ KEY_PARITY)
    x0, x1 = counter[0] + keys[0], counter[1] + keys[1]
    for block in range(5):
        for rotation in ROTATIONS[:4] if block % 2 == 0 else ROTATIONS[4:]:
            x0 = x0 + x1
            x1 = _rotate_left(x1, rotation) ^ x0
        x0 = x0 + keys[(block + 1) % 3]
        x1 = x1 + keys[(block + 2) % 3] + (block + 1)
    return x0, x1


def chain_keys(seed: int, chain_ids: Int[Tensor, " chain"], purpose: int) -> Int[Tensor, "chain 2"]:
    """Derive one 64-bit key per chain.

    Parameters
    ----------
    seed
        Non-negative, below 2⁶⁴.
    chain_ids
        The chains' numbers, which alone (with the seed) decide what they draw.
    purpose
        `NOISE`, `BATCHES`, `INIT` or `MOMENTA`.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be an integer in [0, 2**64), got {seed}")
    chain = chain_ids.to(torch.int32)
    low, high = (torch.full_like(chain, _signed((seed >> shift) & 0xFFFFFFFF)) for shift in (0, 32))
    return torch.stack(threefry2x32((low, high), (chain, torch.full_like(chain, purpose))), -1)


def words(
    keys: Int[Tensor, "row 2"], step: Int[Tensor, "..."], count: int, stream: int = 0
) -> Int[Tensor, "row count"]:
    """Draw `count` random 32-bit words for each row, at one step (0-d) or at one step per row."""
    _check_count(count)
    half = (count + 1) // 2
    index = torch.arange(half, dtype=torch.int32, device=keys.device)
    step, index = _counter(step, index, stream)
    if half < VECTOR and keys.shape[0] > half:  # vector instructions work along the last dimension
        first, second = threefry2x32((keys[:, 0], keys[:, 1]), (step.squeeze(-1), index[:, None]))
        return torch.cat((first, second)).T[:, :count]
    first, second = threefry2x32((keys[:, :1], keys[:, 1:]), (step, index))
    return torch.cat((first, second), -1)[:, :count]


def _check_count(count: int) -> None:
    if count > 2 * STREAM_SIZE:
        raise ValueError(f"one step can draw at most {2 * STREAM_SIZE} numbers per stream, asked for {count}")


def _counter(step: Int[Tensor, "..."], index: Int[Tensor, " count"], stream: int) -> tuple[Tensor, Tensor]:
    """The 64-bit counter (step, index) of a stream, for one step (0-d) or one step per row."""
    step = step.to(torch.int32)
    return step[..., None], (index + _signed(stream * STREAM_SIZE) if stream else index)


def to_uniform(word: Int[Tensor, "..."], dtype: torch.dtype) -> Float[Tensor, "..."]:
    """Map words to (0, 1]; 31 bits are used, so that small values keep their relative precision."""
    return ((word & 0x7FFFFFFF).to(dtype) + 0.5) * 2.0**-31


def normals(
    keys: Int[Tensor, "row 2"], step: Int[Tensor, "..."], dim: int, dtype: torch.dtype, stream: int = 0
) -> Float[Tensor, "row dim"]:
    """Draw standard normal numbers by the Box–Muller transform; the largest possible magnitude is 6.7."""
    half = (dim + 1) // 2
    word = words(keys, step, 2 * half, stream)
    radius = torch.sqrt(-2.0 * torch.log(to_uniform(word[:, :half], dtype)))
    angle = (2.0 * math.pi) * to_uniform(word[:, half:], dtype)
    return torch.cat((radius * torch.cos(angle), radius * torch.sin(angle)), -1)[:, :dim]


def normals_in_one_pass(
    keys: Int[Tensor, "row 2"], step: Int[Tensor, "..."], dim: int, dtype: torch.dtype, stream: int = 0
) -> Float[Tensor, "row dim"]:
    """The numbers of `normals` by one expression for every element, which compiles to one pass that an update joins.

    The second half, r sin a = r cos(a − π/2), encrypts its counters anew: cheaper than memory for the first half's.
    """
    _check_count(dim)
    half = (dim + 1) // 2
    place = torch.arange(dim, dtype=torch.int32, device=keys.device)
    second = place >= half
    counter = _counter(step, torch.where(second, place - half, place), stream)
    pair = threefry2x32((keys[:, :1], keys[:, 1:]), counter)
    angle = (2.0 * math.pi) * to_uniform(pair[1], dtype) - (math.pi / 2) * second.to(dtype)
    return torch.sqrt(-2.0 * torch.log(to_uniform(pair[0], dtype))) * torch.cos(angle)


@dataclass(frozen=True)
class Noise:
    """The random numbers of one step of every chain.

    Attributes
    ----------
    keys
        Noise keys of the chains, `[chain, 2]`.
    step
        Number of the step, 0-d.
    dtype
        Floating-point type of what is drawn.
    """

    keys: Int[Tensor, "chain 2"]
    step: Int[Tensor, ""]
    dtype: torch.dtype

    def normal(self, dim: int, stream: int = 0) -> Float[Tensor, "chain dim"]:
        """Standard normal numbers; `stream` (0 to 7) tells independent draws of one step apart."""
        draw = normals_in_one_pass if torch.compiler.is_compiling() else normals
        return draw(self.keys, self.step, dim, self.dtype, stream)

    def uniform(self, dim: int = 1, stream: int = 0) -> Float[Tensor, "chain dim"]:
        """Numbers in (0, 1]. Do not use one stream for uniform and normal numbers of the same step."""
        return to_uniform(words(self.keys, self.step, dim, stream), self.dtype)

    def rademacher(self, dim: int, stream: int = 0) -> Float[Tensor, "chain dim"]:
        """Signs, −1 or +1 with equal probability."""
        return 1.0 - 2.0 * (words(self.keys, self.step, dim, stream) & 1).to(self.dtype)
