"""Images and scans to be written, and what comes back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from samples import RAS, complex_normal

from recon.datasets import Image, Scan, Source
from recon.datasets.lazy import LazySlices

HEADER = {
    "provenance": {"model": {"name": "cg_sense"}, "input": {"sha256": "ab" * 32}, "seed": 3},
    "metrics": {"psnr": [31.5, float("nan")]},
    "PatientID": "0815",
    "StudyInstanceUID": "1.2.3",
    "EchoTime": 12.5,
}
IMAGES = (".h5", ".npz", ".cfl", ".nii", ".nii.gz", ".dcm", ".png", ".fits")
SCANS = (".h5", ".npz", ".cfl", ".mrd")


def make_image(shape: tuple[int, ...] = (3, 13, 10), *, real: bool = False, **fields: object) -> Image:
    pixels = complex_normal(shape)
    known = {"spacing": (4.0, 1.5, 1.0), "affine": RAS, "header": HEADER, "notes": ("a note",)}
    maps = {"uncertainty": np.abs(pixels), "g_factor": 1 + np.abs(pixels)}
    values = np.abs(pixels) if real else pixels
    return Image(**{"pixels": values, "source": Source("array"), "maps": maps, **known, **fields})


def make_scan(shape: tuple[int, ...] = (3, 2, 13, 10), **fields: object) -> Scan:
    mask = fields.get("mask", np.broadcast_to(np.arange(shape[-2])[:, None] % 3 != 1, shape[-2:]))
    known = {"spacing": (4.0, 1.5, 1.0), "affine": RAS, "matrix": (shape[-2], max(1, shape[-1] // 2)), "mask": mask}
    known |= {"readout_axis": -1, "noise": complex_normal((shape[1], 40), 7), "header": {"te": 3.5}}
    per_slice = np.ones(1) if mask is None else mask[:, None] if mask.ndim == len(shape) - 1 else mask
    known["kspace"] = (complex_normal(shape) * per_slice).astype(np.complex64)
    return Scan(**{"source": Source("array"), **known, **fields})


def pixels(image: Image) -> np.ndarray:
    return np.stack([image.pixels[index] for index in range(image.n_slices)])


def kspace(scan: Scan) -> np.ndarray:
    return np.stack([scan.slice(index) for index in range(scan.n_slices)])


def lazily(array: np.ndarray) -> LazySlices:
    return LazySlices(array.shape, array.dtype, array.__getitem__, Path("array"))


def kspace_or_pixels(back: Scan | Image) -> np.ndarray:
    return kspace(back) if isinstance(back, Scan) else pixels(back)
