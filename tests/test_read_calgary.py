"""Calgary-Campinas' hybrid k-space: layout, the FFT without shifts, and what else looks like it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from samples import blob, calgary_kspace, complex_normal

import recon
from recon.datasets import Scan
from recon.datasets.readers.calgary import is_calgary, to_centred
from recon.physics.errors import DataError, FileFormatError


def centred_ifft(k: np.ndarray) -> np.ndarray:
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(k, axes), axes=axes), axes)


def opened(path: Path) -> Scan:
    scan = recon.datasets.open(path)
    assert isinstance(scan, Scan)
    assert scan.source.format == "calgary"
    return scan


@pytest.mark.parametrize("shape", [(40, 36), (41, 36), (40, 35), (41, 35)])
@pytest.mark.parametrize("corner", [True, False])
def test_centred_fft_gives_the_image_of_the_uncentred(shape: tuple[int, int], corner: bool) -> None:
    image = complex_normal((3, *shape))
    k = np.fft.fft2(image)
    k = k if corner else np.fft.fftshift(k, (-2, -1))
    ours = centred_ifft(to_centred(k, corner=corner))
    np.testing.assert_allclose(np.abs(ours), np.abs(image), atol=1e-5)
    if corner:
        np.testing.assert_allclose(ours, image, atol=1e-5)


@pytest.mark.parametrize("corner", [True, False])
@pytest.mark.parametrize("ending", ["npy", "h5"])
def test_each_slice_shows_the_image(tmp_path: Path, corner: bool, ending: str) -> None:
    scale = np.arange(1, 6)[:, None, None, None]
    image = blob((40, 36), 12) * scale
    k = calgary_kspace(image, corner=corner)
    path = tmp_path / f"e.{ending}"
    if ending == "npy":
        np.save(path, k)
    else:
        with h5py.File(path, "w") as file:
            file["kspace"] = k
    scan = opened(path)
    assert scan.kspace.shape == (5, 12, 40, 36)
    assert scan.mask is None
    assert scan.spacing is None
    for i in range(5):
        np.testing.assert_allclose(np.abs(centred_ifft(scan.slice(i))), np.abs(image[i]), atol=1e-4)


def test_phase_is_smooth_wherever_dc_was(tmp_path: Path) -> None:
    """A phase of half a cycle from voxel to voxel would break maps, wavelets and TV."""
    for corner in (True, False):
        np.save(tmp_path / f"{corner}.npy", calgary_kspace(np.stack([blob((40, 36), 12)] * 2), corner=corner))
        image = centred_ifft(opened(tmp_path / f"{corner}.npy").slice(0))[:, 18:26, 14:22]
        assert (np.abs(np.angle(image[:, 1:] * image[:, :-1].conj())) < 0.1).all()
        assert (np.abs(np.angle(image[..., 1:] * image[..., :-1].conj())) < 0.1).all()


def test_column_major_and_complex_files(tmp_path: Path) -> None:
    k = calgary_kspace(np.stack([blob((40, 36), 12)] * 3), corner=True)
    np.save(tmp_path / "c.npy", k)
    np.save(tmp_path / "f.npy", np.asfortranarray(k))
    np.save(tmp_path / "z.npy", (k[..., ::2] + 1j * k[..., 1::2]).astype(np.complex64))
    expected = opened(tmp_path / "c.npy").slice(1)
    np.testing.assert_array_equal(opened(tmp_path / "f.npy").slice(1), expected)
    np.testing.assert_array_equal(opened(tmp_path / "z.npy").slice(1), expected)


def test_partial_kz_is_reported_and_undersampling_is_not(tmp_path: Path) -> None:
    k = calgary_kspace(np.stack([blob((40, 60), 12)] * 2), corner=False)
    np.save(tmp_path / "full.npy", k)
    assert opened(tmp_path / "full.npy").partial_fourier is None
    undersampled = k.copy()
    undersampled[:, :, 1::2] = 0
    np.save(tmp_path / "under.npy", undersampled)
    scan = opened(tmp_path / "under.npy")
    assert scan.partial_fourier is None
    sampled, from_file = scan.sampling(0)
    assert not from_file
    np.testing.assert_array_equal(sampled[0], np.arange(60) % 2 == 0)
    k[:, :, 51:] = 0
    np.save(tmp_path / "partial.npy", k)
    assert opened(tmp_path / "partial.npy").partial_fourier == (1.0, 51 / 60)


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((256, 218, 170, 24), "f4", True),
        ((256, 218, 180, 24), "f8", True),
        ((256, 218, 170, 12), "c8", True),
        ((256, 218, 170, 12), "f4", False),
        ((256, 218, 170, 24), "c8", False),
        ((256, 218, 170), "f4", False),
        ((30, 12, 24, 24), "f4", False),
        ((8, 12, 320, 320), "c8", False),
    ],
)
def test_what_counts_as_calgary(shape: tuple[int, ...], dtype: str, expected: bool) -> None:
    assert is_calgary(shape, np.dtype(dtype)) is expected


def test_damaged_files(tmp_path: Path) -> None:
    k = calgary_kspace(np.stack([blob((40, 36), 12)] * 3), corner=True)
    path = tmp_path / "e.npy"
    np.save(path, k)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(FileFormatError, match=r"e\.npy.*larger than the file"):
        recon.datasets.open(path)
    np.save(path, np.zeros_like(k))
    with pytest.raises(DataError, match="all zero"):
        recon.datasets.open(path)
    k[1, 3, 3, 3] = np.inf
    np.save(path, k)
    with pytest.raises(DataError, match="not finite"):
        recon.datasets.open(path)
