"""Figure 5: the MLP of figure 4 with N = 4096 and N = 16384: test cross-entropy against the batch size.

Run with ``python -m benchmarks.paper.figure5``; settings are in `mlp`.
"""

from __future__ import annotations

import statistics

from langevin.samplers import batch_size_for

from . import mlp
from .plotting import curve, focus, mark, panels, save
from .records import best_settings, collect, parser

NUM_DATA = (4096, 16384)
REPETITIONS = 4


def main() -> None:
    """Run all sizes of data and batch, draw and print where the ensemble is best."""
    arguments_ = parser(__doc__, "figure5", REPETITIONS)
    mlp.add_arguments(arguments_)
    arguments = arguments_.parse_args()
    runs = ((repetition, num_data) for repetition in range(arguments.repetitions) for num_data in NUM_DATA)
    rows = collect(arguments, lambda: (row for repetition, n in runs for row in mlp.run(arguments, n, repetition)))
    figure, axes = panels(len(NUM_DATA))
    for panel, num_data in zip(axes, NUM_DATA, strict=True):
        own = [row for row in rows if row["num_data"] == num_data]
        if not own:
            continue
        curve(panel, own, "batch_size", "ensemble_cross_entropy", "ensemble")
        curve(panel, own, "batch_size", "single_cross_entropy", "single draw", 1)
        at_one = batch_size_for(1.0, mlp.LR, num_data)
        mark(panel, at_one, f"T = 1 (B = {at_one})")
        panel.set(xscale="log", xlabel="batch size B", ylabel="test cross-entropy, nats", title=f"N = {num_data}")
        focus(panel)
        panel.legend(loc="best")
        best = best_settings(own, "batch_size")
        print(
            f"N = {num_data}: ensemble's cross-entropy is lowest at B = {best}, "
            f"geometric mean {statistics.geometric_mean(best):.0f}"
        )
    save(figure, arguments.image)


if __name__ == "__main__":
    main()
