"""The built-in sample: one slice of a real 8-coil brain scan, variable-density Poisson-disc sampled (12.4 %).

The measurements come from mikgroup/sigpy-mri-tutorial, Copyright (c) 2019, mikgroup, BSD-3-Clause; the licence
text lies beside them. They were sampled like this on the scanner, so no fully sampled reference exists.
"""

from importlib.resources import files

import numpy as np

from recon.datasets.scan import Scan, Source


def sample_scan() -> Scan:
    """Return the built-in brain slice: k-space ``(1, 8, 230, 180)`` and its mask ``(230, 180)``.

    The peak of its root-sum-of-squares image is 1; the file told neither voxel size nor orientation.
    """
    with (files(__name__) / "brain.npz").open("rb") as file, np.load(file, allow_pickle=False) as stored:
        coils, height, width = (int(n) for n in stored["shape"])
        mask = np.unpackbits(stored["mask"], count=height * width).reshape(height, width).astype(bool)
        kspace = np.zeros((1, coils, height, width), dtype=np.complex64)
        kspace[0, :, mask] = stored["samples"].T
    return Scan(kspace=kspace, mask=mask, source=Source("sample"), notes=("built-in sample, BSD-3-Clause, mikgroup",))


__all__ = ["sample_scan"]
