"""How often verdicts are wrong: ``python -m benchmarks.alarms [--quick] [--seed …] [--out …] [--redraw]``.

200 runs that are right and 204 that are wrong are judged by the library, with the posterior and from the run alone.
Writes `alarms.csv` and `coverage.csv` as results come in, and the tables of `docs/alarms.md`. A quarter of an hour.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from langevin.diagnostics.assessment import assess
from langevin.diagnostics.rules import LEVELS

from ..rows import append
from . import tables
from .cases import Case, cases
from .coverage import COLUMNS as COVERAGE_COLUMNS
from .coverage import coverages

RESULTS = Path(__file__).parent / "results"
COLUMNS = ("kind", "what", "case", "run", "verdict", "checks", "alone", "checks_alone", "seconds")


def judged(case: Case, seed: int) -> list[dict[str, object]]:
    """A row for each run."""
    rows = []
    for number, run in enumerate(case.draw(seed)):
        began = time.perf_counter()
        whole = assess(run, case.problem.posterior, test=case.problem.test).verdict
        seconds = time.perf_counter() - began
        alone = assess(run).verdict
        row = {"kind": case.kind, "what": case.what, "case": case.label, "run": number, "seconds": seconds}
        for key, checks, verdict in (("verdict", "checks", whole), ("alone", "checks_alone", alone)):
            row[key] = verdict.level
            row[checks] = "; ".join(f.topic for f in verdict.findings if f.level in LEVELS[1:])
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run: two short runs of each kind, nothing written"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all chains")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the CSV files and tables")
    parser.add_argument("--redraw", action="store_true", help="write the tables from the CSV files, run nothing")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if not chosen.redraw:
        files = chosen.out / "alarms.csv", chosen.out / "coverage.csv"
        for file in files:
            if not chosen.quick:
                file.unlink(missing_ok=True)
        for case in cases(chosen.quick):
            began = time.perf_counter()
            rows = judged(case, chosen.seed)
            if not chosen.quick:
                append(files[0], COLUMNS, rows)
            found = [sum(row["verdict"] == level for row in rows) for level in LEVELS]
            print(f"{case.kind}, {case.label}: {found}, {time.perf_counter() - began:.0f} s", flush=True)
        for row in coverages(chosen.quick):
            if not chosen.quick:
                append(files[1], COVERAGE_COLUMNS, [row])
            print(row, flush=True)
    if not chosen.quick:
        tables.write(chosen.out)


if __name__ == "__main__":
    main()
