"""How learning rate and momentum follow the batch size, so that the loss against examples seen stays the same."""

from __future__ import annotations

from .schedules import check_fraction, check_positive


def scale_to_batch(lr: float, momentum: float, batch_size: int, *, from_batch: int = 1) -> tuple[float, float]:
    r"""Learning rate and momentum for another batch size (McAllester's slides, TTIC 31230, 2018).

    With the memory N_g = 1/(1 − β) in batches, N′_g = N_g B in examples and η′ the learning rate of one example
    without momentum, N′_g and η′ are kept:

    .. math:: N_g = \max(1, N'_g/B), \qquad β = 1 − 1/N_g, \qquad η = B η'/N_g

    for SGD as in `torch.optim.SGD`, v ← βv + ĝ, ω ← ω − ηv. (The slides print min for max.) Curves of the loss against
    examples seen then coincide as long as B is well below N′_g, and N′_g below the 1/(λη′) examples in which the loss
    falls: within 2 % at B = N′_g/4 and 7 % at B = N′_g for λη′N′_g = 1/16.

    Parameters
    ----------
    lr, momentum
        η and β that are right for batches of `from_batch`.
    batch_size, from_batch
        New and old B, in examples.

    Returns
    -------
    lr, momentum
        η and β for batches of `batch_size`.

    Raises
    ------
    ValueError
        For settings out of range.
    """
    check_positive(lr=lr, batch_size=batch_size, from_batch=from_batch)
    check_fraction(momentum=momentum)
    batches = 1 / (1 - momentum)
    examples, one = batches * from_batch, lr * batches / from_batch
    batches = max(1.0, examples / batch_size)
    return batch_size * one / batches, 1 - 1 / batches
