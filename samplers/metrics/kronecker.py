"""K-FAC: one Kronecker product for each linear or convolutional layer (Martens & Grosse 2015; Nado et al. 2018).

With ā the inputs of a layer followed by 1 for its bias and δ the derivatives with respect to its outputs, the block of
a weight [out, in + 1] is

    F = S ⊗ A,    A = E[Σ_position ā āᵀ],    S = E[mean_position Σ_direction δ δᵀ],

E over examples (the sum and the mean over positions: Grosse & Martens 2016). For V of the weight's shape F V = S V A.
Neglected are covariances between layers and between ā and δ, and for convolutions those between positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .dense import eigh, gram
from .layers import Layers, Signals

Blocks = list[Float[Tensor, "chain out homogeneous"]]


@dataclass
class Kronecker:
    """G = S⊗A + δI by the eigenvectors of S and of A, in which the damping is exact.

    Attributes
    ----------
    outputs, inputs
        Eigenvectors of S and of A, for every layer.
    eigenvalues
        λ_S λ_A + δ, layer after layer, then Fᵢᵢ + δ of the parameters outside; NaN where not positive.
    order
        Index of the parameter that comes at each place of this sequence.
    """

    outputs: tuple[Float[Tensor, "chain out out"], ...]
    inputs: tuple[Float[Tensor, "chain homogeneous homogeneous"], ...]
    eigenvalues: Float[Tensor, "chain dim"]
    order: Int[Tensor, "chain dim"]

    @property
    def noise_dim(self) -> int:
        """D."""
        return self.eigenvalues.shape[-1]

    def solve(self, vector: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """U Λ⁻¹ Uᵀ v."""
        return self._from_eigenbasis(self._to_eigenbasis(vector) / self.eigenvalues)

    def multiply(self, vector: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """U Λ Uᵀ v."""
        return self._from_eigenbasis(self._to_eigenbasis(vector) * self.eigenvalues)

    def factor(self, noise: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """U √Λ Uᵀ ξ: the symmetric root, which is the same for every choice of eigenvectors."""
        return self._from_eigenbasis(self.eigenvalues.sqrt() * self._to_eigenbasis(noise))

    def sample_noise(self, noise: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """U Λ^(−½) Uᵀ ξ."""
        return self._from_eigenbasis(self._to_eigenbasis(noise) / self.eigenvalues.sqrt())

    def log_det(self) -> Float[Tensor, " chain"]:
        """Σ log(λ_S λ_A + δ)."""
        return self.eigenvalues.log().sum(-1)

    def trace(self, curvature: KroneckerCurvature) -> Float[Tensor, " chain"]:
        """Σ over kl of (UᵀSU)ₖₖ (UᵀAU)ₗₗ / Λₖₗ."""
        diagonal = [
            (_in_basis(S, U)[..., :, None] * _in_basis(A, V)[..., None, :]).flatten(-2)
            for S, A, U, V in zip(curvature.outputs, curvature.inputs, self.outputs, self.inputs, strict=True)
        ]
        return (torch.cat((*diagonal, curvature.outside), -1) / self.eigenvalues).sum(-1)

    def _to_eigenbasis(self, vector: Tensor) -> Tensor:
        blocks, outside = split(vector.gather(-1, self.order), self.outputs, self.inputs)
        rotated = [U.mT @ B @ V for U, B, V in zip(self.outputs, blocks, self.inputs, strict=True)]
        return join(rotated, outside)

    def _from_eigenbasis(self, vector: Tensor) -> Tensor:
        blocks, outside = split(vector, self.outputs, self.inputs)
        rotated = [U @ B @ V.mT for U, B, V in zip(self.outputs, blocks, self.inputs, strict=True)]
        return restore(join(rotated, outside), self.order)


@dataclass
class KroneckerCurvature:
    """S and A of every layer and the diagonal of F for parameters outside.

    Sums and multiples are those of S, of A and of the diagonal, each by itself: with weights that add up to one, a
    K-FAC moving average. A multiple c thus stands for c²S⊗A until the sum is complete.
    """

    outputs: tuple[Float[Tensor, "chain out out"], ...]
    inputs: tuple[Float[Tensor, "chain homogeneous homogeneous"], ...]
    outside: Float[Tensor, "chain outside"]
    order: Int[Tensor, "chain dim"]

    @classmethod
    def of_signals(
        cls, layers: Layers, signals: Signals, outside: Float[Tensor, "chain outside"], size: int
    ) -> KroneckerCurvature:
        """From some of `size` examples, whose δ contain the factor 1/√size."""
        outputs, inputs = [], []
        for layer, (a, δ) in zip(layers.layers, signals, strict=True):
            inputs.append(gram(layer.homogeneous(a).flatten(1, 2)) / size)
            outputs.append(gram(δ.flatten(1, 3)) / a.shape[2])
        return cls(tuple(outputs), tuple(inputs), outside, layers.order.expand(len(outside), -1))

    def multiply(self, vector: Float[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
        """S V A for every layer."""
        blocks, outside = split(vector.gather(-1, self.order), self.outputs, self.inputs)
        products = [S @ B @ A for S, B, A in zip(self.outputs, blocks, self.inputs, strict=True)]
        return restore(join(products, self.outside * outside), self.order)

    def scaled(self, factor: Tensor | float) -> KroneckerCurvature:
        """Each of the factors times `factor`."""
        outputs, inputs = (tuple(factor * matrix for matrix in part) for part in (self.outputs, self.inputs))
        return KroneckerCurvature(outputs, inputs, factor * self.outside, self.order)

    def plus(self, other: KroneckerCurvature) -> KroneckerCurvature:
        """S + S′ and A + A′."""
        outputs = tuple(one + two for one, two in zip(self.outputs, other.outputs, strict=True))
        inputs = tuple(one + two for one, two in zip(self.inputs, other.inputs, strict=True))
        return KroneckerCurvature(outputs, inputs, self.outside + other.outside, self.order)

    def damped(self, damping: float) -> Kronecker:
        """S⊗A + δI."""
        outputs, inputs = ([eigh(matrix) for matrix in part] for part in (self.outputs, self.inputs))
        products = [of_S[:, :, None] * of_A[:, None, :] for (of_S, _), (of_A, _) in zip(outputs, inputs, strict=True)]
        values = join(products, self.outside) + damping
        values = values.where(values > 0, float("nan"))
        return Kronecker(tuple(U for _, U in outputs), tuple(V for _, V in inputs), values, self.order)


def split(
    vector: Float[Tensor, "chain dim"], outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...]
) -> tuple[Blocks, Float[Tensor, "chain outside"]]:
    """Take a vector in the order of the layers apart into one matrix for each layer, and the rest."""
    shapes = [(S.shape[-1], A.shape[-1]) for S, A in zip(outputs, inputs, strict=True)]
    sizes = [rows * columns for rows, columns in shapes]
    *parts, outside = vector.split([*sizes, vector.shape[-1] - sum(sizes)], -1)
    return [part.unflatten(-1, shape) for part, shape in zip(parts, shapes, strict=True)], outside


def join(blocks: Blocks, outside: Float[Tensor, "chain outside"]) -> Float[Tensor, "chain dim"]:
    """Undo `split`."""
    return torch.cat((*(block.flatten(-2) for block in blocks), outside), -1)


def restore(vector: Float[Tensor, "chain dim"], order: Int[Tensor, "chain dim"]) -> Float[Tensor, "chain dim"]:
    """Undo `gather(-1, order)`."""
    return torch.zeros_like(vector).scatter(-1, order, vector)


def _in_basis(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Diagonal of Uᵀ M U."""
    return (vectors * (matrix @ vectors)).sum(-2)
