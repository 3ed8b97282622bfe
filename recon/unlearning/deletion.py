r"""What noisy gradient descent can state about a deletion, and under which assumptions.

Two runs of the same :math:`w \leftarrow \Pi(w - \eta \nabla F(w)) + N(0, s^2 I)` on what is kept, one from the weights
that know what is deleted, one from weights that never did, become hard to tell apart. If one step brings any two points
nearer by a factor c and apart by at most b, and they start at a distance of at most z, then shifting the noise gives
for K steps and every order :math:`\alpha > 1` the Renyi divergence

.. math:: D_\alpha \le \alpha \rho, \quad
          \rho = \frac{(c^K z + b\,(1 - c^K) / (1 - c))^2}{2 s^2 \sum_{t<K} c^{2t}},

and so :math:`\varepsilon = \rho + 2 \sqrt{\rho \log(1/\delta)}`. The best split of the shift over the steps is by
Cauchy-Schwarz; projections onto a convex set bring nothing apart.

References
----------
Feldman et al., Privacy Amplification by Iteration, FOCS 2018; Chien et al., Certified Machine Unlearning via Noisy
Stochastic Gradient Descent, NeurIPS 2024; Koloskova et al., Certified Unlearning for Neural Networks, ICML
2025; Chourasia and Shah, Forget Unlearning, ICML 2023; Bun and Steinke, TCC 2016, proposition 1.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from recon.physics.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Statement:
    """An (epsilon, delta) statement about a deletion.

    Parameters
    ----------
    epsilon, delta
        The result cannot be told from that of a network that never saw what is deleted, treated alike, but by this.
    steps, noise, distance, contraction, drift
        K, s, z, c and b above.
    about
        The weights that it is about.
    assumptions
        Without which it does not hold.
    broken
        Those of the assumptions that are known not to hold here, or that nobody vouched for: then nothing is stated.
    """

    epsilon: float
    delta: float
    steps: int
    noise: float
    distance: float
    contraction: float
    drift: float
    about: str
    assumptions: tuple[str, ...]
    broken: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether all assumptions do."""
        return not self.broken

    def __str__(self) -> str:
        figures = f"({self.epsilon:.3g}, {self.delta:.1g})-deletion of {self.about} after {self.steps} noisy steps"
        if self.holds:
            return figures
        return f"no statement of deletion: {figures} would need that {'; '.join(self.broken)}"


def divergence(*, distance: float, steps: int, noise: float, contraction: float, drift: float = 0.0) -> float:
    """Return rho: the Renyi divergence of any order over that order."""
    if steps < 1 or not noise > 0:
        raise OptionError("noisy descent has at least a step, and noise", found=f"{steps} steps, noise {noise:g}")
    shift, spread = _sums(distance, steps, contraction, drift)
    return shift**2 / (2 * noise**2 * spread)


def noise_for(
    epsilon: float, delta: float, *, distance: float, steps: int, contraction: float, drift: float = 0.0
) -> float:
    """Return the standard deviation of a step's noise that gives an epsilon.

    Raises
    ------
    OptionError
        An epsilon that is not above 0, a delta that is not between 0 and 1.
    """
    if not epsilon > 0:
        raise OptionError("epsilon is above 0", found=epsilon)
    slack = _log(delta)
    rho = (math.sqrt(slack + epsilon) - math.sqrt(slack)) ** 2
    shift, spread = _sums(distance, steps, contraction, drift)
    return shift / math.sqrt(2 * rho * spread)


def epsilon_of(rho: float, delta: float) -> float:
    """Return the least epsilon, over all orders, that a divergence of rho times the order gives."""
    return rho + 2 * math.sqrt(rho * _log(delta))


def _log(delta: float) -> float:
    if not 0 < delta < 1:
        raise OptionError("delta is between 0 and 1", found=delta)
    return math.log(1 / delta)


def _sums(distance: float, steps: int, contraction: float, drift: float) -> tuple[float, float]:
    """How far the points would be apart in the end without noise, and the sum of c^2t."""
    if contraction == 1:
        return distance + drift * steps, float(steps)
    power = contraction**steps
    moved = drift * (1 - power) / (1 - contraction)
    return power * distance + moved, (1 - power**2) / (1 - contraction**2)
