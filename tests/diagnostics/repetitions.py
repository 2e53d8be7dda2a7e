"""Many small runs out of one call of `sample`: chains do not depend on those beside them."""

from __future__ import annotations

from langevin.samplers import Chains


def groups_of(chains: Chains, size: int) -> list[Chains]:
    """The chains of one run, a few at a time, as runs of their own."""
    ids = chains.attrs["chain_ids"]
    starts = range(0, chains.num_chains, size)
    return [
        Chains(
            draws={name: value[start : start + size] for name, value in chains.draws.items()},
            sample_stats={name: value[start : start + size] for name, value in chains.sample_stats.items()},
            attrs=chains.attrs | {"chain_ids": ids[start : start + size]},
        )
        for start in starts
    ]
