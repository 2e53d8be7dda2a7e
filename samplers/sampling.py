"""The driver: a target and a sampler in, chains out."""

from __future__ import annotations

import datetime
import os
import time
import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .batches import Batches
from .chains import Chains
from .control import threads_for
from .engine import Engine
from .metrics.metric import remedy
from .progress import Progress
from .provenance import describe, versions
from .record import Record
from .schedules import at_step
from .starts import Init, starting_positions
from .target import Target
from .temperature import batch_heat
from .threefry import MOMENTA, Noise, chain_keys
from .tree import leaf_names, leaves, rebuild, spec_of

CHECKPOINT_SECONDS = 60.0
WORTH_TIMING = 500  # steps of a run, from which on some 20 may be spent on measuring how many threads to use
BLOCK_SECONDS = 0.5  # how long a call may keep Ctrl-C and the progress bar waiting


def sample(
    target: Target,
    sampler: Any,
    *,
    num_samples: int,
    num_warmup: int = 0,
    thinning: int = 1,
    num_chains: int = 4,
    batch_size: int | None = None,
    init: Init = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    keep: str | Sequence[str] | None = None,
    keep_warmup: bool = False,
    compile: bool | Literal["auto"] = "auto",
    batches: Literal["independent", "epoch"] = "independent",
    chain_ids: Sequence[int] | None = None,
) -> Chains:
    """Draw chains of parameters.

    Everything random is keyed by (seed, chain, step, index): a chain is the same whether it runs alone or beside
    others, in one run or in several, up to floating-point reordering.

    Parameters
    ----------
    target
        A `Posterior` or a `LogDensity`.
    sampler
        For example ``SGLD(lr=0.1)`` or ``HMC()``.
    num_samples
        Draws per chain to return, one every `thinning` steps.
    num_warmup
        Steps before the first of them; adaptive samplers adapt here and nowhere else.
    num_chains
        Number of chains, run together.
    batch_size
        Examples per step and chain, drawn without replacement; None for all of them at every step.
    init
        Where chains start. None: at the target's own values (the model's weights). ``"prior"``: a draw from the prior
        each. ``"mode"``: the mode, found from there. ``"overdispersed"``: around that mode, with twice the standard
        deviations of its curvature. A tensor `[dim]` or `[chain, dim]`, or named tensors `{name: [*shape] or [chain,
        *shape]}`. Earlier `Chains`: go on from their last state (this returns the new draws only, see
        `Chains.concatenate`).
    seed
        Decides, with a chain's number, everything random about it.
    device, dtype
        Where and in which type to sample; by default those of the target. Positions must be float32 or float64.
    progress
        Show a progress bar when someone is watching.
    checkpoint
        File that is written about once a minute and at the end. If it exists, the run goes on from it instead of
        starting.
    keep
        Patterns of the parameters whose draws are returned; all by default.
    keep_warmup
        Also return the warm-up's draws.
    compile
        Compile steps (``True``), do not (``False``), or when the run is long enough to repay it (``"auto"``).
    batches
        ``"independent"`` minibatches, or ``"epoch"`` sweeps, whose gradient noise heats a chain less than its size
        suggests.
    chain_ids
        Numbers of the chains, for running some of a larger set; ``range(num_chains)`` by default.

    Returns
    -------
    Chains
        On Ctrl-C, with what was drawn until then. A chain whose numbers stop being finite is stopped and the others
        go on; its later draws are NaN, and ``attrs["stopped"]`` names the step.

    Raises
    ------
    ValueError
        For settings that cannot be: sizes below one, a batch larger than the data, patterns that match nothing,
        positions in half precision, starting points that are not finite, a checkpoint of another run.
    """
    _check_counts(num_samples=num_samples, thinning=thinning, num_chains=num_chains)
    if not isinstance(num_warmup, int) or num_warmup < 0:
        raise ValueError(f"num_warmup must be a whole number ≥ 0, got {num_warmup!r}")
    target = target.to(device, dtype)
    if torch.finfo(target.dtype).bits < 32:
        raise ValueError(
            f"positions in {target.dtype} cannot take steps smaller than their rounding, most weights would never "
            "move; use dtype=torch.float32"
        )
    ids = list(range(num_chains)) if chain_ids is None else [int(c) for c in chain_ids]
    if len(set(ids)) < len(ids) or not all(0 <= c < 2**31 for c in ids) or not ids:
        raise ValueError(f"chain_ids must be distinct numbers from 0 on, got {ids}")
    source = None if batch_size is None else Batches(target.num_data, batch_size, batches)
    if batches == "epoch" and batch_size is not None and getattr(sampler, "counts_minibatch", False):
        raise ValueError(
            f'{type(sampler).__name__} counts on the heat of independent minibatches; batches="epoch" heats a chain '
            'several times less: use batches="independent"'
        )
    if getattr(target, "has_control_variate", False) and getattr(sampler, "counts_minibatch", False):
        raise ValueError(
            f"{type(sampler).__name__} counts on the whole heat of minibatch noise, and a control variate takes most "
            "of it away: use the posterior without it, or a sampler that injects its noise"
        )
    if hasattr(sampler, "check"):
        sampler.check(target, batch_size, None if isinstance(init, Chains) else num_warmup)
    columns, names = _columns(target, keep)
    made_by = describe(target, sampler, seed, ids, batch_size, batches, thinning)

    done, resumed = None, init if isinstance(init, Chains) else None
    if checkpoint is not None and Path(checkpoint).exists():
        done = resumed = Chains.load(checkpoint)
        changed = {k: (resumed.attrs.get(k), v) for k, v in made_by.items() if resumed.attrs.get(k) != v}
        if changed:
            raise ValueError(
                f"checkpoint {checkpoint} belongs to another run; (there, here): {changed}; remove or rename it"
            )
    if resumed is None:
        state = _first_state(target, sampler, init, seed, ids, num_warmup, made_by["temperature"] or 1.0)
    else:
        state = _restore(target, sampler, resumed, ids)
    engine = Engine(target, sampler, source, state, seed=seed, chain_ids=ids, thinning=thinning)
    del state  # which the engine may write over, or keep less of
    if resumed is not None:
        engine.resume(resumed.state)

    warmup_left, samples_left = num_warmup, num_samples
    if done is not None:
        warmup_left = max(0, num_warmup - int(engine.state.step))
        samples_left = num_samples - done.num_draws
    run = _Run(engine, columns, names, made_by, num_warmup, num_samples, keep_warmup, checkpoint, done)
    total = warmup_left + samples_left * thinning
    if total > 0:
        work = engine.state.position.numel() * (batch_size or target.num_data)
        with threads_for(work, target.device, engine.seconds_per_step if total >= WORTH_TIMING else None):
            engine.choose(total, compile)
            with Progress(total, engine.account, progress) as bar:
                run.go(warmup_left, samples_left, bar)
    return run.chains()


class _Run:
    """Draws gathered so far."""

    def __init__(
        self,
        engine: Engine,
        columns: Tensor | None,
        names: list[str],
        made_by: dict[str, Any],
        num_warmup: int,
        num_samples: int,
        keep_warmup: bool,
        checkpoint: str | os.PathLike[str] | None,
        done: Chains | None,
    ):
        self.engine, self.columns, self.names, self.made_by = engine, columns, names, made_by
        self.num_warmup, self.num_samples, self.keep_warmup = num_warmup, num_samples, keep_warmup
        self.checkpoint, self.done = checkpoint, done
        self.thinning = int(engine.thinning)
        self.interrupted, self.announced = False, set()
        self.began, self.saved = time.perf_counter(), time.perf_counter()
        self.started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.warmup, self.sampling = self._part(0, False), self._part(0, True)
        self.block_steps = 1

    def _part(self, rows: int, store_draws: bool) -> Record:
        chains, dim = self.engine.state.position.shape
        width = dim if self.columns is None else len(self.columns)
        dtype = self.engine.state.position.dtype
        return Record(
            draws=torch.empty(chains, rows, width if store_draws else 0, dtype=dtype),
            stats={name: torch.empty(chains, rows, dtype=dtype) for name in self.engine.stat_names},
            first_step=int(self.engine.state.step) - self.engine.phase,
            columns=self.columns,
        )

    def go(self, warmup: int, samples: int, bar: Progress) -> None:
        """Make all steps, or those before an interruption."""
        try:
            self.warmup = self._part(warmup // self.thinning, self.keep_warmup)
            self._steps(self.warmup, warmup, bar)
            if warmup:
                self.engine.begin_sampling()
            bar.sampling()
            self.sampling = self._part(samples, True)
            self._steps(self.sampling, samples * self.thinning - self.engine.phase, bar)
        except KeyboardInterrupt:
            self.interrupted = True
            warnings.warn(
                f"interrupted after step {int(self.engine.state.step)}; "
                f"returning {self.sampling.filled} draws per chain",
                stacklevel=3,
            )
        if self.checkpoint is not None:
            self.chains().save(self.checkpoint)

    def _steps(self, part: Record, total: int, bar: Progress) -> None:
        made = 0
        while made < total and bool((self.engine.stopped < 0).any()):
            # Blocks grow until one takes BLOCK_SECONDS, in whole draws where a block holds several.
            steps = min(self.block_steps, self.engine.longest, total - made)
            start = time.perf_counter()
            draws, stats = self.engine.run(steps)
            if part is self.warmup:
                first = part.first_step + part.filled * self.thinning
                made_at = first + self.thinning * torch.arange(1, len(draws) + 1)
                self.engine.learn_center(draws, made_at.to(draws.device) > self.num_warmup / 2)
            part.add(draws, stats)
            made += steps
            self._announce()
            bar.update(steps, part.latest("cost"), part.latest("temperature"))
            if time.perf_counter() - start < BLOCK_SECONDS / 2:
                self.block_steps = min(2 * steps, self.engine.plan.max_steps)
            if self.checkpoint is not None and time.perf_counter() - self.saved > CHECKPOINT_SECONDS:
                self.chains().save(self.checkpoint)
                self.saved = time.perf_counter()

    def _announce(self) -> None:
        for chain, step in _stopped(self.engine, self.made_by["chain_ids"]).items():
            if chain not in self.announced:
                self.announced.add(chain)
                warnings.warn(
                    f"chain {chain} stopped: its numbers were no longer finite after step {step}; its draws until then "
                    f"are kept and the other chains go on. {self._remedy(chain)}",
                    stacklevel=5,
                )

    def _remedy(self, chain: int) -> str:
        engine, row = self.engine, self.made_by["chain_ids"].index(chain)
        metric, found = getattr(engine.sampler, "metric", None), None
        if metric is not None:
            noise = Noise(engine.keys[0][row : row + 1], engine.stopped[row], engine.target.dtype)
            found = remedy(metric, engine.target, engine.state.position[row : row + 1], noise)
        return found or "A smaller lr or step size usually helps"

    def chains(self) -> Chains:
        """What has been drawn, with everything needed to go on."""
        seconds = time.perf_counter() - self.began
        result = Chains(
            draws=self._named(self.sampling.draws[:, : self.sampling.filled]),
            sample_stats=self._stats(self.sampling),
            attrs=self.made_by
            | {
                "batch_temperature": self._batch_heat(),
                "num_warmup": self.num_warmup,
                "num_samples": self.num_samples,
                "stopped": {str(c): s for c, s in _stopped(self.engine, self.made_by["chain_ids"]).items()},
                "interrupted": self.interrupted,
                "engine": self.engine.account,
                "seconds": seconds,
                "started": self.started,
                "device": str(self.engine.target.device),
                "dtype": str(self.engine.target.dtype).removeprefix("torch."),
                "versions": versions(),
                "langevin": versions()["langevin"],
            },
            state=self.engine.saved(),
            warmup_draws=self._named(self.warmup.draws[:, : self.warmup.filled]) if self.keep_warmup else {},
            warmup_stats=self._stats(self.warmup) if self.warmup.filled else {},
        )
        if self.done is not None:
            result = Chains.concatenate([self.done, result])
            result.attrs["num_samples"] = self.num_samples
        return result

    def _batch_heat(self) -> float | None:
        engine = self.engine
        preconditioned = hasattr(engine.sampler, "preconditioner")
        # A preconditioner without an lr is all of the step.
        lr, _ = at_step(getattr(engine.sampler, "lr", 1.0 if preconditioned else None), engine.state.step)
        alive = engine.stopped < 0
        if engine.batches is None:
            return 0.0
        if lr is None or not bool(alive.any()) or getattr(engine.sampler, "absorbs_minibatch", False):
            return None
        state, (noise_keys, batch_keys), solve = engine.state, engine.keys, None
        if preconditioned:
            batch = engine.batches.indices(batch_keys, state.step)
            noise = Noise(noise_keys, state.step, engine.target.dtype)
            solve = engine.sampler.preconditioner(engine.target, state, batch, noise)[0].solve
        heat = batch_heat(engine.target, engine.batches, state.position, batch_keys, solve)
        return float(lr * heat[alive].mean())

    def _named(self, flat: Tensor) -> dict[str, Tensor]:
        target = self.engine.target
        if self.columns is not None:
            full = torch.zeros(*flat.shape[:2], target.dim, dtype=flat.dtype)
            full[:, :, self.columns.cpu()] = flat
            flat = full
        values = target.to("cpu").unravel(flat)
        return {name: values[name].clone() if self.columns is not None else values[name] for name in self.names}

    def _stats(self, part: Record) -> dict[str, Tensor]:
        stats = {name: values[:, : part.filled] for name, values in part.stats.items()}
        steps = part.first_step + self.thinning * torch.arange(1, part.filled + 1) - 1
        lr, heat = at_step(getattr(self.engine.sampler, "lr", None), steps)
        like = stats["cost"]
        if lr is not None:
            stats["lr"] = torch.as_tensor(lr).to(like).expand_as(like).clone()
            stats["weight"] = torch.as_tensor(lr * heat).to(like).expand_as(like).clone()
        stopped = self.engine.stopped.cpu()[:, None]
        stats["diverged"] = (stopped >= 0) & (stopped <= steps)
        return stats


def _columns(target: Target, keep: str | Sequence[str] | None) -> tuple[Tensor | None, list[str]]:
    names = list(target.layout.names)
    if keep is None:
        return None, names
    patterns = [keep] if isinstance(keep, str) else list(keep)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"keep pattern {pattern!r} matches none of {names}")
    kept = [any(fnmatchcase(name, pattern) for pattern in patterns) for name in names]
    mask = torch.cat([torch.full((size,), k) for size, k in zip(target.layout.sizes, kept, strict=True)])
    return mask.nonzero()[:, 0].to(target.device), [name for name, k in zip(names, kept, strict=True) if k]


def _first_state(
    target: Target, sampler: Any, init: Init, seed: int, ids: list[int], num_warmup: int, temperature: float
) -> Any:
    state = sampler.init(target, starting_positions(target, init, seed, ids, temperature), num_warmup)
    if hasattr(sampler, "thermalise"):
        keys = chain_keys(seed, torch.tensor(ids, device=target.device), MOMENTA)
        state = sampler.thermalise(target, state, Noise(keys, state.step, target.dtype))
    return state


def _restore(target: Target, sampler: Any, chains: Chains, ids: list[int]) -> Any:
    """The state that `chains` ended in, for `sampler`."""
    if not chains.state:
        raise ValueError("these chains carry no state to go on from")
    if chains.attrs["sampler"] != type(sampler).__name__ or chains.attrs["chain_ids"] != ids:
        raise ValueError(
            f"chains of {chains.attrs['sampler']} with numbers {chains.attrs['chain_ids']} cannot be continued by "
            f"{type(sampler).__name__} with numbers {ids}"
        )
    position = chains.state["position"].to(device=target.device, dtype=target.dtype)
    if position.shape[1] != target.dim:
        raise ValueError(f"the chains have {position.shape[1]} coordinates, the target {target.dim}")
    fresh = sampler.init(target, position, 0)
    shapes = {name: leaf.shape for name, leaf in zip(leaf_names(fresh), leaves(fresh), strict=True)}
    if unlike := [name for name, shape in shapes.items() if getattr(chains.state.get(name), "shape", None) != shape]:
        raise ValueError(f"the chains were drawn with other settings of the sampler: their state differs in {unlike}")
    saved = [chains.state[name].to(like) for name, like in zip(leaf_names(fresh), leaves(fresh), strict=True)]
    return rebuild(spec_of(fresh), saved)


def _stopped(engine: Engine, ids: Sequence[int]) -> dict[int, int]:
    return {chain: step for chain, step in zip(ids, engine.stopped.tolist(), strict=True) if step >= 0}


def _check_counts(**counts: Any) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number ≥ 1, got {value!r}")
