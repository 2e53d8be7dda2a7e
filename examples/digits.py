"""Handwritten digits: from a model and data to draws that can be trusted, an ensemble and a report.

    python examples/digits.py

A small network learns 8×8 images of handwritten digits (scikit-learn's bundled set, nothing is downloaded). A mode is
one setting of its weights; the posterior is all settings that fit, weighted by how well. Four chains sample it, the
library judges whether they can be trusted, and a table shows what sampling bought: on images like those it has seen,
and on the same images moved by one pixel, where a single network is sure of itself and wrong.
"""

from __future__ import annotations

import argparse
import time

import torch
from langevin.diagnostics import Ensemble, Laplace, evaluate_point, report
from langevin.samplers import SGLD, Posterior, categorical, find_mode, sample
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.distributions import Normal


def load(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Half of the 1,797 images to learn from, half to test on, and the latter moved to the right by one pixel."""
    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32), torch.tensor(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    images, labels = images[order], labels[order]
    half = len(images) // 2
    moved = nn.functional.pad(images[half:], (1, 0))[:, :, :-1]
    # Centre each pixel, and divide by one scale for all: pixels that are always blank stay quiet.
    centre, scale = images[:half].mean(0), images[:half].std()
    x, x_test, x_moved = (((part - centre) / scale).flatten(1) for part in (images[:half], images[half:], moved))
    return x, labels[:half], x_test, labels[half:], x_moved


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", default="report.html", help="where to write the report")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the starting points and the chains")
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps: to see that it runs, not to trust")
    arguments = parser.parse_args()
    began = time.perf_counter()
    torch.set_num_threads(1)  # the model is small: a second thread would wait more than it works

    # 1. The posterior: a model, a likelihood, data and a prior. The first layer's prior is narrow because 64 inputs
    #    add up; that of the second is wide, so that the network can be sure of what it says.
    x, y, x_test, y_test, x_moved = load(arguments.seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    prior = {"0.*": Normal(0.0, 0.3), "2.*": Normal(0.0, 1.0)}
    posterior = Posterior(model, categorical, data=(x, y), prior=prior)
    print(f"{len(x)} images to learn from, {len(x_test)} to test on, {posterior.dim:,} weights")

    # 2. The mode, and a Gaussian around it (Laplace).
    print("finding the mode ...")
    mode = find_mode(posterior)
    laplace = Laplace.fit(posterior, mode, structure="dense")

    # 3. Four chains, each from its own draw of the prior: that they end up saying the same is the point. lr is as large
    #    as the temperature allows (minibatch noise and step length both add heat, in proportion to lr), because the
    #    number of steps a chain needs to forget where it was falls as 1/lr. Thinning keeps 500 draws of each chain.
    print("sampling ...")
    chains = sample(
        posterior,
        SGLD(lr=0.5),
        batch_size=64,
        num_warmup=500 if arguments.quick else 5000,
        num_samples=500,
        thinning=20 if arguments.quick else 200,
        num_chains=4,
        init="prior",
        seed=arguments.seed,
    )
    print(f"{chains} in {chains.attrs['seconds']:.0f} s")

    # 4. What it bought. Higher accuracy is better, of the others lower; ECE is how far confidence is from the share of
    #    answers that are right. The ensemble is far better than any of its draws. On images like those it has seen it
    #    is as accurate as the mode but less sure, for a posterior under a wide Gaussian prior doubts much; on the moved
    #    ones doubt is right, and the mode is sure of wrong answers. Laplace's draws go through the network as they are.
    for title, images in (("test images", x_test), ("the same, moved by one pixel", x_moved)):
        drawn = Ensemble(posterior, chains, num_draws=500).evaluate(images, y_test)
        rows = {
            "mode": evaluate_point(posterior, mode, images, y_test),
            "Laplace": Ensemble(posterior, laplace).evaluate(images, y_test).ensemble,
            "single draw": drawn.single,
            "ensemble": drawn.ensemble,
        }
        print(f"\n{title:30}" + "".join(f"{name:>10}" for name in ("accuracy", "NLL", "Brier", "ECE")))
        for name, scores in rows.items():
            print(f"  {name:28}" + "".join(f"{scores[metric]:10.3f}" for metric in ("accuracy", "nll", "brier", "ece")))

    # 5. Can it be believed? The report says so, with the evidence.
    print("\nwriting the report ...")
    result = report(
        chains,
        posterior=posterior,
        laplace=laplace,
        test=(x_test, y_test),
        path=arguments.report,
        title="Handwritten digits: a 64-32-10 network sampled by SGLD",
    )
    print(result)
    print(f"{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
