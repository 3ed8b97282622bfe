"""Shapes of galaxies, and the shear of many of them.

`adaptive_moments`, `weighted_moments`, `fpfs` and `regauss` measure shapes, one row an object. `shear_responses` finds
how a whole pipeline of them answers to shear, a reconstruction included; `mean_shear` makes of it the shear of an
ensemble, and `bias` tells how good that is on simulated rings.
"""

from recon.shear.calibration import Bias, MeanShear, bias, bias_in_bins, mean_shear
from recon.shear.fpfs import FpfsShapes, fpfs
from recon.shear.metacal import ShearedStamps, sheared_stamps
from recon.shear.moments import Moments, adaptive_moments
from recon.shear.regauss import CorrectedShapes, regauss
from recon.shear.responses import ShearResponses, shear_responses
from recon.shear.search import MomentFlag
from recon.shear.shapes import Shapes, e_of_g, g_of_e
from recon.shear.weighted import WeightedMoments, weighted_moments

__all__ = [
    "Bias",
    "CorrectedShapes",
    "FpfsShapes",
    "MeanShear",
    "MomentFlag",
    "Moments",
    "Shapes",
    "ShearResponses",
    "ShearedStamps",
    "WeightedMoments",
    "adaptive_moments",
    "bias",
    "bias_in_bins",
    "e_of_g",
    "fpfs",
    "g_of_e",
    "mean_shear",
    "regauss",
    "shear_responses",
    "sheared_stamps",
    "weighted_moments",
]
