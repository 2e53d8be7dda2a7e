"""The targets, and the table that says which are met."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import records
from .cases import CORES
from .parts.first_draw import COLD
from .parts.memory import FEW
from .parts.natural import WITH_DRIFT
from .records import Row

Read = Callable[[str], list[Row]]
BEST_KNOWN = ("posteriors", "by hand", "grouped")  # ways to run a CNN in PyTorch


@dataclass(frozen=True)
class Target:
    """One line of the table.

    Attributes
    ----------
    work, against
        What is measured, and beside what.
    goal
        At least so much, or at most where `at_most`.
    found
        What was measured; NaN if it was not.
    unit
        ``"×"``, ``"%"``, ``"s"`` or none.
    """

    work: str
    against: str
    goal: float
    found: float
    unit: str = "×"
    at_most: bool = False

    @property
    def asked(self) -> str:
        """The goal with its sign."""
        return f"{'≤' if self.at_most else '≥'} {self._shown(f'{self._scale * self.goal:g}')}"

    @property
    def verdict(self) -> str:
        """In two or three words."""
        if math.isnan(self.found):
            return "not measured"
        value, goal = self._scale * self.found, self._scale * self.goal
        digits = 3 if value < 2 else 2  # and more, where these would hide on which side of the goal the value is
        while float(f"{value:.{digits}g}") == goal != value:
            digits += 1
        text = self._shown(f"{value:.0f}" if value >= 100 else f"{value:.{digits}g}")
        met = self.found <= self.goal if self.at_most else self.found >= self.goal
        return f"met {text}" if met else f"missed {text} of {self._shown(f'{goal:g}')}"

    @property
    def _scale(self) -> float:
        return 100.0 if self.unit == "%" else 1.0

    def _shown(self, number: str) -> str:
        return f"{number} {self.unit}" if self.unit in ("%", "s") else f"{number}{self.unit}"


def only(rows: list[Row], column: str, **settings: object) -> float:
    """A column of the one row with these settings; NaN if there is none."""
    found = [row[column] for row in rows if all(row.get(key) == value for key, value in settings.items())]
    return found[0] if len(found) == 1 else math.nan


def targets(read: Read) -> Iterator[Target]:
    """All of them."""
    yield from _steps(read("steps"))
    for name, work in (("logistic 2", "logistic regression, D = 2"), ("mlp", "MLP × 16")):
        found = only(read("first_draw"), "wall_s", workload=name, peer=COLD)
        yield Target(f"first draw, {work}", "compiler's cache empty", 5, found, "s", True)
    yield from _large(read("large"), read("memory"))
    for depth in (8, 20):
        found = only(read("network"), "times_sgd", case=f"ResNet-{depth}", peer="langevin")
        yield Target(f"training step of a ResNet-{depth}", "`torch.optim.SGD`", 1.03, found, at_most=True)
    natural = {"variant": WITH_DRIFT, "dim": 850.0}
    yield Target("SNGD, D = 850: drift", "its step", 0.05, only(read("natural"), "drift_share", **natural), "%", True)
    whole = only(read("natural"), "times_yardstick", **natural)
    yield Target("SNGD, D = 850: step", "Gram product and Cholesky", 1.1, whole, at_most=True)
    together = {"variant": "all four", "threads": float(CORES)}
    found = only(read("diagnostics"), "times_langevin", **together)
    yield Target("R̂, ESS, MCSE of 8 × 200 × 10,000", "ArviZ", 5, found)
    difference = only(read("diagnostics"), "difference", **together)
    yield Target("the same: largest difference", "ArviZ's numbers", 1e-4, difference, "", True)
    yield Target("noise and update on a GPU", "copy bandwidth", 0.7, math.nan, "%")


def _steps(rows: list[Row]) -> Iterator[Target]:
    def beside(name: str, chains: int, peer: str) -> float:
        return only(rows, "times_langevin", workload=name, sampler="SGLD", chains=float(chains), peer=peer)

    for name, dim in (("logistic 2", 2), ("logistic 64", 64)):
        for chains in (1, 64):
            work = f"logistic regression, D = {dim}, × {chains}"
            yield Target(work, "BlackJAX", 3, beside(name, chains, "blackjax"))
        yield Target(f"logistic regression, D = {dim}, × 1", "posteriors", 100, beside(name, 1, "posteriors"))
    for chains, goal in ((1, 2), (16, 1.6), (64, 1.5)):
        yield Target(f"MLP, × {chains}", "BlackJAX", goal, beside("mlp", chains, "blackjax"))
    for chains in (1, 8):
        yield Target(f"CNN, × {chains}", "BlackJAX", 4, beside("cnn", chains, "blackjax"))
        others = [beside("cnn", chains, peer) for peer in BEST_KNOWN]
        others = [1 / other for other in others if not math.isnan(other)]
        yield Target(f"CNN, × {chains}", "the best known way", 1.1, max(others, default=math.nan), at_most=True)


def _large(times: list[Row], memory: list[Row]) -> Iterator[Target]:
    for sampler in ("SGLD", "PSGLD"):
        found = only(times, "times_normal", variant=f"langevin {sampler}", threads=float(CORES))
        yield Target(f"{sampler}, 10 million parameters", "`normal_`", 0.65, found, at_most=True)
    for sampler in ("SGLD", "PSGLD"):
        own = {row["dim"]: row for row in memory if row["variant"] == f"langevin {sampler}"}
        found, most = math.nan, max(own, default=FEW)
        if FEW in own and most > FEW:
            needed = 2 * 4 * (most - FEW) / 2**20  # position and gradient, MiB
            found = (own[most]["steps_mib"] - own[FEW]["steps_mib"]) / needed
        yield Target(f"peak memory of {sampler}", "position and gradient", 1.05, found, at_most=True)


def table(folder: Path) -> str:
    """The table in Markdown, from the files in a folder."""
    lines = [
        f"| {target.work} | {target.against} | {target.asked} | {target.verdict} |"
        for target in targets(lambda part: records.read(folder, part))
    ]
    return "\n".join(["| work | beside | target | |", "|---|---|--:|---|", *lines]) + "\n"
