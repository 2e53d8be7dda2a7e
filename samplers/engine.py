"""Runs a sampler's steps: many in one call, compiled where that pays, eagerly elsewhere.

One block of up to K steps is one call. Inside, a loop draws noise and minibatches by counter, calls the sampler's
`step`, freezes chains whose state is no longer finite, and writes draws and statistics into the block's record. No
sampler knows of this; compiled and eager runs differ by floating-point reordering only.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .batches import Batches
from .compilation import compiled, lift, set_lifted, structure
from .control import while_loop, write_row
from .likelihoods import without_validation
from .target import Target
from .threefry import BATCHES, NOISE, Noise, chain_keys, normals
from .tree import Spec, leaf_names, leaves, rebuild, spec_of

COMPILE_SECONDS = 20.0  # eager runs expected to be shorter do not repay compiling, which takes about half of this
MAX_STEPS = 256  # per call: makes the call's overhead, about 40 µs, small against the smallest step
PREFETCH_BYTES = 4 * 2**20  # of noise and indices drawn ahead of the loop
RECORD_BYTES = 2**18  # compiled loops copy the record at every step: it must stay small
COMMON_STATS = ("cost", "gradient_norm", "temperature")

UNROLL, UNROLL_WORK = 4, 20_000  # parameters × examples × chains of a step below which the loop itself is what costs
_CARRIED = ("center", "late_sum", "late_count", "stopped", "reading")

Block = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class PrefetchedNoise(Noise):
    """Noise whose first stream was drawn ahead for all steps of a block, `[step, chain, dim]`."""

    table: Tensor
    row: Tensor

    def normal(self, dim: int, stream: int = 0) -> Tensor:
        """Look stream 0 up and draw the others."""
        if stream == 0 and dim == self.table.shape[-1]:
            return self.table.index_select(0, self.row)[0]
        return normals(self.keys, self.step, dim, self.dtype, stream)


@dataclass(frozen=True)
class Plan:
    """Sizes of a block.

    Attributes
    ----------
    max_steps
        K, the most steps one call can make.
    rows
        The most draws one call can record. With a single row the draw is the position that the call ends with.
    prefetch
        Whether noise and indices of all K steps are drawn ahead, in one go.
    unroll
        Steps per turn of the loop, each of which costs some microseconds. Full-batch steps, which can hold loops of
        their own (leapfrog), take one turn each.
    """

    max_steps: int
    rows: int
    prefetch: bool
    unroll: int

    @classmethod
    def of(cls, position: Tensor, batch_size: int, thinning: int, cheap: bool = True) -> Plan:
        """Choose sizes that keep noise and record in the cache; `cheap` steps may be unrolled."""
        chains, dim = position.shape
        item = position.element_size()
        ahead = PREFETCH_BYTES // (chains * (dim * item + batch_size * 8))
        most = min(MAX_STEPS, ahead) if ahead >= 8 else MAX_STEPS
        rows = max(1, min(most // thinning, RECORD_BYTES // (chains * dim * item)))
        unroll = UNROLL if cheap and 0 < position.numel() * batch_size <= UNROLL_WORK else 1
        return cls(min(most, rows * thinning), rows, ahead >= 8, unroll)


def make_block(target: Target, sampler: Any, batches: Batches | None, state: Spec, plan: Plan) -> Block:
    """Build the function of tensors that makes up to `plan.max_steps` steps; it can be compiled as one graph."""
    tilted = is_tilted(sampler)

    def block(
        num_steps: Tensor,
        phase: Tensor,
        thinning: Tensor,
        noise_keys: Tensor,
        batch_keys: Tensor,
        center: Tensor,
        stopped: Tensor,
        reading: Tensor,
        *fields: Tensor,
    ) -> tuple[Tensor, ...]:
        start = rebuild(state, fields)
        chains, dim = start.position.shape
        dtype, device = start.position.dtype, start.position.device
        noise_table, index_table = None, None
        if plan.prefetch:
            ahead = -(-plan.max_steps // plan.unroll) * plan.unroll
            steps = (start.step + torch.arange(ahead, device=device)).repeat_interleave(chains)
            noise_table = normals(noise_keys.repeat(ahead, 1), steps, dim, dtype)
            noise_table = noise_table.unflatten(0, (ahead, chains))
            if batches is not None:
                index_table = batches.indices(batch_keys.repeat(ahead, 1), steps)
                index_table = index_table.unflatten(0, (ahead, chains))

        def more(k: Tensor, *_: Tensor) -> Tensor:
            return k < num_steps

        def step(k: Tensor, stopped: Tensor, reading: Tensor, draws: Tensor, stats: Tensor, *fields: Tensor):
            due = k < num_steps  # an unrolled loop may overshoot: such steps leave everything as it is
            old = rebuild(state, fields)
            noise, batch = Noise(noise_keys, old.step, dtype), None
            if noise_table is not None:
                noise = PrefetchedNoise(noise_keys, old.step, dtype, noise_table, k.reshape(1))
            if index_table is not None:
                batch = index_table.index_select(0, k.reshape(1))[0]
            elif batches is not None:
                batch = batches.indices(batch_keys, old.step)
            new = sampler.step(target, old, batch, noise)

            at = old.position if sampler.gradient_at == "previous" else new.position
            # One pass over the parameters; the last sum is 0 for finite positions and NaN for others.
            sums = [(at - center) * new.gradient, new.gradient**2, new.position - new.position]
            if tilted:
                sums.append((at - center) * new.log_measure_gradient)
            virial, square, zero, *tilt = torch.stack(sums).sum(-1)
            healthy = torch.isfinite(new.cost + zero)
            stopped = torch.where((stopped < 0) & due & ~healthy, old.step, stopped)
            alive = stopped < 0
            # Eager code on a CPU may look: where nothing is to be frozen, a large metric need not be copied.
            at_once = not torch.compiler.is_compiling() and device.type == "cpu" and bool((alive & due).all())
            kept = (
                leaves(new)
                if at_once
                else [
                    torch.where((alive & due).reshape(-1, *[1] * (n.ndim - 1)) if n.ndim else due, n.contiguous(), o)
                    for n, o in zip(leaves(new), fields, strict=True)  # a compiled loop's carry may not change strides
                ]
            )

            row = torch.where(due, (phase + k) // thinning, plan.rows)
            total = reading + torch.stack((virial * (target.num_data / dim), *(1 + t / dim for t in tilt)))
            values = (
                new.cost,
                square.sqrt(),
                *(total / thinning),
                *(getattr(new, name).to(dtype) for name in sampler.stats),
            )
            recorded = torch.where(alive[:, None], rebuild(state, kept).position, torch.nan)
            draws = write_row(draws, row, recorded) if plan.rows > 1 else recorded.unsqueeze(0)
            stats = write_row(stats, row, torch.where(alive, torch.stack(values), torch.nan))
            reading = torch.where(due, torch.where((phase + k + 1) % thinning == 0, 0.0, total), reading)
            return k + 1, stopped, reading, draws, stats, *kept

        def body(*carry: Tensor) -> tuple[Tensor, ...]:
            for _ in range(plan.unroll):
                carry = step(*carry)
            return carry

        num_stats = len(COMMON_STATS) + tilted + len(sampler.stats)
        carry = (
            torch.zeros((), dtype=torch.int64, device=device),
            stopped,
            reading,
            torch.zeros(plan.rows + (plan.rows > 1), chains, dim, dtype=dtype, device=device),
            torch.zeros(plan.rows + 1, num_stats, chains, dtype=dtype, device=device),  # the last for steps not due
            *fields,
        )
        _, stopped, reading, draws, stats, *fields_out = while_loop(more, body, carry)
        return stopped, reading, draws, stats, *fields_out

    return block


class Engine:
    """One sampler at work on one target.

    Attributes
    ----------
    state
        The sampler's state after the last step made.
    stopped
        `[chain]`: the step that left a chain with non-finite numbers, −1 for healthy ones. Its state is the last
        finite one.
    center
        `[chain, dim]`: c of the temperature reading (ω−c)·∇C/D: the mean of the warm-up's second half, once it is over.
    reading, phase
        Sum of the readings, and number of steps, since the last draw. Laws other than exp(−C/T), those with a state
        `log_measure_gradient`, have a second reading: (ω−c)·∇C/D averages to T times its average.
    stat_names
        What the rows of recorded statistics are.
    description
        How steps are run.
    """

    def __init__(
        self,
        target: Target,
        sampler: Any,
        batches: Batches | None,
        state: Any,
        *,
        seed: int,
        chain_ids: list[int],
        thinning: int,
    ):
        state = rebuild(spec_of(state), [leaf.contiguous() for leaf in leaves(state)])  # Cholesky factors are not
        self.target, self.sampler, self.batches, self.state = target, sampler, batches, state
        ids = torch.tensor(chain_ids, device=target.device)
        self.keys = chain_keys(seed, ids, NOISE), chain_keys(seed, ids, BATCHES)
        self.center = state.position.clone()
        self.stopped = torch.full_like(ids, -1)
        tilted = is_tilted(sampler)
        self.reading = state.position.new_zeros(1 + tilted, len(chain_ids))
        self.phase = 0
        self.stat_names = (*COMMON_STATS, *["temperature_weight"] * tilted, *sampler.stats)
        self.thinning = torch.tensor(thinning, device=target.device)
        self.late_sum, self.late_count = torch.zeros_like(self.center), torch.tensor(0, device=target.device)
        batch_size = batches.batch_size if batches else 0
        self.plan = Plan.of(state.position, batch_size, thinning, cheap=not hasattr(sampler, "metric"))
        self._block = make_block(target, sampler, batches, spec_of(state), self.plan)
        self.description = "eager"

    def run(self, num_steps: int) -> tuple[Tensor, Tensor]:
        """Make up to `longest` steps.

        Returns
        -------
        draws
            `[row, chain, dim]`, one row every `thinning` steps.
        stats
            `[row, statistic, chain]`, in the order of `stat_names`.
        """
        num, phase = (torch.tensor(value, device=self.target.device) for value in (num_steps, self.phase))
        with torch.no_grad(), without_validation():
            self.stopped, self.reading, draws, stats, *fields = self._block(
                num, phase, self.thinning, *self.keys, self.center, self.stopped, self.reading, *leaves(self.state)
            )
        self.state = rebuild(spec_of(self.state), fields)
        rows, self.phase = divmod(self.phase + num_steps, int(self.thinning))
        return draws[:rows], stats[:rows]

    @property
    def longest(self) -> int:
        """The most steps that the next call can make."""
        return min(self.plan.max_steps, self.plan.rows * int(self.thinning) - self.phase)

    def learn_center(self, draws: Tensor) -> None:
        """Count late draws of the warm-up, `[row, chain, dim]`, into the mean that becomes c."""
        self.late_sum = self.late_sum + draws.sum(0)
        self.late_count = self.late_count + len(draws)

    def begin_sampling(self) -> None:
        """Fix the constant c of the temperature reading and count draws from here.

        Had c the chain's present position, the readings would be low until the chain has forgotten it.
        """
        self.center = self.late_sum / self.late_count if self.late_count else self.state.position.clone()
        self.reading = torch.zeros_like(self.reading)
        self.phase = 0

    def saved(self) -> dict[str, Tensor]:
        """Everything needed to go on as if nothing had happened, on the CPU."""
        named = dict(zip(leaf_names(self.state), leaves(self.state), strict=True))
        named |= {name: getattr(self, name) for name in _CARRIED}
        return {name: torch.as_tensor(value).cpu() for name, value in named.items()} | {
            "phase": torch.tensor(self.phase)
        }

    def resume(self, saved: dict[str, Tensor]) -> None:
        """Take over what `saved` returned, except the sampler's state, which the engine was made with."""
        for name in _CARRIED:
            setattr(self, name, saved[name].to(getattr(self, name)))
        if int(saved["phase"]) < int(self.thinning):
            self.phase = int(saved["phase"])
        else:
            self.reading = torch.zeros_like(self.reading)

    def choose(self, total_steps: int, compile: bool | str) -> None:
        """Compile if told to, or if ``"auto"`` and the run is long enough; go on eagerly if only that fails."""
        if compile not in (True, False, "auto"):
            raise ValueError(f'compile must be True, False or "auto", got {compile!r}')
        if compile is False or (compile == "auto" and self.seconds_per_step() * total_steps < COMPILE_SECONDS):
            return
        try:
            self.compile()
        except KeyboardInterrupt:
            raise
        except Exception as error:
            if compile is True:
                raise
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(
                f"steps could not be compiled and run eagerly ({type(error).__name__}: {first[:200]})", stacklevel=3
            )

    def compile(self) -> None:
        """Compile the block, or take the one that this target already has.

        Raises what the compiler raises, and a RuntimeError where a compiled step differs from the eager one.
        """
        cache = self.target.__dict__.setdefault("_compiled", {})
        key = (
            structure(self.sampler), spec_of(self.state), self.state.position.shape, self.state.position.dtype,
            str(self.target.device),
            self.batches, self.plan, torch.get_num_threads(),
        )  # fmt: skip
        if key not in cache:
            lifted = lift(self.sampler, self.target.device)
            block = make_block(self.target, lifted, self.batches, spec_of(self.state), self.plan)
            cache[key] = compiled(block, self.target.device), lifted
        eager, (self._block, lifted) = self._block, cache[key]
        set_lifted(lifted, self.sampler)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", category=FutureWarning, module="torch")  # of the compiler's own parts
                self._rehearse(self.longest)
            self._check_step(eager)
        except Exception:
            self._block = eager
            del cache[key]
            raise
        self.description = f"compiled, up to {self.plan.max_steps} steps a call"

    def seconds_per_step(self) -> float:
        """Time a few steps from the present state, which stays; what a block draws ahead is shared out over K."""
        few = min(8, self.longest)
        self._rehearse(1)
        one, more = (self._timed(steps) for steps in (1, few))
        if few == 1:
            return one
        step = max((more - one) / (few - 1), 1e-9)
        return step + max(one - step, 0.0) / self.plan.max_steps

    def _check_step(self, eager: Block) -> None:
        """Make one step by either block from the present state, which stays: compilers err, at times in silence."""
        fast, start = self._block, self.state.position
        after, stopped = self._rehearse(1)
        self._block = eager
        try:
            expected, stopped_eagerly = self._rehearse(1)
        finally:
            self._block = fast
        healthy = stopped_eagerly < 0
        if not healthy.any():
            return
        largest = (expected - start)[healthy].abs().max()
        rounding = 8 * torch.finfo(start.dtype).eps * expected[healthy].abs().max()
        off = (after - expected)[healthy].abs().max()
        if (stopped[healthy] >= 0).any() or not off <= 0.01 * largest + rounding:
            raise RuntimeError(
                f"the compiled step is wrong, by {float(off):.3g} where eager steps move by {float(largest):.3g} at "
                "most: use compile=False, and please report this"
            )

    def _timed(self, num_steps: int) -> float:
        start = time.perf_counter()
        self._rehearse(num_steps)
        return time.perf_counter() - start

    def _rehearse(self, num_steps: int) -> tuple[Tensor, Tensor]:
        """Make steps that leave nothing behind; returns where they led and which chains stopped."""
        before = self.state, self.stopped, self.reading, self.phase
        self.run(num_steps)
        if self.target.device.type == "cuda":
            torch.cuda.synchronize(self.target.device)
        after = self.state.position, self.stopped
        self.state, self.stopped, self.reading, self.phase = before
        return after


def is_tilted(sampler: Any) -> bool:
    """Whether the stationary law is exp(−C/T) times a factor, whose log gradient the state holds."""
    return getattr(sampler, "measure", "lebesgue") == "jeffreys"
