"""Calgary-Campinas' raw multi-channel brains [Souza 2018; Beauferris 2022, https://doi.org/10.3389/fnins.2022.919186].

The files hold ``(x, ky, kz, 24)``: real and imaginary parts of 12 coils in turns (or 12 complex coils), the
readout x Fourier transformed already. Their images are ``ifft2`` of it without any shift. With an FFT of that kind
the k-space of a centred image carries a phase of half a cycle a sample; `to_centred` takes it off, so that our
centred FFT gives the same image.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from recon.datasets.hdf5_heaps import SIGNATURE
from recon.datasets.lazy import LazySlices
from recon.datasets.limits import check_claim
from recon.datasets.readers import ReadOptions, readers
from recon.datasets.scan import Scan, Source
from recon.physics.errors import DataError, FileFormatError

_NPY = b"\x93NUMPY"
_COILS = 12


def is_calgary(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Tell by shape and dtype: four axes, the last with 24 real or 12 complex values."""
    last = {"f": 2 * _COILS, "c": _COILS}.get(dtype.kind)
    return len(shape) == 4 and shape[-1] == last and shape[-1] < min(shape[1:3])


def to_centred(k: np.ndarray, *, corner: bool) -> np.ndarray:
    """Turn k-space (coil, y, x) of an FFT without shifts into k-space of the centred, orthonormal FFT.

    With ``c = n // 2``, K stored with its DC at d (0 where ``corner``, else c), and the image
    ``x[m] = sum_k K[k] exp(2 pi i k m / n)``, this is ``y[j] = K[j - c + d] exp(2 pi i (j - c) c / n)``: the
    centred inverse FFT of y is x times n (for d = c but for the linear phase that the wrong origin put on x).
    """
    for axis in (-2, -1):
        n = k.shape[axis]
        c = n // 2
        if corner:
            k = np.roll(k, c, axis)
        phase = np.exp(2j * np.pi * ((np.arange(n) - c) * c % n) / n).astype(np.complex64)
        with np.errstate(invalid="ignore", over="ignore"):  # `Scan.slice` refuses what is not finite
            k = k * (phase[:, None] if axis == -2 else phase)
    return k


@readers.register("calgary")
class CalgaryReader:
    """``.npy`` or HDF5 (``kspace``) with hybrid k-space of 12 coils; the slice axis is the readout."""

    def sniff(self, path: Path, head: bytes) -> bool:
        """Answer to the shape and dtype that only this collection has."""
        if head.startswith(_NPY):
            try:
                shape, _, dtype, _ = _npy_header(path)
            except (ValueError, OSError):
                return False  # the numpy reader says what is wrong with it
            return is_calgary(shape, dtype)
        if not head.startswith(SIGNATURE):
            return False
        from recon.datasets.hdf5 import open_hdf5

        with open_hdf5(path) as file:
            found = file.get("kspace")
            return hasattr(found, "dtype") and is_calgary(found.shape or (), found.dtype)

    def read(self, path: Path, options: ReadOptions) -> Scan:  # noqa: ARG002
        """Read the header and the middle slice, which tells where DC is and which kz were acquired.

        Raises
        ------
        FileFormatError
            Damaged, truncated or of another shape.
        DataError
            The middle slice is all zero or not finite.
        """
        with path.open("rb") as file:
            is_npy = file.read(len(_NPY)) == _NPY
        if is_npy:
            try:
                stored, fortran, dtype, offset = _npy_header(path)
            except ValueError as error:
                raise FileFormatError("the .npy header is damaged", file=path, found=error) from error
            check_claim(
                stored,
                dtype.itemsize,
                stored=path.stat().st_size - offset,
                path=path,
                what="the array",
                expansion=1,
                free=0,
            )
            read = partial(_read_npy, path, stored, dtype, offset, fortran)
        else:
            from recon.datasets.hdf5 import get_dataset, open_hdf5, read_slice

            with open_hdf5(path) as file:
                dataset = get_dataset(file, "kspace", path)
                stored, dtype = tuple(dataset.shape), dataset.dtype
            read = partial(read_slice, path, "kspace")
        if not is_calgary(stored, dtype):
            raise FileFormatError(
                "not Calgary-Campinas' k-space",
                file=path,
                found=f"{dtype} {stored}",
                expected="real (x, ky, kz, 24) or complex (x, ky, kz, 12)",
            )
        n, ny, nx, _ = stored
        middle = _coils_first(read(n // 2))
        if not np.isfinite(middle).all() or not middle.any():
            raise DataError("the middle slice is all zero or not finite", file=path)
        energy = (np.abs(middle).astype(np.float64) ** 2).sum(0)
        corner = _dc_is_in_the_corner(energy)
        if corner:
            energy = np.roll(energy, (ny // 2, nx // 2), (0, 1))
        notes = [
            "readout decoupled already: each slice is one position along it",
            f"FFT without shifts turned into the centred one (DC was {'in the corner' if corner else 'in the centre'})",
        ]
        partial_fourier = _partial_kz(energy)
        if partial_fourier is not None:
            notes.append(f"{partial_fourier[1]:.0%} of kz acquired, the rest is zero")
        shape = (n, _COILS, ny, nx)
        return Scan(
            kspace=LazySlices(shape, np.dtype(np.complex64), partial(_read_slice, read, corner), path),
            source=Source("calgary", path),
            partial_fourier=partial_fourier,
            header={"stored_shape": list(stored), "stored_dtype": str(dtype)},
            notes=tuple(notes),
        )


def _npy_header(path: Path) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Return shape, column-major or not, dtype and offset of the data; `ValueError` where it is damaged."""
    from numpy.lib import format as npy

    with path.open("rb") as file:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} of the .npy format")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(file)
        return shape, fortran, dtype, file.tell()


def _read_npy(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, offset: int, fortran: bool, index: int
) -> np.ndarray:
    mapped = np.memmap(path, dtype, "r", offset, shape, order="F" if fortran else "C")
    return np.array(mapped[index], order="C")


def _coils_first(stored: np.ndarray) -> np.ndarray:
    """From (y, x, 24) real or (y, x, 12) complex to complex64 (12, y, x)."""
    if stored.dtype.kind == "f":
        data = np.empty((*stored.shape[:-1], _COILS), np.complex64)
        data.real, data.imag = stored[..., ::2], stored[..., 1::2]
    else:
        data = stored.astype(np.complex64)
    return np.ascontiguousarray(np.moveaxis(data, -1, 0))


def _read_slice(read: partial[np.ndarray], corner: bool, index: int) -> np.ndarray:
    return to_centred(_coils_first(read(index)), corner=corner)


def _dc_is_in_the_corner(energy: np.ndarray) -> bool:
    """Compare the energy (y, x) of the 16 x 16 samples around the centre with that around the corners."""
    ny, nx = energy.shape

    def around_centre(e: np.ndarray) -> float:
        return float(e[ny // 2 - 8 : ny // 2 + 8, nx // 2 - 8 : nx // 2 + 8].sum())

    return around_centre(np.fft.fftshift(energy)) > around_centre(energy)


def _partial_kz(energy: np.ndarray) -> tuple[float, float] | None:
    """Return the sampled fractions (1, kz) where one end of kz was not acquired, else None.

    Only an asymmetric end counts: zeros on both ends are zero-filling, zeros in between undersampling.
    """
    acquired = np.flatnonzero(energy.any(axis=0))
    n = energy.shape[1]
    before, after = int(acquired[0]), int(n - 1 - acquired[-1])
    if abs(before - after) < max(3, n // 32):
        return None
    return 1.0, (n - abs(before - after)) / n
