"""One draw by BlackJAX: ``python -m benchmarks.speed.peers.fresh_blackjax PROBLEM CHAINS``.

The problems are those of `workloads.py` in size and kind, written without PyTorch, whose import would count.
"""

import sys
from typing import Any

import blackjax
import jax
import jax.numpy as jnp

SIZES = {"logistic 2": ((2, 1), 1000, 50), "mlp": ((10, 40, 10), 1024, 64)}  # widths, N, B


def log_likelihood(layers: list[tuple[Any, Any]], example: tuple[Any, Any]) -> Any:
    """Of one example and its class, 0 or 1 where there is a single output."""
    z, label = example
    for number, (weight, bias) in enumerate(layers):
        z = weight @ (jnp.maximum(z, 0) if number else z) + bias
    logits = jnp.concatenate([jnp.zeros(1), z]) if len(z) == 1 else z
    return jax.nn.log_softmax(logits)[label]


def main(name: str, chains: int) -> None:
    """Compile a scan of many steps, as a run would, and make them."""
    widths, num_data, batch_size = SIZES[name]
    x_key, y_key, key = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(x_key, (num_data, widths[0]))
    y = jax.random.randint(y_key, (num_data,), 0, max(2, widths[-1]))
    pairs = list(zip(widths[1:], widths, strict=False))
    start = [(jnp.zeros((chains, *pair)), jnp.zeros((chains, pair[0]))) for pair in pairs]

    def log_prior(layers: Any) -> Any:
        return -0.5 * sum((weight**2).sum() + (bias**2).sum() for weight, bias in layers)

    sgld: Any = blackjax.sgld(blackjax.sgmcmc.gradients.grad_estimator(log_prior, log_likelihood, num_data))

    def step(key: Any, layers: Any) -> Any:
        index_key, own = jax.random.split(key)
        index = jax.random.randint(index_key, (batch_size,), 0, num_data)
        return sgld.step(own, layers, (x[index], y[index]), 0.1 / num_data)

    @jax.jit
    def scan(keys: Any, layers: Any) -> Any:
        return jax.lax.scan(lambda at, k: (jax.vmap(step)(jax.random.split(k, chains), at), None), layers, keys)[0]

    jax.block_until_ready(scan(jax.random.split(key, 100), start))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
