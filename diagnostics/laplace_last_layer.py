"""The last layer of a model, and the posterior of some parameters given all others.

A Laplace approximation of the last layer alone takes the rest as known: Snoek et al., "Scalable Bayesian optimization
using deep neural networks", ICML 2015; Kristiadi, Hein & Hennig, "Being Bayesian, even just a bit, fixes
overconfidence in ReLU networks", ICML 2020.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..samplers import data as data_
from ..samplers.posterior import Posterior
from ..samplers.target import Layout, Target


def last_layer(posterior: Posterior) -> tuple[str, ...]:
    """Names of the sampled parameters of the module that is called last, of those that have no submodules.

    Raises
    ------
    ValueError
        If no such module has a sampled parameter.
    """
    names = {id(parameter): name for name, parameter in posterior.model.named_parameters()}
    own = {
        module: [names[id(p)] for p in module.parameters(recurse=False) if names[id(p)] in posterior.layout.names]
        for module in posterior.model.modules()
        if not list(module.children())
    }
    called: list[nn.Module] = []
    hooks = [m.register_forward_hook(lambda m, *_: called.append(m)) for m, found in own.items() if found]
    try:
        with torch.no_grad():
            first = torch.zeros(1, dtype=torch.int64, device=posterior.device)
            posterior.call(posterior.default_position(), data_.take(posterior.inputs, first))
    finally:
        for hook in hooks:
            hook.remove()
    if not called:
        raise ValueError(
            f'structure="last_layer" needs a layer, a module without submodules, that holds sampled parameters; '
            f"{list(posterior.layout.names)} belong to none: choose them yourself with Posterior(..., "
            'parameters=[patterns]) and structure="dense"'
        )
    return tuple(name for name in posterior.layout.names if name in own[called[-1]])


def given_the_rest(posterior: Posterior, names: tuple[str, ...], position: Float[Tensor, " dim"]) -> Posterior:
    """π(these parameters | the others are as at this position): the others' prior is a constant and left out."""
    values = posterior.unravel(position)
    part = posterior.to_be_varied()
    part.layout = Layout(names, tuple(values[name].shape for name in names))
    part._default = part.layout.ravel({name: values[name] for name in names})
    part._fixed = posterior._fixed | {name: value for name, value in values.items() if name not in names}
    part.prior = part._priors = {name: posterior.prior_of(name) for name in names}
    part._anchor = None
    return part


def indices_in(whole: Target, part: Target) -> Int[Tensor, " part"]:
    """Where the parameters of a part are in a position of the whole."""
    places = dict(zip(whole.layout.names, torch.arange(whole.dim).split(whole.layout.sizes), strict=True))
    return torch.cat([places[name] for name in part.layout.names]).to(whole.device)
