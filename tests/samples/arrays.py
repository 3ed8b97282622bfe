"""Arrays without a format for scans: BART's, numpy's, MATLAB's and HDF5 files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from recon.datasets import Measurements, Source, save
from samples.registry import DATA, complex_normal, sample


@sample("cfl")
def make_cfl(folder: Path) -> Path:
    """Written by BART itself (tests/data/README.md): two slices, three coils, 15 x 12."""
    for ending in (".cfl", ".hdr"):
        shutil.copyfile(DATA / f"bart_slices{ending}", folder / f"scan{ending}")
    return folder / "scan.cfl"


@sample("npy")
def make_npy(folder: Path) -> Path:
    np.save(folder / "scan.npy", complex_normal((2, 3, 13, 10)))
    return folder / "scan.npy"


@sample("npz")
def make_npz(folder: Path) -> Path:
    k = complex_normal((2, 3, 13, 10))
    np.savez(folder / "scan.npz", kspace=k, mask=np.arange(10) % 3 == 0, maps=k / 2, noise=complex_normal((3, 40)))
    return folder / "scan.npz"


@sample("npz-compressed")
def make_npz_compressed(folder: Path) -> Path:
    np.savez_compressed(folder / "scan.npz", kspace=complex_normal((3, 13, 10)))
    return folder / "scan.npz"


@sample("npz-packed")
def make_npz_packed(folder: Path) -> Path:
    """The layout of the built-in sample: sampled entries only."""
    mask = np.random.default_rng(0).random((13, 10)) < 0.3
    samples = complex_normal((3, int(mask.sum())))
    np.savez(folder / "scan.npz", samples=samples, mask=np.packbits(mask), shape=np.array([3, 13, 10]))
    return folder / "scan.npz"


def write_mat73(path: Path, kinds: dict[str, str] | None = None, **arrays: np.ndarray) -> Path:
    """As MATLAB does with -v7.3: a block of 512 bytes, then HDF5 with reversed axes and {real, imag}."""
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            stored = np.atleast_2d(array).T
            kind = {"f4": "single", "f8": "double", "c8": "single", "c16": "double"}.get(array.dtype.str[1:])
            if np.iscomplexobj(stored):
                part = stored.real.dtype
                pairs = np.empty(stored.shape, [("real", part), ("imag", part)])
                pairs["real"], pairs["imag"] = stored.real, stored.imag
                stored = pairs
            dataset = file.create_dataset(name, data=stored)
            dataset.attrs["MATLAB_class"] = np.bytes_((kinds or {}).get(name, kind or array.dtype.name))
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan  1".ljust(124) + b"\x00\x02IM")
    return path


@sample("matlab", variable="DATA")
def make_mat73(folder: Path) -> Path:
    k = np.moveaxis(complex_normal((2, 3, 13, 10)), (0, 1), (3, 2))
    mask = (np.arange(130).reshape(13, 10) % 3 > 0).astype(np.uint8)
    return write_mat73(folder / "scan.mat", {"mask": "logical"}, DATA=k, mask=mask, im=np.ones((13, 10)))


@sample("matlab-5")
def make_mat5(folder: Path) -> Path:
    from scipy.io import savemat

    k = np.moveaxis(complex_normal((3, 13, 10)), 0, 2)
    savemat(folder / "scan.mat", {"DATA": k, "te": 3.0, "name": "brain"}, do_compression=True)
    return folder / "scan.mat"


@sample("hdf5")
def make_submission(folder: Path) -> Path:
    """As fastMRI wants its submissions."""
    import h5py

    with h5py.File(folder / "file.h5", "w") as file:
        file["reconstruction"] = np.random.default_rng(0).random((2, 13, 10), np.float32)
    return folder / "file.h5"


@sample("measurements")
def make_measurements(folder: Path) -> Path:
    """Written by our own writer: the format is ours."""
    y = np.random.default_rng(3).standard_normal((2, 1, 12, 10)).astype(np.float32)
    made = Measurements(
        measurements=y, physics="denoising:sigma=2", img_size=(1, 12, 10), sigma=2.0, source=Source("array")
    )
    save(made, folder / "y.h5")
    return folder / "y.h5"
