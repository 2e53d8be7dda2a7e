"""Linear and convolutional layers: their share of per-example gradients is an outer product.

A layer with inputs a and outputs s = W a + b at every position (one of a linear layer for vectors; pixels of a
convolution) has ∂/∂W = Σ_position δ aᵀ and ∂/∂b = Σ_position δ, where δ is the derivative with respect to s. One
reverse pass for each output direction thus serves all examples (Goodfellow 2015, arXiv:1510.01799).
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import vjp, vmap
from torch.utils._pytree import tree_leaves, tree_map_only

from .. import data as data_
from ..posterior import Posterior

Signals = list[tuple[Float[Tensor, "chain example position in"], Float[Tensor, "chain example direction position out"]]]


@dataclass(frozen=True)
class Layer:
    """One `nn.Linear` or `nn.Conv2d`.

    Attributes
    ----------
    name
        Of the module.
    out_features, in_features
        Length of δ and of a; for a convolution, channels and channels × kernel elements.
    weight, bias
        Where they begin in the flat position; None for one that is not sampled or not there.
    """

    name: str
    out_features: int
    in_features: int
    weight: int | None
    bias: int | None

    def index(self) -> Int[Tensor, "out homogeneous"]:
        """Flat indices of the weights of every output unit and, in the last column, of its bias."""
        units, columns = torch.arange(self.out_features)[:, None], []
        if self.weight is not None:
            columns.append(self.weight + units * self.in_features + torch.arange(self.in_features))
        if self.bias is not None:
            columns.append(self.bias + units)
        return torch.cat(columns, -1)

    def homogeneous(self, a: Float[Tensor, "*rest in"]) -> Float[Tensor, "*rest homogeneous"]:
        """ā: a for the weights and 1 for the bias."""
        parts = [a] * (self.weight is not None) + [torch.ones_like(a[..., :1])] * (self.bias is not None)
        return torch.cat(parts, -1)


class Layers:
    """The layers of a posterior's model that have sampled parameters and the formula above.

    A layer has it if it is used once in a forward pass, with the examples as first dimension, and shares no parameter.

    Attributes
    ----------
    layers
        In the order of the model's modules.
    outside
        Names of the sampled parameters that belong to none of them.
    order
        Flat indices of the parameters layer by layer, as in `Layer.index`, followed by those outside.
    bias_of
        Flat index of the bias of every weight's unit; elsewhere, and where there is no such bias, the parameter's own.
    """

    def __init__(self, posterior: Posterior):
        self._perturbations: dict[str, Tensor] = {}
        self._seen: dict[str, list[tuple[Tensor, torch.Size]]] = {}
        self._shapes: dict[Any, dict[str, torch.Size]] = {}
        self.layers: tuple[Layer, ...] = ()
        try:
            self._model = copy.deepcopy(posterior.model)  # the user's own gets no hooks
        except (RuntimeError, TypeError):  # it holds what cannot be copied
            self._model = nn.Identity()
        for layer in _candidates(posterior, self._model):
            hook = functools.partial(self._hook, layer.name)
            self._model.get_submodule(layer.name).register_forward_hook(hook, prepend=True, with_kwargs=True)
            self.layers += (layer,)
        self._keep_verified(posterior)
        inside = {f"{layer.name}.{kind}".lstrip(".") for layer in self.layers for kind in ("weight", "bias")}
        self.outside = tuple(name for name in posterior.layout.names if name not in inside)
        self.order, self.bias_of = (index.to(posterior.device) for index in self._indices(posterior.dim))

    def signals(
        self,
        posterior: Posterior,
        position: Float[Tensor, "chain dim"],
        inputs: Any,
        directions: Float[Tensor, "chain example direction ..."],
        shared: bool,
    ) -> Signals:
        """a and δ of every layer for directions in the space of the outputs; a function of the position."""
        if not self.layers:
            return []
        shapes = self._output_shapes(posterior, inputs, shared)

        def of_chain(position: Tensor, inputs: Any, directions: Tensor) -> Signals:
            size = directions.shape[0]
            zeros = {layer.name: position.new_zeros(size, *shapes[layer.name]) for layer in self.layers}

            def perturbed(perturbations: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
                outputs, seen = self._forward(posterior, position, inputs, perturbations)
                return outputs, {name: calls[0][0] for name, calls in seen.items()}

            _, pull_back, a = vjp(perturbed, zeros, has_aux=True)  # pyright: ignore[reportAssignmentType]
            (δ,) = vmap(pull_back)(directions.movedim(1, 0))
            return [self._by_position(layer, a[layer.name], δ[layer.name].movedim(0, 1)) for layer in self.layers]

        return vmap(of_chain, in_dims=(0, None if shared else 0, 0))(position, inputs, directions)

    def rows(self, signals: Signals) -> Float[Tensor, "chain row dim"]:
        """Jᵢᵀc for every example and direction; all sampled parameters must lie in the layers."""
        blocks = {}
        for layer, (a, δ) in zip(self.layers, signals, strict=True):
            if layer.weight is not None:
                blocks[layer.weight] = _outer(δ, a)
            if layer.bias is not None:
                blocks[layer.bias] = δ.sum(-2)
        ordered = [blocks[begin] for begin in sorted(blocks)]
        return (torch.cat(ordered, -1) if len(ordered) > 1 else ordered[0]).flatten(1, 2)

    def gram_pays(self, signals: Signals) -> bool:
        """Whether `gram` holds less at once than rows would, and then takes fewer operations."""
        if not self.layers or any(a.shape[2] > 1 for a, _ in signals):
            return False
        num_directions = signals[0][1].shape[2]
        dim = sum(layer.index().numel() for layer in self.layers)
        outs = [δ.shape[-1] for _, δ in signals]
        ins = [a.shape[-1] + 1 for a, _ in signals]
        return sum(outs) ** 2 + sum(ins) ** 2 <= num_directions * dim

    def gram(self, signals: Signals) -> Float[Tensor, "chain dim dim"]:
        """XᵀX of the rows X of layers with one position, without the rows.

        Between two layers it is Σ_example (Σ_direction δδ′ᵀ) ⊗ aa′ᵀ: one matrix product over examples, where that of
        the rows is over examples and directions. All sampled parameters must lie in the layers.
        """
        parts = {}  # by where they begin in the flat position
        for layer, (a, δ) in zip(self.layers, signals, strict=True):
            a, δ = a[:, :, 0], δ[..., 0, :]
            if layer.weight is not None:
                parts[layer.weight] = a, δ
            if layer.bias is not None:
                parts[layer.bias] = torch.ones_like(a[..., :1]), δ
        ordered = [parts[begin] for begin in sorted(parts)]
        blocks = [[_gram_block(*one, *other) for other in ordered[: i + 1]] for i, one in enumerate(ordered)]
        return torch.cat(
            [
                torch.cat([blocks[i][j] if j <= i else blocks[j][i].mT for j in range(len(ordered))], -1)
                for i in range(len(ordered))
            ],
            -2,
        )

    def moments(self, signals: Signals) -> tuple[Float[Tensor, "chain dim"], Float[Tensor, "chain dim"]]:
        """Sums over rows x of xᵢ², and of xᵢx₀ with 0 the bias of i's unit (0 where there is none, and for biases).

        Of a layer with one position they need no rows: they are the sums over examples of (Σ_direction δ²) ⊗ ā² and
        (Σ_direction δ²) ⊗ ā. All sampled parameters must lie in the layers.
        """
        squares, products = [], []
        for layer, (a, δ) in zip(self.layers, signals, strict=True):
            ā = layer.homogeneous(a)
            if a.shape[2] == 1:
                weight = δ[..., 0, :].square().sum(2).mT
                square, product = weight @ ā[:, :, 0].square(), weight @ ā[:, :, 0]
            else:
                rows = _outer(δ, ā).unflatten(-1, (layer.out_features, -1))
                square, product = rows.square().sum((1, 2)), (rows * rows[..., -1:]).sum((1, 2))
            has_bias = layer.bias is not None
            product = nn.functional.pad(product[..., :-1], (0, 1)) if has_bias else torch.zeros_like(product)
            squares.append(square.flatten(1))
            products.append(product.flatten(1))
        back = self.order.argsort()
        return torch.cat(squares, -1)[:, back], torch.cat(products, -1)[:, back]

    def _indices(self, dim: int) -> tuple[Int[Tensor, " dim"], Int[Tensor, " dim"]]:
        """`order` and `bias_of`."""
        bias_of, is_outside = torch.arange(dim), torch.ones(dim, dtype=torch.bool)
        for layer in self.layers:
            is_outside[layer.index()] = False
            if layer.bias is not None:
                bias_of[layer.index()] = layer.index()[:, -1:]
        return torch.cat((*(layer.index().flatten() for layer in self.layers), is_outside.nonzero()[:, 0])), bias_of

    def _by_position(self, layer: Layer, a: Tensor, δ: Tensor) -> tuple[Tensor, Tensor]:
        module = self._model.get_submodule(layer.name)
        if isinstance(module, nn.Linear):
            return a.reshape(len(a), -1, a.shape[-1]), δ.reshape(*δ.shape[:2], -1, δ.shape[-1])
        assert isinstance(module, nn.Conv2d)
        padded = nn.functional.pad(a, module._reversed_padding_repeated_twice)
        kernel, dilation, stride = (tuple[int, int](x) for x in (module.kernel_size, module.dilation, module.stride))
        patches = nn.functional.unfold(padded, kernel, dilation, 0, stride)
        return patches.mT, δ.flatten(-2).mT

    def _hook(self, name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        self._seen.setdefault(name, []).append((args[0] if args else kwargs["input"], output.shape))
        return output + self._perturbations[name] if name in self._perturbations else output

    def _forward(
        self, posterior: Posterior, position: Tensor, inputs: Any, perturbations: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, list[tuple[Tensor, torch.Size]]]]:
        """Outputs of one chain, and what every layer has seen."""
        twin = copy.copy(posterior)
        twin.model = self._model
        self._perturbations, self._seen = perturbations, {}
        try:
            return twin.call(position, inputs), self._seen
        finally:
            self._perturbations, self._seen = {}, {}  # they belong to a transformation that ends

    def _output_shapes(self, posterior: Posterior, inputs: Any, shared: bool) -> dict[str, torch.Size]:
        """Shape of every layer's output for one example, from the first time that inputs of a shape are seen."""
        lead = 1 if shared else 2
        key = tuple(leaf.shape[lead:] for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor))
        if key not in self._shapes:
            one = tree_map_only(Tensor, lambda leaf: leaf[:1] if shared else leaf[0, :1], inputs)
            _, seen = self._forward(posterior, posterior.default_position(), one, {})
            self._shapes[key] = {name: calls[0][1][1:] for name, calls in seen.items()}
        return self._shapes[key]

    def _keep_verified(self, posterior: Posterior) -> None:
        """Drop layers used otherwise than once, and those whose formula misses a part of the derivative."""
        if not self.layers:
            return
        few = data_.take(posterior.inputs, torch.arange(2, device=posterior.device) % posterior.num_data)
        position = posterior.default_position()
        wave = torch.arange(posterior.dim, device=posterior.device).to(position).cos()  # as good as random
        position = position + 0.1 * wave
        _, seen = self._forward(posterior, position, few, {})

        def regular(layer: Layer) -> bool:
            calls, module = seen.get(layer.name, []), self._model.get_submodule(layer.name)
            dims = 4 if isinstance(module, nn.Conv2d) else calls[0][0].ndim if calls else 0
            return len(calls) == 1 and dims >= 2 and calls[0][0].ndim == dims and len(calls[0][0]) == 2

        self.layers = tuple(layer for layer in self.layers if regular(layer))
        outputs, pull_back = vjp(lambda at: posterior.call(at, few), position)  # pyright: ignore[reportAssignmentType]
        directions = 1 + torch.arange(outputs.numel(), device=outputs.device).to(outputs).cos().reshape(outputs.shape)
        zero = torch.zeros_like(directions[0])
        each = torch.stack((directions[0], zero)), torch.stack((zero, directions[1]))
        (expected,) = vmap(pull_back)(torch.stack(each))
        signals = self.signals(posterior, position[None], few, directions[None, :, None], True)

        def exact(layer: Layer, a: Tensor, δ: Tensor) -> bool:
            index = layer.index().to(position.device)
            found = _outer(δ, layer.homogeneous(a))[0, :, 0].reshape(2, *index.shape)
            return bool((found - expected[:, index]).norm() <= 1e-3 * expected[:, index].norm())

        self.layers = tuple(layer for layer, (a, δ) in zip(self.layers, signals, strict=True) if exact(layer, a, δ))


def layers_of(posterior: Posterior) -> Layers:
    """The layers of a posterior, looked for once."""
    cache = posterior.__dict__.setdefault("_layers", {})
    key = posterior.device, posterior.dtype  # a posterior moved elsewhere shares the cache
    if key not in cache:
        cache[key] = Layers(posterior)
    return cache[key]


def complete_layers(posterior: Posterior) -> Layers | None:
    """The layers, if all sampled parameters lie in them and this is not a compilation, which would refuse the hooks."""
    if torch.compiler.is_compiling() or layers_of(posterior).outside:
        return None
    return layers_of(posterior)


def _candidates(posterior: Posterior, model: nn.Module) -> list[Layer]:
    begins = dict(zip(posterior.layout.names, _begins(posterior.layout.sizes), strict=True))
    every = [id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)]
    found = []
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if type(module) is nn.Linear:
            sizes = module.out_features, module.in_features
        elif type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros":
            sizes = module.out_channels, module.weight[0].numel()
        else:
            continue
        weight, bias = (begins.get(f"{name}.{kind}".lstrip(".")) for kind in ("weight", "bias"))
        untied = all(every.count(id(parameter)) == 1 for parameter in own.values())
        if untied and set(own) <= {"weight", "bias"} and (weight is not None or bias is not None):
            found.append(Layer(name, *sizes, weight, bias))
    return found


def _begins(sizes: list[int]) -> list[int]:
    return [sum(sizes[:i]) for i in range(len(sizes))]


def _gram_block(a: Tensor, δ: Tensor, other_a: Tensor, other_δ: Tensor) -> Float[Tensor, "chain weight other"]:
    gradients = (δ.mT @ other_δ).flatten(-2)
    inputs = (a[..., :, None] * other_a[..., None, :]).flatten(-2)
    shape = δ.shape[-1], other_δ.shape[-1], a.shape[-1], other_a.shape[-1]
    return (
        (gradients.mT @ inputs)
        .unflatten(-2, shape[:2])
        .unflatten(-1, shape[2:])
        .transpose(2, 3)
        .flatten(3)
        .flatten(1, 2)
    )


def _outer(
    δ: Float[Tensor, "chain example direction position out"], a: Float[Tensor, "chain example position in"]
) -> Float[Tensor, "chain example direction weight"]:
    """Σ_position δ aᵀ, row by row."""
    if a.shape[2] == 1:  # no sum: a broadcast product is faster than matrix products with an inner length of one
        return (δ[..., 0, :, None] * a[:, :, None, 0, None, :]).flatten(-2)
    return torch.einsum("cndpo,cnpi->cndoi", δ, a).flatten(-2)
