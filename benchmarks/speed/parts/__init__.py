"""What is measured: each part lists its cases, and a case gives rows of results.

A part is a module with a function `cases`; its file of results has its name.
"""

from __future__ import annotations

from types import ModuleType

from . import (
    diagnostics,
    effective,
    first_draw,
    laplace,
    large,
    memory,
    natural,
    network,
    scaling,
    steps,
)

PARTS: dict[str, ModuleType] = {
    part.__name__.rpartition(".")[2]: part
    for part in (steps, large, memory, network, natural, diagnostics, laplace, first_draw, effective, scaling)
}
