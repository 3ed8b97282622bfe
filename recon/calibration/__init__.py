"""What has to be known before an image can be made: noise, coil compression, coil maps, missing k-space."""

from recon.calibration.espirit import CoilMaps, espirit
from recon.calibration.kernels import calibration_region

__all__ = ["CoilMaps", "calibration_region", "espirit"]
