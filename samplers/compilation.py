"""Compiling blocks of steps."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


def compiled(block: Any, device: torch.device) -> Callable[..., tuple[Tensor, ...]]:
    """Compile a function of tensors as one graph."""
    # Dynamo keeps its cache, of limited length, by code object: every block gets one of its own.
    own = types.FunctionType(block.__code__.replace(), block.__globals__, block.__name__, None, block.__closure__)
    # Threefry is one long chain of integer operations; realising it in pieces makes code generation five times shorter.
    options: dict[str, Any] = {"realize_opcount_threshold": 12, "post_grad_custom_pre_pass": _zeros_in_memory()}
    # The loop's parts are submodules of its graph, which the key of the compiler's cache on disk covers.
    options["unsafe_marked_cacheable_functions"] = {"torch.ops.higher_order.while_loop": torch.__version__}
    if device.type == "cpu":
        options["cpp_wrapper"] = True
        options["cpp.vec_isa_ok"] = True  # what the processor says is believed, not tried out by six compilations
    return torch.compile(own, fullgraph=True, dynamic=False, options=options)


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Settings under which a block is called for the first time, which compiles it."""
    before = os.environ.get("TENSORIFY_PYTHON_SCALARS")
    # Lifted settings are tensors already; looking for floats to lift would make Dynamo trace every block twice.
    os.environ["TENSORIFY_PYTHON_SCALARS"] = "0"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="torch")  # of the compiler's own parts
            yield
    finally:
        if before is None:
            del os.environ["TENSORIFY_PYTHON_SCALARS"]
        else:
            os.environ["TENSORIFY_PYTHON_SCALARS"] = before


def lift(settings: Any, device: torch.device) -> Any:
    """Copy settings with every float as a 0-d tensor, so that a new value does not mean a new compilation."""
    lifted = copy.copy(settings)
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, float):
            object.__setattr__(lifted, field.name, torch.tensor(value, dtype=torch.float64, device=device))
        elif dataclasses.is_dataclass(value):
            object.__setattr__(lifted, field.name, lift(value, device))
    return lifted


def set_lifted(lifted: Any, settings: Any) -> None:
    """Put the floats of `settings` into the tensors of `lifted`."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, float):
            getattr(lifted, field.name).fill_(value)
        elif dataclasses.is_dataclass(value):
            set_lifted(getattr(lifted, field.name), value)


def structure(settings: Any) -> tuple[Any, ...]:
    """What of the settings is compiled in: all but the values of floats."""
    parts: list[Any] = [type(settings)]
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        parts.append(
            "float" if isinstance(value, float) else structure(value) if dataclasses.is_dataclass(value) else value
        )
    return tuple(parts)


def _zeros_in_memory() -> Any:
    """A compiler pass that turns zero tensors without memory into zeros.

    Forward derivatives make the former, by `_efficientzerotensor`. Inductor's code reads them through their null
    pointer where a reverse derivative needs one (pytorch issues 190856, 197067), as that of a probed log|G| does.
    """
    from torch._inductor import custom_graph_pass  # takes a second, which eager runs need not wait for

    class ZerosInMemory(custom_graph_pass.CustomGraphPass):
        def __call__(self, graph: torch.fx.Graph) -> None:
            for node in graph.find_nodes(op="call_function", target=torch.ops.aten._efficientzerotensor.default):
                node.target, node.args = torch.ops.aten.full.default, (node.args[0], 0)

        def uuid(self) -> Any:  # part of the key of the compiler's cache on disk
            return custom_graph_pass.get_hash_for_files((__file__,))

    return ZerosInMemory()
