"""Seconds, megabytes and peak memory of one report: ``python -m benchmarks.report [--cases …] [--out …]``.

Draws are independent normals, around one set of weights of a network with two hidden layers, so that what is measured
is the report and not a sampler. Every case runs in a process of its own, whose peak memory is then that of the case,
and writes its row as it ends. ``OMP_NUM_THREADS`` sets the threads. Takes several minutes.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from langevin.diagnostics import Laplace, report
from langevin.samplers import Chains, Posterior, categorical
from torch import nn

from ..rows import Row, append, read

RESULT = Path(__file__).parents[1] / "results" / "report.csv"
COLUMNS = (
    "case",
    "chains",
    "draws",
    "parameters",
    "threads",
    "seconds",
    "cpu_seconds",
    "page_mb",
    "draws_mb",
    "peak_mb",
)
INPUTS, CLASSES, EXAMPLES = 64, 10, 1000


@dataclass(frozen=True)
class Case:
    """A run, and what is given to the report beside it."""

    chains: int
    draws: int
    hidden: int
    posterior: bool = False
    test: bool = False
    laplace: bool = False


CASES = {
    "small": Case(4, 200, 16, posterior=True, test=True, laplace=True),
    "100,000 weights": Case(8, 500, 280),
    "100,000 weights, Laplace": Case(8, 500, 280, laplace=True),
    "100,000 weights, posterior and test": Case(8, 500, 280, posterior=True, test=True),
    "1,000,000 weights": Case(4, 100, 960),
    "1,000,000 weights, posterior and test": Case(4, 100, 960, posterior=True, test=True),
}


def problem(hidden: int) -> tuple[Posterior, tuple[torch.Tensor, torch.Tensor]]:
    """A network on data that it could learn, and test data."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(INPUTS, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES)
    )
    x = torch.randn(EXAMPLES, INPUTS)
    y = x[:, :CLASSES].argmax(-1)
    return Posterior(model, categorical, data=(x, y)), (x[: EXAMPLES // 2], y[: EXAMPLES // 2])


def run(posterior: Posterior, chains: int, draws: int) -> Chains:
    """Chains as `sample` returns them."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(chains, draws, *shape, generator=generator)

    layout = posterior.layout
    return Chains(
        draws={name: 0.05 * noise(*shape) for name, shape in zip(layout.names, layout.shapes, strict=True)},
        sample_stats={name: 1 + noise() for name in ("cost", "temperature", "gradient_norm")},
        attrs={
            "sampler": "SGLD",
            "settings": {"lr": 0.01, "temperature": 1.0},
            "temperature": 1.0,
            "num_samples": draws,
            "num_warmup": 100,
            "thinning": 1,
            "batch_size": 50,
            "num_data": EXAMPLES,
            "dim": posterior.dim,
            "seed": 0,
        },
    )


def measure(name: str) -> Row:
    """Write one report, in this process."""
    case = CASES[name]
    posterior, test = problem(case.hidden)
    chains = run(posterior, case.chains, case.draws)
    laplace = Laplace.fit(posterior, torch.zeros(posterior.dim), structure="diagonal") if case.laplace else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        began, began_cpu = time.perf_counter(), time.process_time()
        report(
            chains,
            posterior=posterior if case.posterior else None,
            test=test if case.test else None,
            laplace=laplace,
            path=path,
        )
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
        size = path.stat().st_size
    return {
        "case": name,
        "chains": case.chains,
        "draws": case.draws,
        "parameters": posterior.dim,
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "page_mb": size / 1e6,
        "draws_mb": sum(values.nbytes for values in chains.draws.values()) / 1e6,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }


def table(path: Path) -> str:
    """The rows of a CSV file as Markdown, for the documentation."""
    heads = ("a report of", "draws", "threads", "s", "CPU s", "page, MB", "draws, MB", "peak of the process, MB")
    lines = ["| " + " | ".join(heads) + " |", "|---|--:|--:|--:|--:|--:|--:|--:|"]
    for row in read(path, text=("case",)):
        sizes = f"{row['chains']:.0f} × {row['draws']:.0f}", f"{row['threads']:.0f}"
        times = (f"{row[key]:.1f}" for key in ("seconds", "cpu_seconds"))
        space = f"{row['page_mb']:.2f}", f"{row['draws_mb']:,.0f}", f"{row['peak_mb']:,.0f}"
        lines.append("| " + " | ".join((row["case"], *sizes, *times, *space)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--out", type=Path, default=RESULT, help="CSV file, replaced (default %(default)s)")
    parser.add_argument("--alone", choices=CASES, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.alone:
        append(chosen.out, COLUMNS, [measure(chosen.alone)])
        return
    chosen.out.unlink(missing_ok=True)
    for name in chosen.cases:
        command = [sys.executable, "-m", "benchmarks.report", "--alone", name, "--out", str(chosen.out)]
        subprocess.run(command, check=True)
        print(chosen.out.read_text().splitlines()[-1], flush=True)
    chosen.out.with_suffix(".md").write_text(table(chosen.out), encoding="utf-8")


if __name__ == "__main__":
    main()
