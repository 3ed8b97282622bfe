from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.calibration import CoilMaps, calibration_region, espirit
from recon.calibration.eigen import covariance, eigenmaps, grid
from recon.calibration.espirit import soft_weights
from recon.calibration.kernels import calibration_kernels, centre_block, kernel_autocorrelation
from recon.physics.errors import CalibrationError, OptionError, ShapeError
from recon.physics.fft import fft_centred, ifft_centred
from recon.sample import sample_scan

YX = (-2, -1)
DATA = Path(__file__).parent / "data"


def read_cfl(path: Path) -> torch.Tensor:
    """BART's (read 1, y, x, coil) as ``(1, coil, y, x)``."""
    shape = [int(n) for n in path.with_suffix(".hdr").read_text().splitlines()[1].split()]
    array = np.fromfile(path.with_suffix(".cfl"), np.complex64).reshape(shape, order="F").squeeze()
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))[None]


def smooth_maps(coils: int, *spatial: int, dtype: torch.dtype = torch.complex64) -> torch.Tensor:
    """Gaussian coils around the field of view, of unit norm: ``(coil, *spatial)``."""
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n, dtype=torch.float64) for n in spatial], indexing="ij")
    maps = []
    for i in range(coils):
        angle = torch.tensor(2 * torch.pi * i / coils, dtype=torch.float64)
        centre = [angle.sin(), angle.cos(), (2 * angle).sin()][: len(spatial)]
        square = sum((a - 1.2 * c) ** 2 for a, c in zip(axes, centre, strict=True))
        maps.append(torch.polar(torch.exp(-square / 2), angle + 0.5 * axes[-1] * angle.cos()))
    stacked = torch.stack(maps)
    return (stacked / stacked.norm(dim=0)).to(dtype)


def ball(*spatial: int, radius: float = 0.7) -> torch.Tensor:
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in spatial], indexing="ij")
    square = sum(a**2 for a in axes)
    return (square < radius**2) * (1 + 0.3 * torch.cos(7 * axes[-1]) * torch.sin(5 * axes[0]))


def simulate(coils: int = 6, *spatial: int, radius: float = 0.7, dtype: torch.dtype = torch.complex64) -> torch.Tensor:
    dims = tuple(range(-len(spatial), 0))
    return fft_centred(smooth_maps(coils, *spatial, dtype=dtype) * ball(*spatial, radius=radius), dims)[None]


def angles(a: torch.Tensor, b: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """Degrees between the lines that two sets of vectors span; by the sine, which is exact for small ones."""
    a = a.to(torch.complex128) / a.to(torch.complex128).norm(dim=dim, keepdim=True)
    b = b.to(torch.complex128) / b.to(torch.complex128).norm(dim=dim, keepdim=True)
    rest = a - (b.conj() * a).sum(dim, keepdim=True) * b
    return torch.rad2deg(torch.asin(rest.norm(dim=dim).clamp(max=1)))


class TestRegion:
    @settings(max_examples=40, deadline=None)
    @given(n=st.integers(2, 17), m=st.integers(2, 17), data=st.data())
    def test_finds_a_lone_block(self, n: int, m: int, data: st.DataObject) -> None:
        a, b = data.draw(st.integers(1, n)), data.draw(st.integers(1, m))
        mask = torch.zeros(n, m, dtype=torch.bool)
        centre_block(mask, (a, b))[:] = True
        assert calibration_region(mask) == (a, b)
        assert calibration_region(mask, (3, 2)) == (min(a, 3), min(b, 2))

    def test_lines(self) -> None:
        mask = torch.zeros(40, 64, dtype=torch.bool)
        mask[:, ::4] = True
        mask[:, 20:44] = True
        assert calibration_region(mask) == (40, 25)  # the lines 20 to 44: every fourth joins the block

    @pytest.mark.parametrize("width", [6, 8, 10])
    def test_few_central_lines_get_small_kernels(self, width: int) -> None:
        """What the maps cannot explain of the coils' images is several times less than with kernels of 6."""
        k = simulate(8, 64, 64)
        noise = torch.randn(k.shape, dtype=k.dtype, generator=torch.Generator().manual_seed(0))
        mask = torch.zeros(64, dtype=torch.bool)
        mask[::8] = mask[32 - width // 2 : 32 + width // 2] = True
        images = ifft_centred(k, (-2, -1))[0]

        def unexplained(**options: int) -> float:
            maps = espirit(k + 0.01 * noise, mask, sets=1, **options).maps[0, 0]
            rest = images - maps * (maps.conj() * images).sum(0)
            return float(rest.norm() / images.norm())

        assert unexplained() < 0.1
        if width > 6:
            assert unexplained() < 0.7 * unexplained(kernel=6)

    def test_three_dimensions(self) -> None:
        mask = torch.zeros(20, 21, 22, dtype=torch.bool)
        centre_block(mask, (8, 9, 22))[:] = True
        assert calibration_region(mask) == (8, 9, 22)

    def test_no_centre(self) -> None:
        mask = torch.ones(8, 8, dtype=torch.bool)
        mask[4, 4] = False
        assert calibration_region(mask) == (0, 0)

    def test_prefers_what_is_useful(self) -> None:
        """A long thin cross does not win over the square in its middle."""
        mask = torch.zeros(200, 200, dtype=torch.bool)
        mask[:, 97:104] = True
        centre_block(mask, (24, 24))[:] = True
        assert calibration_region(mask) == (200, 7)
        assert calibration_region(mask, (24, 24)) == (24, 24)


class TestMath:
    def test_covariance_is_that_of_zero_padded_kernels(self) -> None:
        """The textbook way: transform every kernel at full size, and sum their outer products."""
        ny, nx = 18, 21
        kernels, _ = calibration_kernels(
            centre_block(simulate(4, ny, nx, dtype=torch.complex128)[0], (12, 12)), (4, 5), 0.05
        )
        padded = torch.zeros(len(kernels), 4, ny, nx, dtype=kernels.dtype)
        padded[..., :4, :5] = kernels
        images = torch.fft.fftshift(torch.fft.ifft2(padded, norm="forward"), YX)
        wanted = torch.einsum("rcyx,rdyx->yxcd", images, images.conj()) / 20
        found = covariance(kernel_autocorrelation(kernels), [grid(ny), grid(nx)])
        torch.testing.assert_close(found, wanted)

    @pytest.mark.parametrize("side", [10, 24])
    def test_kernels_span_the_row_space(self, side: int) -> None:
        """Both Gram matrices (few patches, many patches) give numpy's singular vectors."""
        block = centre_block(simulate(8, 40, 40, dtype=torch.complex128)[0], (side, side))
        kernels, _ = calibration_kernels(block, (6, 6), 0.01)
        patches = block.unfold(1, 6, 1).unfold(2, 6, 1).permute(1, 2, 0, 3, 4).reshape(-1, 8 * 36).numpy()
        _, singular, Vh = np.linalg.svd(patches, full_matrices=False)
        V = torch.from_numpy(Vh[singular > 0.01 * singular[0]])
        found = kernels.flatten(1)
        assert len(found) == len(V)
        torch.testing.assert_close(found.T @ found.conj(), V.T @ V.conj(), atol=1e-7, rtol=0)

    @settings(max_examples=30, deadline=None)
    @given(coils=st.integers(2, 9), gap=st.floats(0, 1), seed=st.integers(0, 99))
    def test_eigenpairs_are_those_of_lapack(self, coils: int, gap: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        Q, _ = torch.linalg.qr(torch.randn(50, coils, coils, dtype=torch.complex128, generator=generator))
        values = torch.rand(50, coils, dtype=torch.float64, generator=generator).sort(-1, descending=True).values
        values[:, 0] = values[:, 1] + gap * (1 - values[:, 1])
        G = (Q * values[:, None]) @ Q.mH
        vectors, found = eigenmaps(G, 2)
        big = values > 0.6  # well above the floor of 0.5, below which first estimates are left as they are
        torch.testing.assert_close(
            found[big[:, :2]], values[:, :2][big[:, :2]], atol=1e-2, rtol=0
        )  # near-equal ones may be mixed up
        torch.testing.assert_close(vectors.mH @ vectors, torch.eye(2).expand(50, 2, 2).to(G), atol=1e-4, rtol=0)
        clear = (values[:, 0] > 0.6) & (values[:, 0] - values[:, 1] > 0.02)
        assert (angles(vectors[clear, :, 0], Q[clear, :, 0], dim=1) < 0.2).all()

    def test_eigenpairs_of_nothing(self) -> None:
        vectors, values = eigenmaps(torch.zeros(3, 4, 4, dtype=torch.complex64), 2)
        assert not values.any()
        assert torch.isfinite(torch.view_as_real(vectors)).all()

    def test_soft_weights_are_bart_s(self) -> None:
        """Half at the crop (for the root of the eigenvalue), 0 and 1 one width away."""
        crop = 0.8
        t = torch.tensor([-2, -1, 0, 1])
        found = soft_weights((crop + (1 - crop) * t) ** 2, crop)
        torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 0.5, 1.0]), atol=1e-6, rtol=0)


class TestPeers:
    def test_bart(self) -> None:
        """Maps, their phase and eigenvalues of ``bart ecalib`` on the middle of the built-in scan."""
        stored = np.load(DATA / "bart_ecalib.npz")
        k = centre_block(torch.from_numpy(sample_scan().slice(0)), (44, 36))[None]
        ours = espirit(k, sets=1, crop=0.0, threshold=0.001**0.5)
        theirs, values = torch.from_numpy(stored["maps"]), torch.from_numpy(stored["eigenvalues"])
        body = values > 0.95
        assert body.float().mean() > 0.5
        assert angles(ours.maps[0, 0], theirs)[body].max() < 0.5
        torch.testing.assert_close(ours.eigenvalues[0, 0][body], values[body], atol=1e-3, rtol=0)
        turn = (ours.maps[0, 0].conj() * theirs).sum(0)[body].sgn()  # one phase for all: that of the principal coil
        torch.testing.assert_close(turn, turn.mean().sgn().expand_as(turn), atol=0.02, rtol=0)

    def test_sigpy(self) -> None:
        from sigpy.mri.app import EspiritCalib

        k = simulate(6, 40, 36)
        theirs = torch.from_numpy(EspiritCalib(k[0].numpy(), thresh=0.02, crop=0, show_pbar=False).run())
        ours = espirit(k, sets=1, crop=0.0, threshold=0.02)
        assert angles(ours.maps[0, 0], theirs)[ball(40, 36) > 0].max() < 0.2

    @pytest.mark.parametrize("undersampled", [False, True])
    def test_sigpy_on_a_real_scan(self, shared_data: Path, undersampled: bool) -> None:
        from sigpy.mri.app import EspiritCalib

        k = ifft_centred(read_cfl(shared_data / "mri/kspace/brain-full-8ch"), YX)[..., 3::4, 2::3]  # sigpy is slow
        k = fft_centred(k, YX)
        mask = torch.rand(1, 1, *k.shape[2:], generator=torch.Generator().manual_seed(0)) < 0.3
        centre_block(mask, (24, 24))[:] = True
        if undersampled:
            k = k * mask
        ours = espirit(k, mask if undersampled else None, sets=1, threshold=0.02)
        theirs = torch.from_numpy(EspiritCalib(k[0].numpy(), thresh=0.02, crop=0, show_pbar=False).run())
        body = ours.eigenvalues[0, 0] > 0.95
        assert angles(ours.maps[0, 0], theirs)[body].max() < 1


class TestMaps:
    def test_true_maps_inside_nothing_outside(self) -> None:
        k = simulate(6, 64, 60, radius=0.6)
        found = espirit(k)
        assert found.sets == 1
        inside, near = ball(64, 60, radius=0.6) > 0, ball(64, 60, radius=0.85) > 0
        maps = found.maps[0, 0]
        assert angles(maps, smooth_maps(6, 64, 60))[inside].quantile(0.99) < 2
        torch.testing.assert_close(maps.norm(dim=0)[inside], torch.ones(int(inside.sum())))
        assert not maps[:, ~near].any()

    def test_odd_sizes_and_float64(self) -> None:
        found = espirit(simulate(4, 45, 39, dtype=torch.complex128))
        assert found.maps.dtype == torch.complex128
        inside = ball(45, 39) > 0
        assert angles(found.maps[0, 0], smooth_maps(4, 45, 39, dtype=torch.complex128))[inside].quantile(0.99) < 1

    def test_batch_is_item_by_item(self) -> None:
        one, two = simulate(5, 40, 40), simulate(5, 40, 40, radius=0.5)
        both = espirit(torch.cat([one, two]))
        for i, k in enumerate((one, two)):
            alone = espirit(k)
            torch.testing.assert_close(both.maps[i], alone.maps[0])
            torch.testing.assert_close(both.crop[i], alone.crop[0])

    def test_scale_does_not_matter(self) -> None:
        k = simulate(5, 40, 40)
        small, large = espirit(1e-6 * k), espirit(1e6 * k)
        torch.testing.assert_close(small.maps, large.maps, atol=1e-3, rtol=0)

    def test_only_the_middle_is_used(self) -> None:
        k = simulate(5, 48, 48)
        mask = torch.rand(48, 48, generator=torch.Generator().manual_seed(0)) < 0.4
        centre_block(mask, (24, 24))[:] = True
        torch.testing.assert_close(espirit(k * mask, mask[None, None]).maps, espirit(k).maps)

    def test_soft_maps_fade(self) -> None:
        k = simulate(5, 48, 48)
        hard, soft = espirit(k, crop=0.9), espirit(k, crop=0.9, soft=True)
        norm = soft.maps[0, 0].norm(dim=0)
        assert ((norm > 0.05) & (norm < 0.95)).any()
        deep = hard.eigenvalues[0, 0] > 0.999
        torch.testing.assert_close(norm[deep], torch.ones(int(deep.sum())), atol=0.02, rtol=0)

    def test_noise_raises_the_threshold(self) -> None:
        k = simulate(6, 64, 64)
        noise = torch.randn(k.shape, dtype=k.dtype, generator=torch.Generator().manual_seed(0))
        quiet, loud = espirit(k + 1e-3 * noise), espirit(k + 0.2 * noise)
        assert float(quiet.threshold[0]) == pytest.approx(0.0316, abs=1e-4)
        assert 0.05 < float(loud.threshold[0]) <= 0.1
        inside = ball(64, 64) > 0
        assert (loud.maps[0, 0].norm(dim=0) > 0)[inside].float().mean() > 0.98
        assert (loud.maps[0, 0].norm(dim=0) > 0)[ball(64, 64, radius=1.2) == 0].float().mean() < 0.1

    def test_three_dimensions(self) -> None:
        k = simulate(4, 20, 18, 22, radius=0.8)
        found = espirit(k, kernel=4, calibration=10)
        inside = ball(20, 18, 22, radius=0.8) > 0
        assert found.calibration == (10, 10, 10)
        assert angles(found.maps[0, 0], smooth_maps(4, 20, 18, 22))[inside].quantile(0.95) < 2


class TestSets:
    @staticmethod
    def wrapped() -> torch.Tensor:
        """A ball wider than the field of view along x, by leaving out every second sample there."""
        return simulate(6, 64, 64, radius=0.72)[..., ::2].contiguous()

    def test_two_where_the_object_wraps(self) -> None:
        k = self.wrapped()
        found = espirit(k)
        assert found.sets == 2
        images = ifft_centred(k, YX)
        one = espirit(k, sets=1)

        def unexplained(maps: CoilMaps) -> float:
            combined = (maps.maps.conj() * images[:, None]).sum(2, keepdim=True)
            return float((images - (maps.maps * combined).sum(1)).norm() / images.norm())

        assert unexplained(found) < 0.03
        assert unexplained(one) > 0.04

    def test_sets_are_orthogonal(self) -> None:
        maps = espirit(self.wrapped(), crop=0.0, sets=2).maps[0]
        assert (maps[0].conj() * maps[1]).sum(0).abs().max() < 1e-3

    def test_one_where_it_does_not(self) -> None:
        k = simulate(6, 64, 64)
        assert espirit(k).sets == 1
        assert not espirit(k, sets=2).maps[0, 1][:, ball(64, 64) > 0].any()

    def test_real_scans(self, shared_data: Path) -> None:
        small = espirit(read_cfl(shared_data / "mri/kspace/brain-smallfov-8ch"))
        assert small.sets == 2
        assert 0.05 < small.maps[0, 1].norm(dim=0).mean() < 0.3
        full = espirit(read_cfl(shared_data / "mri/kspace/brain-full-8ch"))
        assert full.sets == 1
        assert 0.6 < full.maps[0, 0].norm(dim=0).mean() < 0.75  # the head, without the background


class TestRefusals:
    def test_no_block(self) -> None:
        k = simulate(4, 40, 40)
        mask = torch.zeros(1, 1, 1, 40, dtype=torch.bool)
        mask[..., ::2] = True
        with pytest.raises(CalibrationError, match=r"24 x 1 fully sampled.*more than 3.*lowres_maps"):
            espirit(k * mask, mask)

    def test_small_block(self) -> None:
        with pytest.raises(CalibrationError, match="3 x 3"):
            espirit(simulate(4, 40, 40), calibration=3)

    def test_zero_block(self) -> None:
        k = torch.zeros(1, 4, 40, 40, dtype=torch.complex64)
        with pytest.raises(CalibrationError, match="all zero"):
            espirit(k, torch.ones(1, 1, 40, 40, dtype=torch.bool))

    def test_one_coil(self) -> None:
        with pytest.raises(CalibrationError, match="one coil"):
            espirit(simulate(1, 40, 40))

    def test_one_dimension(self) -> None:
        with pytest.raises(ShapeError):
            espirit(torch.ones(1, 4, 40, dtype=torch.complex64))

    @pytest.mark.parametrize("options", [{"kernel": 1}, {"crop": 1.5}, {"threshold": -0.1}, {"calibration": (24,)}])
    def test_options(self, options: dict) -> None:
        with pytest.raises(OptionError):
            espirit(simulate(4, 40, 40), **options)
