"""What has to be known before an image can be made: noise, coil compression, coil maps, missing k-space."""

from recon.calibration.compression import compress_gcc, compress_svd
from recon.calibration.espirit import CoilMaps, espirit
from recon.calibration.kernels import calibration_region
from recon.calibration.lowres import lowres_maps
from recon.calibration.noise import (
    noise_covariance,
    noise_covariance_from_kspace,
    noise_level,
    whiten,
    whitening_matrix,
)
from recon.calibration.oversampling import remove_oversampling
from recon.calibration.partial_fourier import homodyne, pocs

__all__ = [
    "CoilMaps",
    "calibration_region",
    "compress_gcc",
    "compress_svd",
    "espirit",
    "homodyne",
    "lowres_maps",
    "noise_covariance",
    "noise_covariance_from_kspace",
    "noise_level",
    "pocs",
    "remove_oversampling",
    "whiten",
    "whitening_matrix",
]
