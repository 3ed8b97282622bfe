"""`Stamps` and what is wrong with them: every object keeps its row, and a flag says what was found."""

from __future__ import annotations

import warnings

import galsim
import numpy as np
import pytest
import torch
from samples import gaussian_stamp

import recon
from recon.datasets import Source, Stamps
from recon.datasets.lazy import LazyBlocks, take
from recon.datasets.stamp_cleaning import StampFlag, border_noise, clean_stamps, names, off_centre, prepare_psfs
from recon.physics.errors import DataError, FileFormatError, OptionError, PSFWarning, ShapeError

N, SIZE = 6, 20


def make(**fields):
    rng = np.random.default_rng(0)
    clean = np.stack([(i + 1) * 100 * gaussian_stamp(SIZE, 2.0) for i in range(N)])
    values = {
        "pixels": (clean + 0.1 * rng.standard_normal(clean.shape)).astype(np.float32),
        "psf": gaussian_stamp(9, 1.2)[None],
        "sigma": np.full(N, 0.1),
    } | fields
    return Stamps(source=Source("array"), **values)


def whole(stamps):
    return stamps.batch(0, stamps.n)


def flag_of(stamps, index):
    return StampFlag(int(whole(stamps).flags[index]))


def test_good_stamps_pass_unchanged():
    stamps = make(pixel_scale=0.2, ids=np.arange(N) * 7)
    batch = stamps.batch(2, 5)
    np.testing.assert_array_equal(batch.y[:, 0], stamps.pixels[2:5])
    assert batch.ids.tolist() == [14, 21, 28]
    assert not batch.flags.any()
    assert batch.weight is None
    assert batch.y.dtype == batch.psf.dtype == batch.sigma.dtype == torch.float32
    assert batch.psf.shape == (1, 1, 9, 9)
    torch.testing.assert_close(batch.jacobian, 0.2 * torch.eye(2).expand(3, 2, 2))


def test_batches_cover_every_object_once():
    stamps = make()
    found = [batch.ids for batch in stamps.batches(4)]
    assert [len(ids) for ids in found] == [4, 2]
    assert np.concatenate(found).tolist() == list(range(N))
    assert len(stamps) == N


def test_batch_makes_its_operator():
    batch = whole(make(weight=np.full((N, SIZE, SIZE), 100.0), pixel_scale=0.2))
    physics = batch.physics()
    assert physics.pixel_scale == 0.2
    torch.testing.assert_close(physics.noise_model.sigma, torch.full((N,), 0.1))
    torch.testing.assert_close(physics.weight, batch.weight)
    assert physics.A(batch.y).shape == batch.y.shape
    assert batch.to("meta").y.device.type == "meta"


def test_pixels_that_are_not_finite_are_masked_and_flagged():
    pixels = make().pixels.copy()
    pixels[1, 3, 4], pixels[3, 0, 0] = np.nan, np.inf
    batch = whole(make(pixels=pixels))
    assert batch.flags.tolist() == [0, StampFlag.BAD_PIXELS, 0, StampFlag.BAD_PIXELS, 0, 0]
    assert torch.isfinite(batch.y).all()
    assert batch.y[1, 0, 3, 4] == batch.weight[1, 0, 3, 4] == batch.weight[3, 0, 0, 0] == 0
    torch.testing.assert_close(batch.weight[0], torch.full((1, SIZE, SIZE), 100.0))


@pytest.mark.parametrize(("bad", "flag"), [(0.0, StampFlag.MASKED), (-4.0, StampFlag.BAD_WEIGHT), (np.nan, 16)])
def test_weights_that_are_not_positive_mask_their_pixels(bad, flag):
    weight = np.full((N, SIZE, SIZE), 25.0)
    weight[2, 5, 6] = bad
    batch = whole(make(weight=weight, sigma=None))
    assert batch.flags[2] & flag
    assert not np.delete(batch.flags, 2).any()
    assert batch.weight[2, 0, 5, 6] == batch.y[2, 0, 5, 6] == 0
    assert batch.weight.min() >= 0
    torch.testing.assert_close(batch.sigma, torch.full((N,), 0.2))


def test_mask_of_any_bit_masks():
    mask = np.zeros((N, SIZE, SIZE), np.int16)
    mask[4, :3] = 256
    batch = whole(make(mask=mask))
    assert batch.flags.tolist() == [0, 0, 0, 0, StampFlag.MASKED, 0]
    assert not batch.weight[4, 0, :3].any()
    assert batch.weight[4, 0, 3:].all()


def test_one_mask_serves_all():
    mask = np.zeros((1, SIZE, SIZE), np.uint8)
    mask[0, 0, 0] = 1
    assert (whole(make(mask=mask)).flags == StampFlag.MASKED).all()


def test_neighbours_are_masked_with_a_flag_of_their_own():
    neighbours = np.zeros((N, SIZE, SIZE), np.uint8)
    neighbours[0, 2, 2] = 1
    batch = whole(make(neighbours=neighbours))
    assert batch.flags.tolist() == [StampFlag.MASKED | StampFlag.NEIGHBOURS, 0, 0, 0, 0, 0]
    assert batch.weight[0, 0, 2, 2] == 0


def test_stamp_that_is_masked_altogether_keeps_its_row():
    weight = np.ones((N, SIZE, SIZE))
    weight[3] = 0
    batch = whole(make(weight=weight, sigma=None))
    assert batch.flags[3] == StampFlag.MASKED | StampFlag.ALL_MASKED | StampFlag.NO_FLUX
    assert len(batch) == N
    assert torch.isfinite(batch.sigma).all()
    assert (batch.sigma > 0).all()


def test_stamp_without_flux_is_flagged():
    pixels = make().pixels.copy()
    pixels[5] = 0
    assert flag_of(make(pixels=pixels, sigma=None), 5) == StampFlag.NO_FLUX
    assert float(whole(make(pixels=pixels, sigma=None)).sigma[5]) == 1


def test_noise_level_that_cannot_be_is_estimated():
    batch = whole(make(sigma=np.array([0.1, 0, -1, np.nan, 0.1, 0.1])))
    assert (batch.flags == [0, 16, 16, 16, 0, 0]).all()
    assert ((batch.sigma > 0.05) & (batch.sigma < 0.2)).all()


def test_noise_is_estimated_at_the_border(rng):
    y = np.stack([1e4 * gaussian_stamp(48, 3.0), np.zeros((48, 48)), np.full((48, 48), 7.0)]).astype(np.float32)
    y[0] += 2.5 * rng.standard_normal((48, 48)).astype(np.float32)
    level = border_noise(y, np.ones_like(y, bool))
    assert level[0] == pytest.approx(2.5, rel=0.15)
    assert level[1] == 1
    assert level[2] == pytest.approx(7e-6)
    good = np.zeros_like(y, bool)
    good[0, 10:20, 10:20] = True
    assert np.isfinite(border_noise(y, good)).all()


def test_data_too_large_for_single_precision_are_masked():
    pixels = make().pixels.astype(np.float64)
    pixels[0, 0, 0] = 1e300
    assert flag_of(make(pixels=pixels), 0) == StampFlag.BAD_PIXELS


def test_big_endian_and_whole_numbers():
    stamps = make()
    for dtype in (">f8", ">f4", ">i2"):
        batch = whole(make(pixels=(stamps.pixels * 10).astype(dtype)))
        np.testing.assert_allclose(batch.y[:, 0], (stamps.pixels * 10).astype(dtype).astype(float), rtol=1e-6)


def test_psf_of_another_sum_is_normalised_with_warning_and_flag():
    psf = np.stack([gaussian_stamp(9, 1.2)] * N)
    psf[2] *= 3
    psf[0] *= 1.0005
    with pytest.warns(PSFWarning, match="do not sum to 1"):
        batch = whole(make(psf=psf))
    assert batch.flags[2] == StampFlag.PSF_NORMALISED
    torch.testing.assert_close(batch.psf.sum((1, 2, 3)), torch.ones(N))
    torch.testing.assert_close(batch.psf[2], batch.psf[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("size", [15, 16])
def test_psf_off_centre_is_moved_by_whole_pixels(size):
    centred = gaussian_stamp(size, 1.2)
    psf = np.stack([centred, gaussian_stamp(size, 1.2, x=2.0, y=-1.0), gaussian_stamp(size, 1.2, x=0.5)] * 2)
    with pytest.warns(PSFWarning, match="off their centre"):
        batch = whole(make(psf=psf))
    assert batch.flags.tolist() == [0, StampFlag.PSF_MOVED, 0] * 2
    np.testing.assert_allclose(batch.psf[1, 0], centred, atol=1e-4)
    assert off_centre(psf)[1].tolist() == [1, -2]


def test_good_psfs_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole(make())
        prepare_psfs(gaussian_stamp(21, 1.0)[None])


def test_psf_that_cannot_be_used_is_a_delta_and_a_flag():
    psf = np.stack([gaussian_stamp(9, 1.2)] * N)
    psf[1], psf[4] = 0, np.nan
    with pytest.warns(PSFWarning, match="their objects are flagged"):
        batch = whole(make(psf=psf))
    assert (batch.flags == [0, StampFlag.BAD_PSF, 0, 0, StampFlag.BAD_PSF, 0]).all()
    assert batch.psf[1].flatten().argmax() == 4 * 9 + 4
    assert torch.isfinite(batch.psf).all()


def test_one_psf_for_all_that_cannot_be_used():
    with pytest.raises(DataError, match="PSF of all stamps"):
        whole(make(psf=np.zeros((1, 9, 9))))


def test_psf_larger_than_the_stamp():
    batch = whole(make(psf=gaussian_stamp(51, 1.2)[None]))
    assert not batch.flags.any()
    flux = batch.physics().A(batch.y).sum((1, 2, 3))
    torch.testing.assert_close(flux, batch.y.sum((1, 2, 3)), rtol=0.05, atol=1)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"psf": np.ones((N - 1, 9, 9))}, r"PSFs than of stamps; found 5; expected 6, one a stamp, or 1 for all"),
        ({"weight": np.ones((N - 1, SIZE, SIZE))}, "weight that does not fit"),
        ({"mask": np.ones((N, SIZE, SIZE - 1))}, "mask that does not fit"),
        ({"ids": np.arange(N + 1), "sigma": None}, "ids than of stamps; found 7"),
        ({"sigma": np.ones(2)}, "sigma than of stamps"),
        ({"jacobian": np.ones((2, 2, 2))}, "Jacobians than of stamps"),
        ({"pixels": np.ones((3, 4))}, r"expected \(n, y, x\)"),
        ({"psf": np.ones((9, 9))}, "PSFs of a shape"),
    ],
)
def test_counts_that_do_not_match(fields, found):
    with pytest.raises(ShapeError, match=found):
        make(**fields)


def test_no_such_stamps():
    with pytest.raises(OptionError, match="no such stamps"):
        make().batch(N, N + 2)


def test_flags_of_the_reader_stay():
    flags = np.zeros(N, np.int32)
    flags[1] = StampFlag.TRUNCATED
    assert whole(make(flags=flags)).flags.tolist() == flags.tolist()
    assert names(int(StampFlag.TRUNCATED | StampFlag.NO_FLUX)) == ["no_flux", "truncated"]


def test_cleaning_is_that_of_each_row(rng):
    pixels = rng.standard_normal((5, 8, 8))
    pixels[2, 1, 1] = np.nan
    together = clean_stamps(pixels)
    for i in range(5):
        alone = clean_stamps(pixels[i : i + 1])
        np.testing.assert_array_equal(together[0][i], alone[0][0])
        assert together[2][i] == alone[2][0]
        assert together[3][i] == alone[3][0]


def test_blocks_read_neighbours_at_once_and_name_what_fails(tmp_path):
    def read(start, stop):
        if start >= 4:
            raise OSError("gone")
        return np.arange(start, stop)[:, None] * np.ones((1, 3))

    blocks = LazyBlocks((5, 3), np.dtype(float), read, tmp_path / "file")
    np.testing.assert_array_equal(take(blocks, 1, 3), [[1, 1, 1], [2, 2, 2]])
    np.testing.assert_array_equal(blocks[-3], [2, 2, 2])
    with pytest.raises(FileFormatError, match=r"file: slice 4 cannot be read; found OSError: gone"):
        blocks[4]
    with pytest.raises(IndexError):
        blocks[5]
    with pytest.raises(FileFormatError, match="another shape"):
        LazyBlocks((5, 4), np.dtype(float), read)[0]


# Other sources


def test_galsim_images(rng):
    wcs = galsim.JacobianWCS(0.2, 0.01, -0.02, 0.21)
    psf = galsim.Gaussian(fwhm=0.7)
    images = [
        galsim.Convolve(galsim.Exponential(half_light_radius=0.5, flux=100 + i), psf).drawImage(nx=32, ny=32, wcs=wcs)
        for i in range(3)
    ]
    stamps = Stamps.from_galsim(images, psf, sigma=0.01, ids=np.array(["a", "b", "c"]))
    batch = whole(stamps)
    np.testing.assert_array_equal(batch.y[1, 0], images[1].array)
    torch.testing.assert_close(batch.jacobian[2], torch.tensor([[0.2, 0.01], [-0.02, 0.21]]))
    assert not batch.flags.any()
    assert batch.psf.shape == (1, 1, 33, 33)
    assert batch.psf.flatten().argmax() == 16 * 33 + 16
    each = Stamps.from_galsim(images, [galsim.Image(gaussian_stamp(9, 1.0))] * 3, weight=images)
    assert each.psf.shape == (3, 9, 9)
    assert each.weight is not None


def test_galsim_images_that_do_not_belong_together():
    one, other = galsim.Image(8, 8, scale=0.2), galsim.Image(9, 9, scale=0.2)
    with pytest.raises(ShapeError, match="several sizes"):
        Stamps.from_galsim([one, other], one)
    with pytest.raises(OptionError, match="no galsim image"):
        Stamps.from_galsim([], one)
    with pytest.raises(OptionError, match="pixel scale"):
        Stamps.from_galsim([galsim.Image(8, 8)], galsim.Gaussian(fwhm=0.7))


def test_npy_pair(tmp_path):
    np.save(tmp_path / "galaxy.npy", make().pixels)
    np.save(tmp_path / "psf.npy", gaussian_stamp(9, 1.2))
    stamps = recon.datasets.open(tmp_path / "galaxy.npy", psf=tmp_path / "psf.npy")
    assert isinstance(stamps, Stamps)
    assert stamps.shape == (SIZE, SIZE)
    np.testing.assert_array_equal(whole(stamps).y[:, 0], make().pixels)
    assert any("unit" in note for note in stamps.notes)
    np.save(tmp_path / "psf.npy", np.stack([gaussian_stamp(9, 1.2)] * 4))
    with pytest.raises(ShapeError, match="found 4; expected 6"):
        recon.datasets.open(tmp_path / "galaxy.npy", psf=tmp_path / "psf.npy")


def test_reference_pair_of_arrays(shared_data):
    folder = shared_data / "galaxy"
    stamps = recon.datasets.open(folder / "galaxy-deconv-galaxy.npy", psf=folder / "galaxy-deconv-psf.npy")
    with pytest.warns(PSFWarning, match="do not sum"):
        batch = whole(stamps)
    assert batch.psf.sum() == pytest.approx(1, rel=1e-5)
    assert batch.y.sum() == pytest.approx(10.80294, rel=1e-5)


def test_options_that_belong_to_stamps(tmp_path):
    np.save(tmp_path / "galaxy.npy", make().pixels)
    np.save(tmp_path / "kspace.npy", np.ones((2, 8, 8), np.complex64))
    with pytest.raises(OptionError, match="no PSF belongs to these stamps"):
        recon.datasets.open(tmp_path / "galaxy.npy", mask=tmp_path / "galaxy.npy")
    with pytest.raises(OptionError, match="raw measurements have no psf"):
        recon.datasets.open(tmp_path / "kspace.npy", psf=tmp_path / "galaxy.npy")
    with pytest.raises(DataError, match="holds no psf"):
        recon.datasets.open(tmp_path / "galaxy.npy", psf=tmp_path / "kspace.npy")
