"""Writers: what comes back through our readers, and which writer a name chooses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import RAS, complex_normal
from written import HEADER, IMAGES, kspace, kspace_or_pixels, lazily, make_image, make_scan, pixels

from recon.datasets import Image, Scan, save, writers
from recon.datasets import open as open_any
from recon.datasets.writers import find_writer
from recon.physics.errors import OptionError

SIZES = st.tuples(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9))


class TestRoundTrips:
    @settings(deadline=None, max_examples=8)
    @given(shape=SIZES, real=st.booleans(), lazy=st.booleans())
    @pytest.mark.parametrize("ending", [".h5", ".npz"])
    def test_images_without_loss(
        self, tmp_path_factory: pytest.TempPathFactory, ending: str, shape: tuple[int, ...], real: bool, lazy: bool
    ) -> None:
        image = make_image(shape, real=real, unit="a.u.")
        expected = pixels(image)
        if lazy:
            image = make_image(shape, real=real, unit="a.u.", pixels=lazily(expected))
        back = open_any(save(image, tmp_path_factory.mktemp("out") / f"a{ending}"))
        np.testing.assert_array_equal(pixels(back), expected)
        assert pixels(back).dtype == expected.dtype
        assert (back.spacing, back.unit, back.notes) == (image.spacing, "a.u.", ("a note",))
        np.testing.assert_array_equal(back.affine, RAS)
        assert back.maps.keys() == image.maps.keys()
        for name in image.maps:
            np.testing.assert_array_equal(back.maps[name], image.maps[name])
        assert json.dumps(back.header) == json.dumps(HEADER)

    @settings(deadline=None, max_examples=8)
    @given(shape=SIZES)
    @pytest.mark.parametrize(("ending", "precision"), [(".nii", 0), (".nii.gz", 0), (".dcm", 1 / 65535)])
    def test_magnitudes(
        self, tmp_path_factory: pytest.TempPathFactory, ending: str, precision: float, shape: tuple[int, ...]
    ) -> None:
        image = make_image(shape)
        expected = np.abs(pixels(image))
        back = open_any(save(image, tmp_path_factory.mktemp("out") / f"a{ending}"))
        np.testing.assert_allclose(pixels(back), expected, atol=0.51 * precision * expected.max(), rtol=1e-6)
        np.testing.assert_allclose(back.affine, RAS, atol=1e-6)
        assert back.spacing == pytest.approx((4, 1.5, 1))
        assert back.header["provenance"] == HEADER["provenance"]
        assert back.notes == ("a note",)

    @settings(deadline=None, max_examples=8)
    @given(shape=st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(2, 9)] * 2), volume=st.booleans())
    @pytest.mark.parametrize("ending", [".h5", ".npz", ".cfl"])
    def test_scans(
        self, tmp_path_factory: pytest.TempPathFactory, ending: str, shape: tuple[int, ...], volume: bool
    ) -> None:
        if volume:
            shape = (*shape[:2], 4, *shape[2:])
        scan = make_scan(shape, matrix=None, mask=np.ones(shape[2:], bool)) if volume else make_scan(shape)
        back = open_any(save(scan, tmp_path_factory.mktemp("out") / f"a{ending}"))
        np.testing.assert_array_equal(kspace(back), scan.kspace)
        if ending != ".cfl":
            for index in range(scan.n_slices):
                np.testing.assert_array_equal(back.sampling(index)[0], scan.sampling(index)[0])
            for name in ("spacing", "matrix", "readout_axis", "oversampling", "header", "notes", "labels"):
                assert getattr(back, name) == getattr(scan, name), name
            np.testing.assert_array_equal(back.affine, scan.affine)
            np.testing.assert_array_equal(back.noise, scan.noise)

    @pytest.mark.parametrize("ending", [".h5", ".npz"])
    def test_everything_that_a_scan_may_have(self, tmp_path: Path, ending: str) -> None:
        scan = make_scan(
            coil_maps=complex_normal((3, 2, 13, 10), 5),
            reference=np.abs(complex_normal((3, 13, 5), 6)),
            mask=np.random.default_rng(0).random((3, 13, 10)) < 0.5,
            partial_fourier=(0.75, 1.0),
            oversampling=2.0,
            labels=tuple({"slice": k, "repetition": 0} for k in range(3)),
            notes=("repaired",),
        )
        back = open_any(save(scan, tmp_path / f"a{ending}"))
        for name in ("coil_maps", "reference"):
            found = getattr(back, name)
            np.testing.assert_array_equal(np.stack([found[k] for k in range(3)]), getattr(scan, name))
        np.testing.assert_array_equal(back.mask, scan.mask)
        assert back.partial_fourier == (0.75, 1.0)
        assert back.labels == scan.labels
        assert back.notes == ("repaired",)

    @pytest.mark.parametrize("dim", [2, 3])
    @pytest.mark.parametrize("ending", [".npz", ".mrd"])
    def test_trajectories(self, tmp_path: Path, ending: str, dim: int) -> None:
        trajectory = np.random.default_rng(0).uniform(-8, 8, (60, dim)).astype(np.float32)
        density = np.random.default_rng(1).random(60).astype(np.float32)
        matrix = (16, 18, 20)[-dim:]
        scan = make_scan(
            kspace=complex_normal((2, 3, 60)),
            noise=None,
            mask=None,
            trajectory=trajectory,
            density=density,
            matrix=matrix,
            readout_axis=None,
        )
        back = open_any(save(scan, tmp_path / f"a{ending}"))
        np.testing.assert_array_equal(kspace(back), scan.kspace)
        np.testing.assert_allclose(back.trajectory, trajectory, atol=1e-5)
        if dim == 2 or ending == ".npz":
            np.testing.assert_allclose(back.density, density)
        assert back.matrix == matrix

    @pytest.mark.parametrize("ending", IMAGES)
    def test_equal_images_give_equal_files(self, tmp_path: Path, ending: str) -> None:
        first, second = (save(make_image((1, 13, 10)), tmp_path / f"{name}{ending}") for name in "ab")
        assert first.read_bytes() == second.read_bytes()

    @pytest.mark.parametrize("ending", IMAGES)
    @pytest.mark.parametrize("dtype", ["?", "u1", "i2", "u2", "i4", "f2", "f4", "f8", "c8", "c16"])
    def test_any_dtype(self, tmp_path: Path, ending: str, dtype: str) -> None:
        values = np.arange(60).reshape(2, 6, 5).astype(dtype)
        path = save(make_image(pixels=values, maps={}), tmp_path / f"a{ending}")
        if ending in (".png", ".fits"):
            return
        back = open_any(path)
        found = kspace_or_pixels(back)
        expected = values if dtype in ("c8", "c16") and ending in (".h5", ".npz", ".cfl") else np.abs(values)
        np.testing.assert_allclose(np.abs(found).reshape(values.shape), np.abs(expected), atol=1e-3)


class TestChoice:
    def test_every_writer_is_found_by_its_endings(self) -> None:
        for name, entry in writers.items():
            for kind in entry.kinds:
                for ending in entry.endings:
                    assert type(find_writer(Path(f"x{ending.upper()}"), kind)) is entry, name

    @pytest.mark.parametrize(
        ("name", "data", "words"),
        [
            ("a.xyz", make_image(), r"no image .*found \.xyz.*\.nii\.gz"),
            ("a", make_image(), "found no ending"),
            ("a.nii", make_scan(), "no scan can be written with this ending"),
            ("a.mrd", make_image(), "no image can be written"),
        ],
    )
    def test_endings_that_do_not_exist(self, tmp_path: Path, name: str, data: Image | Scan, words: str) -> None:
        with pytest.raises(OptionError, match=words):
            save(data, tmp_path / name)

    def test_formats_by_name(self, tmp_path: Path) -> None:
        assert open_any(save(make_image(), tmp_path / "a", format="npz")).source.format == "npz"
        with pytest.raises(OptionError, match="does not hold a scan"):
            save(make_scan(), tmp_path / "a", format="nifti")
        with pytest.raises(OptionError, match="no output format is called 'jpeg'"):
            save(make_image(), tmp_path / "a", format="jpeg")
