"""Measure everything: ``python -m benchmarks.speed [--parts …] [--quick] [--repeats …] [--out …] [--redraw]``.

Each part writes its CSV file and adds machine, date and versions to `machine.json`; then the figure is drawn, the
documentation's tables are written, and `targets.md` says which targets are met, from all files that there are.
``--redraw`` does the latter alone. Peers that are not installed (`benchmarks/requirements.txt`) are left out with a
word. Let nothing else run beside it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from . import figure, records, tables, targets
from .cases import Effort
from .parts import PARTS

FULL, QUICK = Effort(15, 0.3, False), Effort(2, 0.02, True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="a smoke run: a few small cases, timed in an instant")
    parser.add_argument("--repeats", type=int, help=f"turns in which peers alternate ({FULL.repeats})")
    parser.add_argument("--out", type=Path, help=f"folder of results ({records.RESULTS}; of --quick: temporary)")
    parser.add_argument("--redraw", action="store_true", help="figure and table from the files, measure nothing")
    chosen = parser.parse_args()
    if chosen.out is None:
        chosen.out = Path(tempfile.mkdtemp(prefix="speed-")) if chosen.quick else records.RESULTS
    return chosen


def run(part: str, effort: Effort, folder: Path) -> None:
    """Measure a part's cases; the file grows with each."""
    found: list[records.Row] = []
    for case in PARTS[part].cases(effort):
        began = time.perf_counter()
        new = case.run()
        found += new
        for row in new:
            print("  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()))
        print(f"{part}: {case.label}: {time.perf_counter() - began:.0f} s", flush=True)
        if found:
            records.write(folder, part, found, effort.repeats)


def main() -> None:
    chosen = arguments()
    effort = QUICK if chosen.quick else FULL
    if chosen.repeats:
        effort = Effort(chosen.repeats, effort.seconds, effort.quick)
    for part in () if chosen.redraw else chosen.parts:
        run(part, effort, chosen.out)
    figure.draw(chosen.out, chosen.out if chosen.out != records.RESULTS else figure.IMAGES)
    tables.write(chosen.out)
    text = targets.table(chosen.out)
    (chosen.out / "targets.md").write_text(text)
    print(f"\n{text}\n{chosen.out / 'targets.md'}")


if __name__ == "__main__":
    main()
