"""Simulation-based calibration of three samplers, and of the same samplers at a wrong temperature."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from langevin.samplers import HMC, SGHMC, SGLD, SGNHT

from tests.validity.sbc import calibrate, data_sets

RUNS: dict[str, tuple[Callable[[float], Any], dict[str, Any]]] = {
    "SGLD": (lambda T: SGLD(lr=0.15, temperature=T), {"thinning": 250, "num_warmup": 1000, "batch_size": 10}),
    "SGHMC": (lambda T: SGHMC(lr=0.5, temperature=T), {"thinning": 60, "num_warmup": 300}),
    "SGNHT": (lambda T: SGNHT(lr=0.2, temperature=T), {"thinning": 80, "num_warmup": 600}),
    "HMC": (lambda T: HMC(temperature=T), {"thinning": 3, "num_warmup": 150}),
}
TEMPERATURES = (1.0, 1.4, 0.7)


@dataclass(frozen=True)
class Ranks:
    """p-values of uniform ranks at one temperature, the right one or not."""

    sampler: str
    temperature: float
    data_sets: int
    p_first: float
    p_second: float
    p_log_likelihood: float


def calibrations(samplers: list[str], quick: bool) -> Iterator[Ranks]:
    """All runs; HMC, the dearest, at the right temperature only."""
    sets = data_sets()
    for name, (build, settings) in RUNS.items():
        for T in TEMPERATURES:
            if name in samplers and not (T != 1 and (quick or name == "HMC")) and not (quick and name == "HMC"):
                result = calibrate(sets, build(T), seed=300, **settings)
                yield Ranks(name, T, len(sets.truth), *result.p_values)
