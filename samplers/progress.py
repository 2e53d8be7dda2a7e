"""The progress bar of a run."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from tqdm.auto import tqdm


def _someone_is_watching() -> bool:
    in_notebook = "ipykernel" in sys.modules
    return in_notebook or sys.stderr.isatty()


class Progress:
    """Steps made, their speed, time left, the latest cost and temperature; quiet unless someone is watching."""

    def __init__(self, total: int, engine: str, enabled: bool):
        self._bar = tqdm(total=total, unit="step", unit_scale=True, disable=not (enabled and _someone_is_watching()))
        self._engine = engine

    def __enter__(self) -> Self:
        self._bar.set_description(f"warm-up ({self._engine})")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def sampling(self) -> None:
        """Say that warm-up is over."""
        self._bar.set_description(f"sampling ({self._engine})")

    def update(self, steps: int, cost: float, temperature: float) -> None:
        """Count steps and show the latest numbers."""
        self._bar.set_postfix_str(f"cost {cost:.4g}, temperature {temperature:.3g}", refresh=False)
        self._bar.update(steps)
