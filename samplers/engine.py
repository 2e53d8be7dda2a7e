"""Runs a sampler's steps, in the way that suits their size.

- Small and medium states: many steps in one compiled call (`blocks`).
- Large states: one compiled step a call, written over the old state (`in_place`).
- Large convolutional networks: the same, with eager gradients.
- Without a compiler, or for runs too short to repay it: the same blocks, eagerly.

No sampler knows of this. All ways differ by floating-point reordering only.
"""

from __future__ import annotations

import time
import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor

from .batches import Batches
from .blocks import Block, Layers, Plan, can_be_in_place, is_tilted, make_block, stat_names
from .compilation import compiled, compiling, lift, set_lifted, structure
from .in_place import CENTERED_DIM, make_step, without_gradient
from .likelihoods import without_validation
from .target import Target
from .threefry import BATCHES, NOISE, chain_keys
from .tree import leaf_names, leaves, rebuild, spec_of

LONG_GRADIENT = 0.02  # seconds; compiled convolutions of that size were slower than eager ones by a quarter
SLOW_STEP = 0.1  # seconds, of which one is enough to time
WORTH_COMPILING = 1.5  # seconds of eager steps for each second of compiling, from which on it is repaid
_CARRIED = ("center", "late_sum", "late_count", "stopped")


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
        `[chain, dim]`: c of the temperature reading (ω−c)·∇C/D: the mean of the warm-up's second half, once it is over;
        0, and 0-d, where chains have `CENTERED_DIM` parameters or more.
    reading, phase
        Sums of the readings of each of the `Layers`, `[part, chain]`, and number of steps, since the last draw. Laws
        other than exp(−C/T), those with a state `log_measure_gradient`, have second readings, below these: (ω−c)·∇C/D
        averages to T times their average.
    stat_names
        What the rows of recorded statistics are.
    description
        How steps are run.
    reason
        Why they are not compiled; None where they are, or where nobody asked.
    threads
        CPU threads, as they were when `choose` was called.
    compile_seconds
        How long compiling took the last time it was done in this process.
    """

    compile_seconds: ClassVar[float] = 8.0

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
        self._lean = state.position.shape[1] >= CENTERED_DIM
        self.center = torch.zeros_like(state.position[0, 0]) if self._lean else state.position.clone()
        self.stopped = torch.full_like(ids, -1)
        layers = Layers(target)
        self.reading = state.position.new_zeros((1 + is_tilted(sampler)) * len(layers.sizes), len(chain_ids))
        self.phase = 0
        self.stat_names = stat_names(sampler, layers)
        self.thinning = torch.tensor(thinning, device=target.device)
        self.late_sum, self.late_count = torch.zeros_like(self.center), torch.tensor(0, device=target.device)
        batch_size = batches.batch_size if batches else 0
        self.plan = Plan.of(sampler, state.position, batch_size, thinning, len(layers.names))
        self._block = make_block(target, sampler, batches, spec_of(state), self.plan)
        self._step: Block | None = None
        self.description, self.reason, self.threads = "eager", None, torch.get_num_threads()

    def run(self, num_steps: int) -> tuple[Tensor, Tensor]:
        """Make up to `longest` steps.

        Returns
        -------
        draws
            `[row, chain, dim]`, one row every `thinning` steps. It may be the state's own memory: copy it before the
            next call.
        stats
            `[row, statistic, chain]`, in the order of `stat_names`.
        """
        with torch.no_grad(), without_validation():
            draws, stats = self._steps_in_place(num_steps) if self._step else self._steps_in_block(num_steps)
        rows, self.phase = divmod(self.phase + num_steps, int(self.thinning))
        return draws[:rows], stats[:rows]

    def _steps_in_block(self, num_steps: int) -> tuple[Tensor, Tensor]:
        num, phase = (torch.tensor(value, device=self.target.device) for value in (num_steps, self.phase))
        self.stopped, self.reading, draws, stats, *fields = self._block(
            num, phase, self.thinning, *self.keys, self.center, self.stopped, self.reading, *leaves(self.state)
        )
        self.state = rebuild(spec_of(self.state), fields)
        return draws, stats

    def _steps_in_place(self, num_steps: int, due: bool = True) -> tuple[Tensor, Tensor]:
        assert self._step is not None
        due_, phase = (torch.tensor(value, device=self.target.device) for value in (due, self.phase))
        fields, stats, given, batches = leaves(self.state), torch.empty(0), (), [None] * num_steps
        if self.plan.eager_gradient and self.batches is not None:
            batches = self.batches.ahead(self.keys[1], self.state.step, num_steps).unbind()
        for batch in batches:
            if self.plan.eager_gradient:
                given = self.target.cost_and_gradient(self.state.position, batch)
            self.stopped, self.reading, stats = self._step(
                due_, phase, self.thinning, *self.keys, self.center, self.stopped, self.reading, *given, *fields
            )
            phase = phase + 1
        # Overflow in the update itself, which a step does not look for.
        least, most = self.state.position.aminmax(dim=-1)
        overflown = (self.stopped < 0) & ~torch.isfinite(most - least)
        self.stopped = torch.where(overflown, self.state.step - 1, self.stopped)
        draws = self.state.position
        if bool((self.stopped >= 0).any()):
            draws = torch.where(self.stopped[:, None] < 0, draws, torch.nan)
        return draws[None], stats[None]

    @property
    def longest(self) -> int:
        """The most steps that the next call can make."""
        return min(self.plan.max_steps, self.plan.rows * int(self.thinning) - self.phase)

    def learn_center(self, draws: Tensor, late: Tensor) -> None:
        """Count the `late` ones among draws of the warm-up, `[row, chain, dim]`, into the mean that becomes c."""
        if not self._lean and bool(late.any()):
            self.late_sum = self.late_sum + draws[late].sum(0)
            self.late_count = self.late_count + late.sum()

    def begin_sampling(self) -> None:
        """Fix the constant c of the temperature reading and count draws from here.

        Had c the chain's present position, the readings would be low until the chain has forgotten it.
        """
        if not self._lean:
            self.center = self.late_sum / self.late_count if self.late_count else self.state.position.clone()
        self.reading = torch.zeros_like(self.reading)
        self.phase = 0

    def saved(self) -> dict[str, Tensor]:
        """Everything needed to go on as if nothing had happened, on the CPU."""
        named = dict(zip(leaf_names(self.state), leaves(self.state), strict=True))
        named |= {name: getattr(self, name) for name in (*_CARRIED, "reading")}
        return {name: torch.as_tensor(value).cpu() for name, value in named.items()} | {
            "phase": torch.tensor(self.phase)
        }

    def resume(self, saved: dict[str, Tensor]) -> None:
        """Take over what `saved` returned, except the sampler's state, which the engine was made with.

        Raises
        ------
        ValueError
            If the readings since the last draw are of other layers.
        """
        for name in _CARRIED:
            setattr(self, name, saved[name].to(getattr(self, name)))
        phase = int(saved["phase"])
        if 0 < phase < int(self.thinning):
            if saved["reading"].shape != self.reading.shape:
                raise ValueError(
                    f"the chains were saved {phase} steps after a draw, with temperatures read of other layers than "
                    "those of this target, or by a version that did not tell layers apart: sample them anew"
                )
            self.phase, self.reading = phase, saved["reading"].to(self.reading)

    def choose(self, total_steps: int, compile: bool | str) -> None:
        """Compile if told to, or if ``"auto"`` and the run is long enough; go on eagerly if only that fails."""
        if compile not in (True, False, "auto"):
            raise ValueError(f'compile must be True, False or "auto", got {compile!r}')
        self.threads = torch.get_num_threads()
        if compile is False:
            return
        eager_seconds = 0.0
        if compile == "auto":
            eager_seconds = self.seconds_per_step()
            if eager_seconds * total_steps < WORTH_COMPILING * self.compile_seconds:
                self.reason = f"about {eager_seconds * total_steps:.2g} s, too short to repay compiling"
                return
        eager = self._block, self.plan
        if self._has_long_gradient():
            self.plan = self.plan.with_eager_gradient()
        try:
            self.compile()
        except KeyboardInterrupt:
            raise
        except Exception as error:
            self.plan = eager[1]
            if compile is True:
                raise
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.reason = f"compiling failed, {type(error).__name__}: {first[:200]}"
            warnings.warn(f"steps run eagerly: {self.reason}", stacklevel=3)
            return
        # Convolutions can be slower in compiled code.
        if compile == "auto" and (seconds := self.seconds_per_step()) > eager_seconds:
            (self._block, self.plan), self._step, self.description = eager, None, "eager"
            self.reason = f"compiled steps take {seconds / eager_seconds:.2g} times as long"

    def _has_long_gradient(self) -> bool:
        """Whether compiling would take long and not make the gradient faster."""
        chains = len(self.state.position)
        if chains > 1 or not getattr(self.target, "is_convolutional", False) or not can_be_in_place(self.sampler):
            return False
        batch = None if self.batches is None else self.batches.indices(self.keys[1], self.state.step)
        seconds = float("inf")
        for _ in range(2):
            began = time.perf_counter()
            self.target.cost_and_gradient(self.state.position, batch)
            seconds = min(seconds, time.perf_counter() - began)
        return seconds > LONG_GRADIENT

    def compile(self) -> None:
        """Compile the block or step, or take the one that this target already has.

        Raises what the compiler raises, and a RuntimeError where a compiled step differs from the eager one.
        """
        cache, key = self.target.__dict__.setdefault("_compiled", {}), self._key()
        began, eager, state = time.perf_counter(), self._block, self.state
        if new := key not in cache:
            cache[key] = self._compiled()
        block, lifted = cache[key]
        set_lifted(lifted, self.sampler)
        try:
            with compiling():
                if self.plan.in_place:
                    self.state, self._step = without_gradient(state), block
                    with torch.no_grad(), without_validation():
                        self._steps_in_place(1, due=False)
                else:
                    self._block = block
                    self._rehearse(self.longest)
            if not self._lean:
                self._check_step(eager)
        except Exception:
            self._block, self._step, self.state = eager, None, state
            del cache[key]
            raise
        if new:
            Engine.compile_seconds = time.perf_counter() - began
        how = "one step a call, in place" if self.plan.in_place else f"up to {self.plan.max_steps} steps a call"
        how += ", after an eager gradient" if self.plan.eager_gradient else ""
        self.description, self.reason = f"compiled, {how}", None

    def _key(self) -> tuple[Any, ...]:
        """What a compiled block depends on, besides its target."""
        position = self.state.position
        settings = structure(self.sampler), spec_of(self.state), self.batches, self.plan
        return (*settings, position.shape, position.dtype, str(self.target.device), torch.get_num_threads())

    def _compiled(self) -> tuple[Block, Any]:
        lifted = lift(self.sampler, self.target.device)
        made_of = self.target, lifted, self.batches, spec_of(self.state)
        in_place = self.plan.in_place
        block = make_step(*made_of, self.plan.eager_gradient) if in_place else make_block(*made_of, self.plan)
        return compiled(block, self.target.device), lifted

    @property
    def account(self) -> str:
        """How steps are run, on how many threads, and why not otherwise: for people."""
        threads = [f"{self.threads} thread{'s' * (self.threads > 1)}"] if self.target.device.type == "cpu" else []
        return ", ".join([self.description, *threads]) + (f" ({self.reason})" if self.reason else "")

    def seconds_per_step(self) -> float:
        """Time a few steps from the present state, which stays; what a block draws ahead is shared out over K."""
        few = min(8, self.longest)
        self._rehearse(1)
        one = self._timed(1)
        if few == 1 or one > SLOW_STEP:
            return one
        more = self._timed(few)
        step = max((more - one) / (few - 1), 1e-9)
        return step + max(one - step, 0.0) / self.plan.max_steps

    def _check_step(self, eager: Block) -> None:
        """Make one step by either block from the present state, which stays: compilers err, at times in silence."""
        fast, start = (self._block, self._step), self.state.position.clone()
        after, stopped = self._rehearse(1)
        self._block, self._step = eager, None
        try:
            expected, stopped_eagerly = self._rehearse(1)
        finally:
            self._block, self._step = fast
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
        if self._step:
            self.state = rebuild(spec_of(self.state), [leaf.clone() for leaf in leaves(self.state)])
        self.run(num_steps)
        if self.target.device.type == "cuda":
            torch.cuda.synchronize(self.target.device)
        after = self.state.position, self.stopped
        self.state, self.stopped, self.reading, self.phase = before
        return after
