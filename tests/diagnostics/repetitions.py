"""Many small runs out of one call of `sample`: chains do not depend on those beside them."""

from __future__ import annotations

from langevin.samplers import Chains
from torch import Tensor


def groups_of(chains: Chains, size: int) -> list[Chains]:
    """The chains of one run, a few at a time, as runs of their own."""
    return [_part(chains, slice(start, start + size)) for start in range(0, chains.num_chains, size)]


def _part(chains: Chains, rows: slice) -> Chains:
    def part(values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value[rows] for name, value in values.items()}

    ids = chains.attrs["chain_ids"][rows]
    stopped = {chain: step for chain, step in (chains.attrs.get("stopped") or {}).items() if int(chain) in ids}
    return Chains(
        draws=part(chains.draws),
        sample_stats=part(chains.sample_stats),
        attrs=chains.attrs | {"chain_ids": ids, "stopped": stopped},
        state=part({name: x for name, x in chains.state.items() if x.ndim and len(x) == chains.num_chains}),
    )
