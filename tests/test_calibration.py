"""Compression, oversampling, low-resolution maps and partial Fourier."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import shepp_logan_phantom

from recon.calibration import (
    compress_gcc,
    compress_svd,
    homodyne,
    lowres_maps,
    pocs,
    remove_oversampling,
)
from recon.physics.errors import DataError, MaskError, OptionError
from recon.physics.fft import fft_centred, ifft_centred

YX = (-2, -1)


def maps(coils: int, ny: int, nx: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, ny), torch.linspace(-1, 1, nx), indexing="ij")
    angle = 2 * torch.pi * torch.arange(coils)[:, None, None] / coils
    weight = torch.exp(-((y - angle.sin()) ** 2) - (x - angle.cos()) ** 2)
    return torch.polar(weight, angle + 0.5 * x * angle.sin())


def phantom(ny: int = 96, nx: int = 80) -> torch.Tensor:
    image = torch.from_numpy(shepp_logan_phantom()).float()[None, None]
    return torch.nn.functional.interpolate(image, (ny, nx), mode="bilinear", antialias=True)[0, 0]


def kspace(coils: int = 12, ny: int = 96, nx: int = 80) -> torch.Tensor:
    return fft_centred(maps(coils, ny, nx) * phantom(ny, nx), YX)[None]


def noise(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex64, generator=generator)


def psnr(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float(20 * torch.log10(truth.abs().max() / (found - truth).abs().square().mean().sqrt()))


class TestSvd:
    def test_all_coils_keep_all(self) -> None:
        k = kspace()
        compressed, matrix, kept = compress_svd(k, None, 12)
        assert kept == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(matrix @ matrix.mH, torch.eye(12, dtype=matrix.dtype), atol=1e-5, rtol=0)
        torch.testing.assert_close(compressed.norm(), k.norm(), rtol=1e-4, atol=0)

    def test_kept_energy_is_that_of_the_samples(self, generator: torch.Generator) -> None:
        k = kspace()
        mask = torch.rand(1, 1, 96, 80, generator=generator) < 0.3
        garbage = torch.where(mask, k, 1e3)  # what the mask hides must not count
        compressed, _, kept = compress_svd(garbage, mask, 5)
        assert 0.9 < kept < 1
        assert float(((compressed * mask).norm() / (k * mask).norm()) ** 2) == pytest.approx(kept, abs=1e-4)

    def test_energy_chooses_the_fewest_coils(self) -> None:
        k = kspace()
        compressed, _, kept = compress_svd(k, energy=0.95)
        assert kept >= 0.95
        assert compress_svd(k, None, compressed.shape[1] - 1)[2] < 0.95

    def test_best_of_all_projections(self) -> None:
        """numpy's SVD of all samples has the same singular values."""
        k = kspace()
        singular = np.linalg.svd(k[0].flatten(1).numpy(), compute_uv=False)
        assert compress_svd(k, None, 4)[2] == pytest.approx((singular[:4] ** 2).sum() / (singular**2).sum(), abs=1e-5)

    @pytest.mark.parametrize(
        "options", [{"n_coils": 0}, {"n_coils": 13}, {}, {"energy": 1.5}, {"n_coils": 2, "energy": 0.5}]
    )
    def test_bad_options(self, options: dict) -> None:
        with pytest.raises(OptionError):
            compress_svd(kspace(), **options)

    def test_zero_kspace(self) -> None:
        with pytest.raises(DataError):
            compress_svd(torch.zeros(1, 4, 8, 8, dtype=torch.complex64), n_coils=2)


class TestGcc:
    def test_keeps_more_than_svd(self) -> None:
        k = kspace()
        compressed, matrices, kept = compress_gcc(k, -2, 3)
        assert compressed.shape == (1, 3, 96, 80)
        assert matrices.shape == (96, 3, 12)
        assert kept > compress_svd(k, None, 3)[2]
        assert float((compressed.norm() / k.norm()) ** 2) == pytest.approx(kept, abs=1e-4)

    @pytest.mark.parametrize("axis", [-1, -2])
    def test_maps_transform_by_the_matrices(self, axis: int) -> None:
        S = maps(12, 96, 80)
        compressed, matrices, _ = compress_gcc(kspace(), axis, 4)
        virtual = torch.einsum("nvc,cn...->vn...", matrices, S.movedim(axis, 1)).movedim(1, axis)
        torch.testing.assert_close(ifft_centred(compressed, YX)[0], virtual * phantom(), atol=1e-4, rtol=0)

    def test_alignment_makes_the_matrices_smooth(self) -> None:
        _, matrices, _ = compress_gcc(kspace()[..., 8:-8, :], -2, 3)
        inside = matrices[20:60]
        step = (inside[1:] - inside[:-1]).flatten(1).norm(dim=1)
        assert step.max() < 0.2  # without it, signs and order change by more than 1 from one position to the next

    def test_readout_must_be_spatial(self) -> None:
        with pytest.raises(OptionError, match="axis"):
            compress_gcc(kspace(), 1, 3)
        with pytest.raises(DataError):
            compress_gcc(torch.zeros(1, 4, 8, 8, dtype=torch.complex64), -1, 2)


class TestOversampling:
    @settings(max_examples=15, deadline=None)
    @given(ny=st.integers(5, 40), nx=st.integers(4, 20), axis=st.sampled_from([-1, -2]))
    def test_image_is_the_middle_of_the_image(self, ny: int, nx: int, axis: int) -> None:
        k = noise(torch.Generator().manual_seed(ny), 2, 3, ny, nx)
        cut = remove_oversampling(k, axis, 2.0)
        n = k.shape[axis]
        wanted = ifft_centred(k, YX).narrow(axis, n // 2 - cut.shape[axis] // 2, cut.shape[axis])
        assert cut.shape[axis] == round(n / 2)
        torch.testing.assert_close(ifft_centred(cut, YX), wanted, atol=1e-5, rtol=0)

    def test_noise_keeps_its_level(self, generator: torch.Generator) -> None:
        k = noise(generator, 1, 4, 256, 128)
        assert remove_oversampling(k, -2, 2.0).std() == pytest.approx(float(k.std()), rel=0.02)

    def test_factor_one_changes_nothing(self) -> None:
        k = kspace()
        torch.testing.assert_close(remove_oversampling(k, -1, 1.0), k, atol=1e-5, rtol=0)

    @pytest.mark.parametrize(("axis", "factor"), [(-1, 0.5), (-1, 1e6), (-3, 2.0), (1, 2.0), (-1, float("nan"))])
    def test_bad_options(self, axis: int, factor: float) -> None:
        with pytest.raises(OptionError):
            remove_oversampling(kspace(), axis, factor)


class TestLowres:
    def test_maps_are_near_the_true_ones_inside(self) -> None:
        S = maps(8, 96, 80)
        S = S / S.norm(dim=0)
        found = lowres_maps(kspace(8))[0]
        inside = phantom() > 0.05
        cosine = (S.conj() * found).sum(0).abs()[inside]
        torch.testing.assert_close(found.norm(dim=0)[inside], torch.ones(int(inside.sum())))
        assert cosine.quantile(0.05) > 0.98

    def test_empty_places_are_zero(self) -> None:
        assert not lowres_maps(torch.zeros(1, 2, 16, 16, dtype=torch.complex64)).any()

    def test_only_sampled_entries_count(self, generator: torch.Generator) -> None:
        mask = torch.rand(1, 1, 96, 80, generator=generator) < 0.5
        k = kspace(4)
        torch.testing.assert_close(lowres_maps(torch.where(mask, k, 7), mask), lowres_maps(k * mask))


class TestPartialFourier:
    @staticmethod
    def measurement(
        fraction: float, side: str = "late", n: int = 96
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Image with a smooth phase, ``(1, 2, n, 80)``; its k-space; the mask."""
        y, x = torch.meshgrid(torch.linspace(-1, 1, n), torch.linspace(-1, 1, 80), indexing="ij")
        S = torch.stack([1 + 0.3 * x, 1 - 0.3 * y])
        image = (S * torch.polar(phantom(n, 80), 1.5 * x - y + 0.7 * x * y))[None]
        mask = torch.zeros(1, 1, n, 1, dtype=torch.bool)
        kept = round(fraction * n)
        mask[..., (slice(None, kept) if side == "early" else slice(n - kept, None)), :] = True
        return image, fft_centred(image, YX) * mask, mask

    @pytest.mark.parametrize("side", ["early", "late"])
    @pytest.mark.parametrize("n", [96, 95])
    @pytest.mark.parametrize("method", [homodyne, pocs])
    def test_five_eighths_beat_zero_filling(self, method, n: int, side: str) -> None:
        image, k, mask = self.measurement(5 / 8, side, n)
        filled = method(k, mask, -2)
        gain = psnr(ifft_centred(filled, YX), image) - psnr(ifft_centred(k, YX), image)
        assert gain > 15

    @pytest.mark.parametrize("method", [homodyne, pocs])
    def test_full_sampling_is_left_alone(self, method) -> None:
        _, k, mask = self.measurement(1.0)
        assert torch.equal(method(k, mask, -2), k)

    @pytest.mark.parametrize("method", [homodyne, pocs])
    def test_acquired_samples_stay(self, method) -> None:
        _, k, mask = self.measurement(0.7)
        torch.testing.assert_close(method(k, mask, -2) * mask, k)

    @pytest.mark.parametrize("method", [homodyne, pocs])
    def test_other_axis(self, method) -> None:
        _, k, mask = self.measurement(0.7)
        turned = method(k.mT.contiguous(), mask.mT, -1).mT
        torch.testing.assert_close(turned, method(k, mask, -2), atol=1e-4, rtol=0)

    @pytest.mark.parametrize("method", [homodyne, pocs])
    @pytest.mark.parametrize("keep", [slice(0, 40), slice(60, 96), slice(20, 80), slice(0, 96, 2), slice(0, 0)])
    def test_other_masks_are_refused(self, method, keep: slice) -> None:
        _, k, _ = self.measurement(1.0)
        mask = torch.zeros(1, 1, 96, 1, dtype=torch.bool)
        mask[..., keep, :] = True
        with pytest.raises(MaskError, match="partial Fourier"):
            method(k, mask, -2)

    def test_axis_must_be_spatial(self) -> None:
        _, k, mask = self.measurement(0.7)
        with pytest.raises(OptionError):
            pocs(k, mask, 2)
