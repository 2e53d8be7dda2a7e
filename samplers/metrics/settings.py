"""What a Fisher metric can be asked for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from .fisher import Fisher

Kind = Literal["exact", "sampled", "empirical"]
Structure = Literal["dense", "diagonal", "quasi_diagonal", "kronecker", "low_rank"]


def check_settings(fisher: Fisher) -> None:
    """Raise for settings that no target could make sense of."""
    choices = {"kind": Kind, "structure": Structure}
    for name, allowed in choices.items():
        if getattr(fisher, name) not in get_args(allowed):
            raise ValueError(f"{name} must be one of {get_args(allowed)}, got {getattr(fisher, name)!r}")
    if not isinstance(fisher.damping, (int, float)) or not 0 <= fisher.damping < math.inf:
        raise ValueError(f"damping must be zero or positive and finite, got {fisher.damping!r}")
    if fisher.average is not None and not 0 < fisher.average < 1:
        raise ValueError(f"average must lie strictly between 0 and 1, got {fisher.average!r}")
    for name in ("refresh_every", "num_labels", "rank", "inputs"):
        value = getattr(fisher, name)
        if isinstance(value, (int, float)) and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a whole number ≥ 1, got {value!r}")
    if fisher.centered and fisher.kind != "empirical":
        raise ValueError('centered=True is for kind="empirical"; the gradients of the other kinds have mean zero')
    if fisher.centered and fisher.inputs == 1:
        raise ValueError("a covariance needs two examples or more: centered=True with inputs=1 has none")
    if fisher.kind == "empirical" and not isinstance(fisher.inputs, (int, type(None))):
        raise ValueError('kind="empirical" needs observed labels: use inputs=None or a number of examples')
    if fisher.structure == "low_rank" and fisher.damping == 0:
        raise ValueError('structure="low_rank" is singular without damping: give damping > 0')
    if fisher.rank is not None and fisher.structure != "low_rank":
        raise ValueError('rank is for structure="low_rank"')
    if fisher.rank is None and fisher.structure == "low_rank" and fisher.average is not None:
        raise ValueError('a moving average with structure="low_rank" needs a rank to be cut to')
    if fisher.centered and fisher.structure == "kronecker":
        raise NotImplementedError(
            'structure="kronecker" has no centered form: the mean gradient is not a Kronecker product; use "dense", '
            '"quasi_diagonal", "diagonal" or "low_rank" with centered=True'
        )
