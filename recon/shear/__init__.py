"""Shapes of galaxies, and the shear of many of them.

`adaptive_moments`, `weighted_moments`, `fpfs` and `regauss` measure shapes, one row an object. An ensemble's shear
needs the response of the whole pipeline to shear: `recon.shear.calibration`.
"""

from recon.shear.fpfs import FpfsShapes, fpfs
from recon.shear.moments import MomentFlag, Moments, adaptive_moments
from recon.shear.regauss import CorrectedShapes, regauss
from recon.shear.shapes import Shapes, e_of_g, g_of_e
from recon.shear.weighted import WeightedMoments, weighted_moments

__all__ = [
    "CorrectedShapes",
    "FpfsShapes",
    "MomentFlag",
    "Moments",
    "Shapes",
    "WeightedMoments",
    "adaptive_moments",
    "e_of_g",
    "fpfs",
    "g_of_e",
    "regauss",
    "weighted_moments",
]
