"""One draw by langevin: ``python -m benchmarks.speed.peers.fresh_langevin PROBLEM CHAINS compiled|eager``."""

import sys

from langevin.samplers import SGLD, sample

from ..workloads import WORKLOADS

if __name__ == "__main__":
    name, chains, how = sys.argv[1:]
    problem = WORKLOADS[name]()
    sample(
        problem.posterior(),
        SGLD(lr=problem.lr),
        num_samples=1,
        num_chains=int(chains),
        batch_size=problem.batch_size,
        compile=how == "compiled",
        progress=False,
    )
