"""Evolution strategies: gradients from perturbed parameters, where back-propagation has no memory or no derivative.

An estimator stands where ``loss.backward()`` would: it puts an estimate into the parameters' ``grad``, and any
optimiser of torch makes the step::

    strategy = ESSingle(dict(model.named_parameters()), unroll, pairs=8, sigma=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = strategy.backward()
        optimiser.step()

For computations that go on for long, an `Unroll`: `ESSingle`, `PES` and `TruncatedES`, whose memory does not depend on
the number of iterations. For matrices, `Eggroll`: perturbations of low rank, which a whole population shares one
product with.
"""

from recon.training.evolution.eggroll import Dense, Eggroll, LowRank, member_losses
from recon.training.evolution.strategies import PES, ESSingle, EvolutionStrategy, TruncatedES
from recon.training.evolution.unroll import ThresholdingUnroll, Unroll

__all__ = [
    "PES",
    "Dense",
    "ESSingle",
    "Eggroll",
    "EvolutionStrategy",
    "LowRank",
    "ThresholdingUnroll",
    "TruncatedES",
    "Unroll",
    "member_losses",
]
