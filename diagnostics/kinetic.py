"""Do momenta have the temperature that was asked for? The kinetic temperature, from what samplers with momentum record.

At stationarity the D components of p/√(mT) are independent standard normals, so that T_kin = |p|²/(mD) is T χ²_D/D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import chi2

from ..samplers.chains import Chains
from .force import mean_and_error


@dataclass(frozen=True)
class KineticTemperature:
    """A measured kinetic temperature.

    Attributes
    ----------
    value, interval
        T_kin, and its 95 % interval (low, high); NaN where draws are too few to tell.
    degrees
        Degrees of freedom of the χ² law that the interval comes from: D times the effective number of readings.
    nominal
        The temperature that the sampler was asked for; None if the chains do not say.
    num_chains, num_draws
        Chains that entered, and readings of each.
    stopped
        Chains left out because they diverged, `{chain id: step}`.
    """

    value: float
    interval: tuple[float, float]
    degrees: float
    nominal: float | None
    num_chains: int
    num_draws: int
    stopped: dict[str, int]

    @property
    def distance(self) -> float:
        """How far the interval lies from `nominal`, as a share of it; 0 if it holds it, NaN where this is not known."""
        low, high = self.interval
        if not self.nominal or math.isnan(low):
            return math.nan
        return max(0.0, low - self.nominal, self.nominal - high) / self.nominal

    def __str__(self) -> str:
        low, high = self.interval
        asked = "" if self.nominal is None else f"; asked for {self.nominal:.4g}"
        lines = [
            f"kinetic temperature {self.value:.4g}, 95 % interval [{low:.4g}, {high:.4g}]{asked}",
            f"from the momenta of {self.num_chains} chains at the last step of {self.num_draws} draws",
        ]
        return "\n".join(lines + [f"stopped and left out: chain {c} at step {s}" for c, s in self.stopped.items()])


def kinetic_temperature(chains: Chains) -> KineticTemperature:
    """Measure the kinetic temperature of chains of a sampler with momentum.

    It tells whether the integrator's steps are short enough and the friction takes out what gradient noise puts in. It
    does **not** tell whether positions have the right law: a thermostat holds it at T by construction, `HMC` draws
    momenta anew at every step, and both can be right while positions are too hot or have not spread out.
    `langevin.diagnostics.temperature` looks at the positions.

    Parameters
    ----------
    chains
        What `sample` returned, of `SGHMC`, `SGNHT` or `HMC`. Stopped chains are left out and named; draws of unequal
        weight are averaged by weight. Every draw has one reading, of its last step.

    Notes
    -----
    The interval is [νK/χ²_ν(0.975), νK/χ²_ν(0.025)] for a mean reading K, with ν = D n_eff degrees of freedom and n_eff
    the effective number of readings from their autocorrelation, reduced for unequal weights by Kish's factor. That is
    exact for independent readings.

    Raises
    ------
    ValueError
        If the chains' sampler has no momentum, or every chain was stopped.
    """
    if "kinetic_temperature" not in chains.sample_stats:
        raise ValueError(
            f"{chains.attrs.get('sampler') or 'the sampler'} recorded no kinetic temperature, as samplers without "
            "momentum have none; temperature(chains) measures the one of positions"
        )
    stopped = dict(chains.attrs.get("stopped") or {})
    chains = chains.finished()
    readings = chains.sample_stats["kinetic_temperature"].double()
    value, _, effective = (x.item() for x in mean_and_error(readings[..., None], chains.weights))
    dim = chains.attrs.get("dim") or sum(x[0, 0].numel() for x in chains.draws.values())
    degrees = dim * effective
    low, high = (float(value * degrees / chi2.ppf(q, degrees)) for q in (0.975, 0.025))
    return KineticTemperature(
        value=value,
        interval=(low, high),
        degrees=degrees,
        nominal=chains.attrs.get("temperature"),
        num_chains=chains.num_chains,
        num_draws=chains.num_draws,
        stopped=stopped,
    )
