"""Steps of stochastic gradient samplers on small models, µs per step of all chains.

Every chain draws its own minibatch and noise, in float32. Threads are as many as langevin chooses, for all peers alike.
Each timing covers whole blocks: a compiled call of langevin's engine, a scan of BlackJAX's, a loop of some steps for
peers that are called step by step.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...rows import Row
from ..cases import Case, Effort
from ..peers.by_hand import by_hand
from ..peers.grouped import grouped
from ..peers.peer import available, check_gradients
from ..peers.with_blackjax import blackjax
from ..peers.with_langevin import langevin, threads
from ..peers.with_posteriors import posteriors
from ..timing import alternate, ratio, summary
from ..workloads import WORKLOADS

CHAINS = {"logistic 2": (1, 16, 64, 1024), "logistic 64": (1, 16, 64, 1024), "mlp": (1, 16, 64, 1024), "cnn": (1, 8)}
MANY = 1000  # chains from which peers that call a step at a time are left out
OTHER_SAMPLERS = ("PSGLD", "SGHMC")  # on the MLP with 16 chains


def cases(effort: Effort) -> Iterator[Case]:
    """One for every workload, sampler and number of chains."""
    todo = [(name, "SGLD", count) for name, counts in CHAINS.items() for count in counts]
    todo += [("mlp", sampler, 16) for sampler in OTHER_SAMPLERS]
    if effort.quick:
        todo = [("logistic 2", "SGLD", 1), ("mlp", "SGHMC", 16), ("cnn", "SGLD", 8)]
    for name, sampler, chains in todo:
        workload = WORKLOADS[name]()
        count = threads(workload.dim, workload.batch_size, chains)
        yield Case(f"{name}, {sampler}, {chains} chains", measure, (name, sampler, chains, count, effort), count)


def measure(name: str, sampler: str, chains: int, threads: int, effort: Effort) -> list[Row]:
    """Rows of all peers that have the sampler; `times_langevin` is how much longer than langevin each one takes."""
    workload = WORKLOADS[name]()
    makers = {"langevin": lambda: langevin(workload, sampler, chains)}
    if sampler != "PSGLD":
        makers["blackjax"] = lambda: blackjax(workload, sampler, chains)
    if sampler != "PSGLD" and chains < MANY:
        makers["posteriors"] = lambda: posteriors(workload, sampler, chains)
    if sampler == "SGLD" and chains < MANY:
        makers["by hand"] = lambda: by_hand(workload, chains)
    if name == "cnn":
        makers["grouped"] = lambda: grouped(workload, chains)
    peers = available(makers)
    check_gradients(peers)
    times = alternate({name: peer.run for name, peer in peers.items()}, effort.repeats, effort.seconds)
    return [
        {"workload": name, "sampler": sampler, "dim": workload.dim, "chains": chains, "peer": key}
        | summary(times[key], "us")
        | {"times_langevin": ratio(times[key], times["langevin"], threads)}
        | {"compile_s": peer.compile_seconds, "how": peer.how}
        for key, peer in peers.items()
    ]
