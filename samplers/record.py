"""What a run has drawn so far."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Record:
    """A preallocated store of draws and statistics, filled in order."""

    draws: Tensor
    stats: dict[str, Tensor]
    first_step: int
    columns: Tensor | None
    filled: int = 0

    def add(self, draws: Tensor, stats: Tensor) -> None:
        """Append `[row, chain, dim]` and `[row, statistic, chain]`."""
        rows = slice(self.filled, self.filled + len(draws))
        if self.draws.shape[-1]:
            draws = draws if self.columns is None else draws.index_select(-1, self.columns)
            self.draws[:, rows] = draws.transpose(0, 1)
        for name, values in zip(self.stats, stats.unbind(1), strict=True):
            self.stats[name][:, rows] = values.T
        self.filled += len(draws)

    def latest(self, name: str) -> float:
        """Mean of a statistic over the healthy chains at the last draw."""
        return float(self.stats[name][:, self.filled - 1].nanmean()) if self.filled else float("nan")
