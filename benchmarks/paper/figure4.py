"""Figure 4: NGD on an MLP and MNIST in ten random projections, N = 1024: scores against the batch size.

Run with ``python -m benchmarks.paper.figure4``; settings are in `mlp`.
"""

from __future__ import annotations

import statistics

from langevin.samplers import batch_size_for

from . import mlp
from .plotting import accuracy_and_cross_entropy, save
from .records import best_settings, collect, parser

NUM_DATA = 1024
REPETITIONS = 4


def main() -> None:
    """Run all batch sizes, draw and print where the ensemble is best."""
    arguments_ = parser(__doc__, "figure4", REPETITIONS)
    mlp.add_arguments(arguments_)
    arguments = arguments_.parse_args()
    rows = collect(
        arguments, lambda: (row for r in range(arguments.repetitions) for row in mlp.run(arguments, NUM_DATA, r))
    )
    at_one = batch_size_for(1.0, mlp.LR, NUM_DATA)
    save(
        accuracy_and_cross_entropy(rows, "batch_size", "batch size B", at_one, f"T = 1 (B = {at_one})"), arguments.image
    )
    best = best_settings(rows, "batch_size")
    print(f"ensemble's cross-entropy is lowest at B = {best}, geometric mean {statistics.geometric_mean(best):.0f}")


if __name__ == "__main__":
    main()
