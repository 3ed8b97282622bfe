"""Posterior samples by a diffusion denoiser that any linear operator guides, without training.

>>> from recon import guidance, load_model
>>> denoiser = load_model("diffusion-denoiser")                                        # doctest: +SKIP
>>> samples, mean, spread = guidance.sample(y, physics, denoiser, samples=8, seed=0)   # doctest: +SKIP
"""

from recon.guidance.deepinv_samplers import DPS, DiffPIR
from recon.guidance.sampling import METHODS, Posterior, sample
from recon.guidance.search import Axis, Trial, search
from recon.guidance.tfg import TFG

__all__ = ["DPS", "METHODS", "TFG", "Axis", "DiffPIR", "Posterior", "Trial", "sample", "search"]
