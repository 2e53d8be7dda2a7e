"""Run the test bed: ``python -m benchmarks.validity [--quick] [--samplers …] [--targets …] [--out …] [--redraw]``.

Writes `validity.csv`, `bias.csv` and `calibration.csv` as results come in; a run of some cells leaves the others in the
files as they are. ``--redraw`` fills the tables of `docs/validity.md` from the files, as a full run does at its end.
The whole bed takes less than half an hour on one core; the quick one, which writes only if told where, a few minutes.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.validity import tables
from benchmarks.validity.bias import Bias, biases
from benchmarks.validity.calibration import Ranks, calibrations
from benchmarks.validity.cells import MAKERS, POSTERIORDB, WITH_PRIOR, Cell, cells, compute
from tests.validity.bed import threshold
from tests.validity.posteriordb import folder_of
from tests.validity.table import TABLE

RESULTS = Path(__file__).parent / "results"
SEPARATE = {"bias": Bias, "calibration": Ranks}


def judged(found: list[Cell]) -> list[Cell]:
    """With thresholds for as many cells as there are."""
    count = sum(cell.tested for cell in found)
    return [replace(c, threshold=threshold(c.comparisons, c.chains, count)) if c.tested else c for c in found]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a third of the length, no posteriordb")
    parser.add_argument("--samplers", nargs="+", default=list(TABLE), metavar="NAME", help="of: " + ", ".join(TABLE))
    targets = [*MAKERS, *SEPARATE]
    parser.add_argument("--targets", nargs="+", default=targets, metavar="NAME", help="of: " + ", ".join(targets))
    parser.add_argument("--out", type=Path, help=f"folder of the CSV files ({RESULTS}; of --quick: nowhere)")
    parser.add_argument("--redraw", action="store_true", help="fill the page from the CSV files, run nothing")
    chosen = parser.parse_args()
    for name in (*chosen.samplers, *chosen.targets):
        if name not in (*TABLE, *targets):
            parser.error(f"unknown name {name!r}")
    if chosen.out is None and not chosen.quick:
        chosen.out = RESULTS
    return chosen


def main() -> None:
    chosen = arguments()
    torch.set_num_threads(1)
    if not chosen.redraw:
        print(tables.machine(), flush=True)
        _cells(chosen)
        _others(chosen)
    whole = set(chosen.samplers) == set(TABLE) and set(chosen.targets) == {*MAKERS, *SEPARATE}
    if chosen.out is not None and (chosen.redraw or (whole and not chosen.quick)):
        found = tables.read(chosen.out / "validity.csv", Cell)
        others = [tables.read(chosen.out / f"{name}.csv", kind) for name, kind in SEPARATE.items()]
        made = (chosen.out / "machine.txt").read_text().strip()
        tables.PAGE.write_text(tables.fill(tables.PAGE.read_text(), tables.sections(found, *others, made)))
        print(tables.summary(found))


def _cells(chosen: argparse.Namespace) -> None:
    names = [name for name in chosen.targets if name in MAKERS and not (chosen.quick and name in POSTERIORDB)]
    if missing := [name for name in names if name in POSTERIORDB and not folder_of(name).is_dir()]:
        print(f"left out, no data (set LANGEVIN_DATA): {', '.join(missing)}")
        names = [name for name in names if name not in missing]
    todo = list(cells(chosen.samplers, names, chosen.quick))
    again = {("mean" if name == WITH_PRIOR else name, row.name) for row, name, _ in todo}
    found: list[Cell] = []
    if chosen.out is not None:
        found = [c for c in tables.read(chosen.out / "validity.csv", Cell) if (c.target, c.sampler) not in again]
    for row, name, seed in todo:
        began = time.perf_counter()
        new = compute(row, name, chosen.quick, seed)
        found = judged(sorted([*found, new], key=_order))
        cell = next(c for c in found if (c.target, c.sampler) == (new.target, new.sampler))
        if chosen.out is not None:
            tables.write(chosen.out / "validity.csv", found)
            (chosen.out / "machine.txt").write_text(tables.machine() + "\n")
        print(
            f"{name[:24]:24} {row.name:20} {cell.kind:8} |z| {cell.max_z:6.2f} of {cell.threshold:5.2f}  variance "
            f"{cell.variance:8.4f} ± {cell.error:.4f} ({cell.predicted:.4f})  ESS/1000 gradients "
            f"{1000 * cell.ess_gradient:8.3g}  ESS/s {cell.ess_second:8.3g}  {time.perf_counter() - began:5.1f} s",
            flush=True,
        )


def _order(cell: Cell) -> tuple[int, int]:
    return list(MAKERS).index(cell.target), list(TABLE).index(cell.sampler)


def _others(chosen: argparse.Namespace) -> None:
    for name, rows in (("bias", biases), ("calibration", calibrations)):
        if name in chosen.targets:
            done = []
            for row in rows(chosen.samplers, chosen.quick):
                done.append(row)
                if chosen.out is not None:
                    tables.write(chosen.out / f"{name}.csv", done)
                print(name, *vars(row).values(), flush=True)


if __name__ == "__main__":
    main()
