"""How code runs: loops that can be compiled, and how many threads a computation is worth."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop as _traced_while_loop

from .tree import leaves, rebuild, spec_of

Carry = tuple[Tensor, ...]

# Parameters × examples × chains of a step, below which threads wait for one another more than they help; within a
# factor of FAR it depends on the model, and is worth measuring.
PARALLEL_WORK, FAR = 5_000_000, 10
GAIN = 0.9  # of the time on one thread, above which several are not worth their cores


@contextlib.contextmanager
def threads_for(work: int, device: torch.device, time_step: Callable[[], float] | None = None) -> Iterator[None]:
    """Use one CPU thread for steps of little work (parameters × examples × chains), and as many as before after.

    With `time_step`, steps that are neither far too small nor far too large for one thread are timed on one and on all.
    """
    before = torch.get_num_threads()
    try:
        if device.type == "cpu" and before > 1:
            if time_step is None or not PARALLEL_WORK / FAR <= work < PARALLEL_WORK * FAR:
                several = work >= PARALLEL_WORK
            else:
                on_all = time_step()
                torch.set_num_threads(1)
                several = on_all < GAIN * time_step()
            torch.set_num_threads(before if several else 1)
        yield
    finally:
        torch.set_num_threads(before)


def while_loop(condition: Callable[..., Tensor], body: Callable[..., Carry], carry: Carry) -> Carry:
    """Run `carry = body(*carry)` while `condition(*carry)`, a 0-d boolean tensor, holds.

    In code under `torch.compile` the loop becomes one operator, whose body may not return one of its inputs unchanged
    and must keep shapes and types. In eager code the condition is read at every turn, which waits for a GPU.
    """
    if torch.compiler.is_compiling():
        return _traced_while_loop(condition, body, carry)
    while condition(*carry):
        carry = body(*carry)
    return carry


def choose(condition: Tensor, change: Callable[[], Any], otherwise: Any) -> Any:
    """`change()` if a 0-d condition holds, else the tree `otherwise`; compiled code computes both."""
    if torch.compiler.is_compiling():
        pairs = zip(leaves(change()), leaves(otherwise), strict=True)
        return rebuild(spec_of(otherwise), [torch.where(condition, new, old) for new, old in pairs])
    return change() if condition else otherwise


def write_row(buffer: Tensor, row: Tensor, value: Tensor) -> Tensor:
    """Put `value` into `buffer[row]`, `row` being 0-d: in place in eager code, in a copy in compiled code."""
    index, value = row.reshape(1), value.unsqueeze(0)
    return buffer.index_copy(0, index, value) if torch.compiler.is_compiling() else buffer.index_copy_(0, index, value)
