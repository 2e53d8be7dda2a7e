"""The posterior of a PyTorch model's parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from . import data as data_
from .likelihoods import without_validation
from .target import Batch, Layout, cost_and_gradient

Prior = Distribution | Mapping[str, Distribution | None] | None


class Posterior:
    """π(ω) ∝ exp(−C(ω)), C = Σᵢ Lᵢ + R: negative log-likelihood summed over N examples, plus negative log-prior.

    The model is never changed: it is called by `torch.func.functional_call` with each chain's parameters. From a
    minibatch the cost is estimated by (N/B) Σ_b L_b + R; the prior counts once per data set and the caller never
    multiplies by N.

    Parameters
    ----------
    model
        Any module. Dictionary inputs are passed as keywords, tuples as positional arguments. Buffers are carried along.
    likelihood
        Outputs → `torch.distributions.Distribution`: `categorical`, `bernoulli`, `gaussian(scale)`,
        `heteroscedastic_gaussian`, `poisson` or your own callable. Terms beyond the first dimension (pixels, tokens)
        are summed per example.
    data
        `(inputs, targets)` as tensors or arrays, a map-style `Dataset`, or a `DataLoader` (read once, into memory).
    prior
        One distribution for all parameters, `{pattern: distribution or None}` (shell patterns on parameter names, the
        first match counts, every sampled parameter must be matched), or None for a flat prior.
    parameters
        Patterns of the parameters to sample; by default all that require gradients. The rest stay as they are.

    Raises
    ------
    ValueError
        For data of unequal length or with NaN, labels outside the likelihood's support, outputs that do not fit the
        targets, patterns that match nothing, modules whose forward pass is random or uses batch statistics, and models
        with nothing to sample.
    """

    def __init__(
        self,
        model: nn.Module,
        likelihood: Callable[[Any], Distribution],
        data: Any,
        prior: Prior = Normal(0.0, 1.0),  # noqa: B008  # immutable
        parameters: str | Sequence[str] | None = None,
    ):
        _check_modules(model)
        self.model, self.likelihood = model, likelihood
        sampled, self._fixed = _select(dict(model.named_parameters()), parameters)
        self.layout = Layout(tuple(sampled), tuple(p.shape for p in sampled.values()))
        first = next(iter(sampled.values()))
        self.device, self.dtype = first.device, first.dtype
        self._default = torch.cat([p.detach().to(self.dtype).reshape(-1) for p in sampled.values()])
        self._buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        self.prior = prior
        self._priors = _match_priors(prior, self.layout)
        self._anchor: tuple[Tensor, Tensor, Tensor] | None = None
        self.autocast: torch.dtype | None = None
        inputs, targets = data_.as_tensors(data)
        self.num_data = data_.check(inputs, targets)
        self.inputs = data_.cast(inputs, self.device, self.dtype)
        self.targets = self._check_likelihood(targets.to(self.device))

    def _check_likelihood(self, targets: Tensor) -> Tensor:
        """Evaluate two examples and compare shapes; return the targets in the type that the likelihood wants."""
        few = torch.arange(min(2, self.num_data), device=self.device)
        before = {name: buffer.clone() for name, buffer in self._buffers.items()}
        try:
            outputs = self._call_mapped(data_.take(self.inputs, few))
        except RuntimeError as error:
            if "randomness" not in str(error):
                raise
            raise ValueError(
                "the model's forward pass draws random numbers (functional dropout?); call model.eval() or remove "
                "them: a random forward pass has no posterior"
            ) from error
        one = self._call_mapped(data_.take(self.inputs, few[:1]))
        if one.shape != (1, *outputs.shape[1:]):
            raise ValueError(
                f"the model's outputs have shape {tuple(outputs.shape)} for {len(few)} examples but {tuple(one.shape)} "
                "for one: keep the batch dimension (squeeze(-1) instead of squeeze())"
            )
        for name, buffer in self._buffers.items():
            if not torch.equal(buffer, before[name]):
                raise ValueError(
                    f"the forward pass changes buffer {name!r}, which chains would share; call model.eval()"
                )
        with without_validation():
            distribution = self.likelihood(outputs)
        if not isinstance(distribution, Distribution):
            raise ValueError(f"likelihood must return a torch Distribution, got {type(distribution).__name__}")
        expected = distribution.batch_shape + distribution.event_shape
        found = targets[few].shape
        if expected != found or len(expected) == 0:
            hint = ""
            if len(expected) == 0 or expected[:1] != found[:1]:
                hint = ": it must describe each example, with the batch as first dimension, not the whole batch"
            elif (*tuple(found), 1) == tuple(expected):
                hint = ": give targets of shape [N, 1] (y.unsqueeze(-1)), or squeeze the model's output"
            elif outputs.ndim > 2 and outputs.movedim(1, -1).shape[:-1] == found:
                hint = ": classes go last, use outputs.movedim(1, -1)"
            raise ValueError(
                f"for {len(few)} examples the likelihood is over targets of shape {tuple(expected)}, but they have "
                f"shape {tuple(found)} (model outputs: {tuple(outputs.shape)}){hint}"
            )
        outside = ~distribution.support.check(targets)  # pyright: ignore[reportOptionalMemberAccess]
        if outside.any():
            where = tuple(outside.nonzero()[0].tolist())
            value = targets[where[0]].tolist()
            raise ValueError(
                f"{int(outside.sum())} targets lie outside the likelihood's support {distribution.support}, the first "
                f"in example {where[0]}: {value}"
            )
        with without_validation():
            keep = isinstance(distribution, torch.distributions.Categorical)
            targets = targets if keep or targets.is_floating_point() else targets.to(self.dtype)
            targets = data_.cast(targets, self.device, self.dtype)
            log_prob = distribution.log_prob(targets[few])
        if log_prob.shape != distribution.batch_shape:
            raise ValueError(
                f"the likelihood's log_prob has shape {tuple(log_prob.shape)} instead of "
                f"{tuple(distribution.batch_shape)}: it must give one term per example"
            )
        return targets

    def _call_mapped(self, inputs: data_.Inputs) -> Tensor:
        """Outputs at the default position by `vmap`, which every model must pass: it refuses random numbers."""
        return torch.func.vmap(self.call, in_dims=(0, None))(self._default[None], inputs)[0]

    @property
    def dim(self) -> int:
        """Number of sampled parameters D."""
        return self.layout.dim

    def call(self, position: Float[Tensor, " dim"], inputs: data_.Inputs) -> Float[Tensor, "batch ..."]:
        """Model outputs at one position."""
        parameters = self.layout.unravel(position)
        args, kwargs = (inputs,), None
        if isinstance(inputs, Mapping):
            args, kwargs = (), dict(inputs)
        elif isinstance(inputs, (tuple, list)):
            args = tuple(inputs)
        everything = parameters, self._fixed, self._buffers
        if self.autocast is None:
            return torch.func.functional_call(self.model, everything, args, kwargs)
        with torch.autocast(self.device.type, self.autocast, cache_enabled=False):
            outputs = torch.func.functional_call(self.model, everything, args, kwargs)
        return data_.cast(outputs, self.device, self.dtype)

    def outputs(
        self, position: Float[Tensor, "chain dim"], inputs: data_.Inputs, shared: bool = True
    ) -> Float[Tensor, "chain batch ..."]:
        """Model outputs of every chain, on shared inputs or, ``[chain, batch, ...]``, on its own."""
        return self._each(self.call, position, inputs, shared=shared)

    def distribution(self, outputs: Float[Tensor, "*chain batch ..."]) -> Distribution:
        """Distribution of the targets given model outputs."""
        with without_validation():
            return self.likelihood(outputs)

    def log_likelihood(self, position: Float[Tensor, "chain dim"], batch: Batch = None) -> Float[Tensor, "chain batch"]:
        """log p(yᵢ | xᵢ, ω) of each example of the batch, or of all."""

        def terms(position: Tensor, inputs: data_.Inputs, targets: Tensor) -> Tensor:
            log_prob = self.likelihood(self.call(position, inputs)).log_prob(targets)
            return log_prob.reshape(log_prob.shape[0], -1).sum(-1) if log_prob.ndim > 1 else log_prob

        with without_validation():
            if batch is None:
                return self._each(terms, position, self.inputs, self.targets, shared=True)
            return self._each(terms, position, data_.take(self.inputs, batch), self.targets[batch], shared=False)

    def _each(self, function: Callable[..., Tensor], position: Tensor, *data: Any, shared: bool) -> Tensor:
        """The function of each chain's parameters and of shared data or its own, `[chain, ...]`."""
        if len(position) > 1:
            return torch.func.vmap(function, in_dims=(0, *[None if shared else 0] * len(data)))(position, *data)
        # Convolutions with a chain dimension of one are slower than plain ones.
        return function(position[0], *(data if shared else data_.take(data, 0)))[None]

    def log_prior(self, position: Float[Tensor, "chain dim"]) -> Float[Tensor, " chain"]:
        """log p(ω); flat parts contribute 0."""
        total = position.new_zeros(position.shape[0])
        with without_validation():
            if isinstance(self.prior, Distribution) and not self.prior.batch_shape + self.prior.event_shape:
                return self.prior.log_prob(position).sum(-1)  # one call for all parameters
            for name, value in self.layout.unravel(position).items():
                if (prior := self._priors[name]) is not None:
                    total = total + prior.log_prob(value).reshape(position.shape[0], -1).sum(-1)
        return total

    def cost(self, position: Float[Tensor, "chain dim"], batch: Batch = None) -> Float[Tensor, " chain"]:
        """C = Σᵢ Lᵢ + R on the full data, or its estimate (N/B) Σ_b L_b + R."""
        log_likelihood = self.log_likelihood(position, batch)
        scale = self.num_data / log_likelihood.shape[1]
        return -scale * log_likelihood.sum(-1) - self.log_prior(position)

    def cost_and_gradient(
        self, position: Float[Tensor, "chain dim"], batch: Batch = None
    ) -> tuple[Float[Tensor, " chain"], Float[Tensor, "chain dim"]]:
        """C and the gradient of the mean cost, ĝ = (1/B) Σ_b ∇L_b + (1/N) ∇R; see also `with_control_variate`."""
        cost, ĝ = cost_and_gradient(self, position, batch)
        if self._anchor is None or batch is None:
            return cost, ĝ
        anchor, anchor_cost, anchor_gradient = self._anchor
        batch_cost, batch_gradient = cost_and_gradient(self, anchor.expand_as(position), batch)
        correction = anchor_gradient - batch_gradient
        slope = self.num_data * ((position - anchor) * correction).sum(-1)
        return cost + (anchor_cost - batch_cost) + slope, ĝ + correction

    def with_control_variate(self, position: Float[Tensor, " dim"] | Mapping[str, Tensor]) -> Self:
        """This posterior with a control variate in its minibatch gradients (Baker et al. 2019).

        ĝ(ω) becomes ĝ(ω) − ĝ(ω̂) + g(ω̂), both ĝ from the same batch, which leaves its mean as it is. Its variance,
        and with it the temperature that minibatch noise adds, falls with the distance of ω from ω̂: to 0 for a Gaussian
        mean, little where parameters are far from ω̂. A step costs twice as much. The estimate of C gets the same
        treatment, to first order.

        Parameters
        ----------
        position
            ω̂, as a rule the mode, from `find_mode`.

        Raises
        ------
        ValueError
            For a position of another shape, or where cost or gradient are not finite.
        """
        anchor = self.ravel(position) if isinstance(position, Mapping) else torch.as_tensor(position)
        if anchor.shape != (self.dim,):
            raise ValueError(f"a control variate needs one position of shape ({self.dim},), got {tuple(anchor.shape)}")
        anchor = anchor.detach().to(device=self.device, dtype=self.dtype)
        cost, gradient = cost_and_gradient(self, anchor[None], None)
        if not bool(torch.isfinite(cost).all() and torch.isfinite(gradient).all()):
            raise ValueError(f"the cost at the control variate's position is {float(cost)}, or its gradient not finite")
        varied = self.to_be_varied()
        varied._anchor = anchor, cost, gradient
        return varied

    def with_autocast(self, dtype: torch.dtype = torch.bfloat16) -> Self:
        """This posterior with matrix products and convolutions of its model in half precision, by `torch.autocast`.

        An **approximation**: outputs and gradients are rounded to about three digits, which acts like a small bias and
        a little more gradient noise. Positions, prior, likelihood and noise stay in the posterior's own type. For TF32
        on a GPU, `torch.set_float32_matmul_precision("high")` is all that it takes.

        Raises
        ------
        ValueError
            For types other than bfloat16; in float16 small gradients would be lost.
        """
        if dtype != torch.bfloat16:
            raise ValueError(f"autocast must be to torch.bfloat16, got {dtype}: float16 loses small gradients")
        varied = self.to_be_varied()
        varied.autocast = dtype
        return varied

    def to_be_varied(self) -> Self:
        """A copy that shares data and model, without what was compiled or found out for this one."""
        copied = copy.copy(self)
        for found in ("_compiled", "_layers"):
            copied.__dict__.pop(found, None)
        return copied

    @property
    def is_convolutional(self) -> bool:
        """Whether the model has convolutions, whose gradients compiling may make slower."""
        return any(isinstance(module, nn.modules.conv._ConvNd) for module in self.model.modules())

    @property
    def has_control_variate(self) -> bool:
        """Whether minibatch gradients are those of `with_control_variate`."""
        return self._anchor is not None

    def prior_of(self, name: str) -> Distribution | None:
        """The prior of one parameter; None if it is flat."""
        return self._priors[name]

    def default_position(self) -> Float[Tensor, " dim"]:
        """The model's own weights."""
        return self._default.clone()

    def prior_draw(self, seeds: list[int]) -> Float[Tensor, "chain dim"]:
        """One draw from the prior per seed; flat priors cannot be drawn from."""
        flat = [name for name, prior in self._priors.items() if prior is None]
        if flat:
            raise ValueError(f"the prior of {flat} is flat and cannot be drawn from; give another init")
        draws = []
        with torch.random.fork_rng(devices=[]):
            for seed in seeds:
                torch.manual_seed(seed)
                values = {
                    n: self._draw(self._priors[n], s)
                    for n, s in zip(self.layout.names, self.layout.shapes, strict=True)
                }
                draws.append(self.layout.ravel(values))
        return torch.stack(draws).to(device=self.device, dtype=self.dtype)

    @staticmethod
    def _draw(prior: Distribution | None, shape: torch.Size) -> Tensor:
        assert prior is not None
        return prior.expand(shape[: len(shape) - len(prior.event_shape)]).sample()

    def ravel(self, values: Mapping[str, Tensor]) -> Float[Tensor, "*chain dim"]:
        """`{name: [*chain, *shape]}` → `[*chain, dim]`."""
        return self.layout.ravel(values)

    def unravel(self, position: Float[Tensor, "*chain dim"]) -> dict[str, Tensor]:
        """`[*chain, dim]` → `{name: [*chain, *shape]}`, as views."""
        return self.layout.unravel(position)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """A copy with data, parameters and buffers on another device or in another floating-point type."""
        device, dtype = torch.device(device) if device is not None else self.device, dtype or self.dtype
        if (device, dtype) == (self.device, self.dtype):
            return self
        moved = copy.copy(self)
        moved.device, moved.dtype = device, dtype
        for attribute in ("_default", "_fixed", "_buffers", "_anchor", "inputs", "targets"):
            setattr(moved, attribute, data_.cast(getattr(self, attribute), device, dtype))
        return moved


def _check_modules(model: nn.Module) -> None:
    for name, module in model.named_modules():
        label = f"{type(module).__name__} {name!r}" if name else type(module).__name__
        if isinstance(module, nn.modules.batchnorm._NormBase) and (
            module.running_mean is None or (module.training and module.track_running_stats)
        ):
            if isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.running_mean is None:
                continue  # statistics of one example only
            raise ValueError(
                f"{label} normalises by statistics of the batch, so the cost is not a sum over examples and there is "
                "no posterior to sample; call model.eval() to use its running statistics, or use GroupNorm or LayerNorm"
            )
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise ValueError(
                f"{label} is active (p = {module.p}): a random forward pass has no posterior; "
                "call model.eval() or set p = 0"
            )


def _select(
    parameters: dict[str, nn.Parameter], patterns: str | Sequence[str] | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    if not parameters:
        raise ValueError("the model has no parameters, so there is nothing to sample")
    if patterns is None:
        chosen = {name for name, p in parameters.items() if p.requires_grad or not p.is_floating_point()}
        if not chosen:
            raise ValueError("no parameter of the model requires gradients; select some with parameters=[patterns]")
    else:
        patterns = [patterns] if isinstance(patterns, str) else list(patterns)
        chosen = set()
        for pattern in patterns:
            matched = {name for name in parameters if fnmatchcase(name, pattern)}
            if not matched:
                raise ValueError(f"parameters pattern {pattern!r} matches none of {list(parameters)}")
            chosen |= matched
    for name in chosen:
        if not parameters[name].is_floating_point():
            raise ValueError(
                f"parameter {name!r} has type {parameters[name].dtype} and cannot be sampled; "
                "leave it out with parameters=[patterns]"
            )
    sampled = {name: p.detach() for name, p in parameters.items() if name in chosen}
    fixed = {name: p.detach().clone() for name, p in parameters.items() if name not in chosen}
    return sampled, fixed


def _match_priors(prior: Prior, layout: Layout) -> dict[str, Distribution | None]:
    if prior is None or isinstance(prior, Distribution):
        patterns: Mapping[str, Distribution | None] = {"*": prior}
    else:
        patterns = prior
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in layout.names):
            raise ValueError(f"prior pattern {pattern!r} matches none of the sampled parameters {list(layout.names)}")
    matched = {}
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        found = [pattern for pattern in patterns if fnmatchcase(name, pattern)]
        if not found:
            raise ValueError(f"parameter {name!r} has no prior; add a pattern for it, {{'*': None}} for a flat one")
        matched[name] = patterns[found[0]]
        if matched[name] is not None:
            own = matched[name].batch_shape + matched[name].event_shape
            if len(own) > len(shape) or any(
                o not in (1, s) for o, s in zip(reversed(own), reversed(shape), strict=False)
            ):
                raise ValueError(f"the prior of {name!r} has shape {tuple(own)}, which does not fit {tuple(shape)}")
    return matched
