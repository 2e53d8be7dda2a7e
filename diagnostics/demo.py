"""`langevin demo`: from a model and data to draws, a verdict and a report, in less than a minute and without any files.

A network of 16 hidden units tells two interleaved half circles apart. Four chains, each from its own draw of the prior,
sample its weights by Hamiltonian Monte Carlo, whose law is the posterior at any step size; a Laplace approximation is
fitted beside them. The chains are about twice as long as the verdict asks for.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from ..samplers.hmc import HMC
from ..samplers.likelihoods import categorical
from ..samplers.modes import find_mode
from ..samplers.posterior import Posterior
from ..samplers.sampling import sample
from .laplace import Laplace
from .report import Report, report

Data = tuple[Tensor, Tensor]

LENGTH, QUICK_LENGTH = (200, 400), (100, 50)
"""Steps of warm-up, and draws of each chain."""


def half_circles(count: int, seed: int) -> Data:
    """Points on two interleaved half circles, with noise, and which of the two each lies on."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    angle = torch.pi * (labels + torch.rand(count, generator=generator))
    points = torch.stack((angle.cos() + labels, angle.sin() + labels / 2), 1)
    return points + 0.3 * torch.randn(count, 2, generator=generator), labels


def demo(folder: str | os.PathLike[str], quick: bool = False) -> Report:
    """Sample, judge, and write `report.html` and `run.nc`; says what it does and what to do with the files.

    Parameters
    ----------
    folder
        Where to; made if it is not there. Files of an earlier demo are replaced.
    quick
        Sample an eighth of the draws, after half the warm-up: too short, as the verdict will say.

    Returns
    -------
    Report
        The verdict in short.

    Raises
    ------
    ValueError
        If the folder cannot be made because the one that it would lie in does not exist, or a file has its name.
    """
    folder = _made(Path(folder))
    train, test = half_circles(100, seed=0), half_circles(200, seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
    posterior = Posterior(model, categorical, data=train)
    print(f"A network of {posterior.dim} weights learns two interleaved half circles from {len(train[0])} points.")
    print("Finding the most probable weights, and a Gaussian around them (Laplace) ...")
    laplace = Laplace.fit(posterior, find_mode(posterior))
    num_warmup, num_samples = QUICK_LENGTH if quick else LENGTH
    print("Sampling four chains from different starts ...", flush=True)
    chains = sample(
        posterior,
        HMC(),
        num_warmup=num_warmup,
        num_samples=num_samples,
        init="prior",
        seed=0,
        progress=False,
    )
    run = folder / "run.nc"
    chains.save(run)
    print(f"  {chains.num_chains} × {chains.num_draws:,} draws in {chains.attrs['seconds']:.0f} s, saved in {run}")
    print("Judging them, and writing the report ...", flush=True)
    written = report(
        chains,
        posterior=posterior,
        laplace=laplace,
        test=test,
        path=folder / "report.html",
        title="Demo: a small network on two interleaved half circles",
    )
    print(f"\n{written}\n\n{_next(written.path, run, quick)}")
    return written


def _made(folder: Path) -> Path:
    if not folder.absolute().parent.is_dir():
        raise ValueError(f"the folder {folder.absolute().parent} does not exist; create it or choose another with -o")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder with -o")
    folder.mkdir(exist_ok=True)
    return folder


def _next(page: Path, run: Path, quick: bool) -> str:
    lines = ["These chains are too short on purpose; those without --quick are not."] if quick else []
    commands = {
        f"{page}": "open it in a browser: the verdict, and the evidence for it",
        f"langevin check {run}": "the run against limits, for pipelines",
        f"langevin report {run} --format json": "the judgement as data; a run holds draws only, so without predictions",
        f'Chains.load("{run}")': "the draws in Python, after `from langevin.samplers import Chains`",
    }
    lines += ["What to do with the files:", *(f"  {command}\n      {what}" for command, what in commands.items())]
    return "\n".join([*lines, "The code that made them, for a model and data of your own:", f"  {Path(__file__)}"])
