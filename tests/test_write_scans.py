"""Writers of raw measurements: what BART, h5py and the ismrmrd package find in our files."""

from __future__ import annotations

from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest
from samples import RAS, complex_normal
from written import kspace, make_image, make_scan

from recon.datasets import open as open_any
from recon.datasets import save
from recon.physics.errors import OptionError


class TestCfl:
    def parse(self, path: Path) -> np.ndarray:
        """An independent reader, axes as BART has them."""
        lines = path.with_suffix(".hdr").read_text().splitlines()
        assert lines[0] == "# Dimensions"
        dims = [int(word) for word in lines[1].split()]
        assert len(dims) == 16
        assert path.stat().st_size == 8 * np.prod(dims)
        return np.fromfile(path, "<c8").reshape(dims, order="F")

    @pytest.mark.parametrize(("readout", "order"), [(-1, (0, 13, 10, 2)), (None, (0, 13, 10, 2)), (-2, (13, 10, 0, 2))])
    def test_a_stack_of_slices(self, tmp_path: Path, readout: int | None, order: tuple[int, ...]) -> None:
        scan = make_scan(readout_axis=readout)
        data = self.parse(save(scan, tmp_path / "a.cfl"))
        assert data.shape[:4] == tuple(max(1, n) for n in order)
        assert data.shape[13] == 3
        for index in range(3):
            one = data[..., index, 0, 0].squeeze()
            np.testing.assert_array_equal(one, scan.kspace[index].transpose(1, 2, 0))
        assert open_any(tmp_path / "a.cfl").readout_axis == (-2 if readout == -2 else None)

    def test_a_volume_and_repetitions(self, tmp_path: Path) -> None:
        labels = ({"slice": 0, "repetition": 0}, {"slice": 0, "repetition": 1})
        scan = make_scan((2, 3, 4, 5, 6), mask=None, matrix=None, labels=labels)
        data = self.parse(save(scan, tmp_path / "a.cfl"))
        assert data.shape == (4, 5, 6, 3, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1)
        np.testing.assert_array_equal(data[2, 3, 4, 1].squeeze(), scan.kspace[:, 1, 2, 3, 4])

    def test_an_image(self, tmp_path: Path) -> None:
        image = make_image()
        data = self.parse(save(image, tmp_path / "a.cfl"))
        np.testing.assert_array_equal(data.squeeze(), np.moveaxis(image.pixels, 0, -1))

    def test_what_it_cannot_hold(self, tmp_path: Path) -> None:
        colours = make_image(pixels=np.zeros((1, 5, 5, 3)), maps={})
        spokes = make_scan(
            kspace=complex_normal((1, 2, 9)), mask=None, noise=None, trajectory=np.zeros((9, 2)), matrix=None
        )
        for data, words in ((colours, "no colours"), (spokes, "no trajectory")):
            with pytest.raises(OptionError, match=words):
                save(data, tmp_path / "a.cfl")
        with pytest.raises(OptionError, match=r"ends in \.cfl"):
            save(make_image(), tmp_path / "a.bin", format="cfl")
        assert list(tmp_path.iterdir()) == []


class TestHdf5:
    def test_the_layout_of_fastmri(self, tmp_path: Path) -> None:
        lines = np.broadcast_to(np.arange(10) % 3 == 0, (13, 10))
        reference = np.abs(complex_normal((3, 13, 5), 6))
        scan = make_scan(mask=lines, readout_axis=-2, reference=reference)
        with h5py.File(save(scan, tmp_path / "a.h5")) as file:
            assert file["kspace"].shape == (3, 2, 13, 10)
            assert file["kspace"].dtype == np.complex64
            np.testing.assert_array_equal(file["mask"][()], lines[0])
            np.testing.assert_array_equal(file["reconstruction_rss"][()], reference)
            assert file.attrs["max"] == pytest.approx(reference.max())
            assert file.attrs["norm"] == pytest.approx(np.linalg.norm(reference))
            header = ismrmrd.xsd.CreateFromDocument(file["ismrmrd_header"][()])
        encoded, recon = header.encoding[0].encodedSpace, header.encoding[0].reconSpace
        assert (encoded.matrixSize.x, encoded.matrixSize.y, encoded.matrixSize.z) == (13, 10, 1)
        assert (encoded.fieldOfView_mm.x, encoded.fieldOfView_mm.y) == (13 * 1.5, 10)
        assert (recon.matrixSize.x, recon.matrixSize.y) == (13, 5)

    def test_other_programs_files_are_read_as_before(self, tmp_path: Path) -> None:
        """Without our description, geometry comes from fastMRI's header."""
        path = save(make_scan(readout_axis=-2), tmp_path / "a.h5")
        with h5py.File(path, "r+") as file:
            del file["recon_metadata"]
        back = open_any(path)
        assert (back.spacing, back.matrix, back.readout_axis) == ((4, 1.5, 1), (13, 5), -2)

    def test_a_submission(self, tmp_path: Path) -> None:
        image = make_image()
        with h5py.File(save(image, tmp_path / "a.h5")) as file:
            np.testing.assert_array_equal(file["reconstruction"][()], np.abs(image.pixels))
            assert file["reconstruction"].dtype == np.float32
            np.testing.assert_array_equal(file["maps/uncertainty"][()], image.maps["uncertainty"])
            np.testing.assert_array_equal(file.attrs["affine"], RAS)

    def test_long_provenance(self, tmp_path: Path) -> None:
        """More than fits into an attribute."""
        header = {"provenance": {"steps": ["x" * 1000] * 100}}
        assert open_any(save(make_image(header=header), tmp_path / "a.h5")).header == header


class TestIsmrmrd:
    def test_its_own_package_reads_it(self, tmp_path: Path) -> None:
        scan = make_scan()
        with ismrmrd.Dataset(str(save(scan, tmp_path / "a.mrd")), "dataset", create_if_needed=False) as file:
            header = ismrmrd.xsd.CreateFromDocument(file.read_xml_header())
            acquisitions = [file.read_acquisition(k) for k in range(file.number_of_acquisitions())]
        assert header.encoding[0].encodedSpace.matrixSize.x == 10
        assert header.encoding[0].encodedSpace.fieldOfView_mm.y == 13 * 1.5
        noise = [a for a in acquisitions if a.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
        np.testing.assert_array_equal(np.concatenate([a.data for a in noise], 1), scan.noise)
        lines = [a for a in acquisitions if not a.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
        assert len(lines) == 3 * scan.mask[:, 0].sum(), "what was not sampled is not written"
        for line in lines:
            expected = scan.kspace[line.idx.slice, :, line.idx.kspace_encode_step_1]
            np.testing.assert_array_equal(line.data, expected)
            assert line.center_sample == 5
            lps = (RAS @ [2, 6, line.idx.slice, 1])[:3] * [-1, -1, 1]
            np.testing.assert_allclose(line.position[:], lps)

    @pytest.mark.parametrize("readout", [-1, -2])
    def test_slices_come_back(self, tmp_path: Path, readout: int) -> None:
        lines = np.arange(13)[:, None] if readout == -1 else np.arange(10)[None]
        scan = make_scan(mask=np.broadcast_to(lines % 3 != 1, (13, 10)), matrix=(13, 10), readout_axis=readout)
        back = open_any(save(scan, tmp_path / "a.mrd"))
        found, sampled, affine = kspace(back), back.sampling(0)[0], np.array(back.affine)
        if readout == -2:  # the readout is x in this format
            found, sampled, affine = found.swapaxes(-1, -2), sampled.T, affine[:, [1, 0, 2, 3]]
        np.testing.assert_array_equal(found, scan.kspace)
        np.testing.assert_array_equal(sampled, scan.mask)
        np.testing.assert_allclose(affine, RAS, atol=1e-4)
        np.testing.assert_array_equal(back.noise, scan.noise)

    @pytest.mark.parametrize("readout", [-1, -2, -3])
    def test_volumes_come_back(self, tmp_path: Path, readout: int) -> None:
        axes = {-1: (0, 1, 2), -2: (0, 2, 1), -3: (1, 2, 0)}[readout]
        scan = make_scan((2, 3, 4, 5, 6), mask=None, matrix=None, readout_axis=readout)
        back = open_any(save(scan, tmp_path / "a.mrd"))
        np.testing.assert_array_equal(kspace(back), scan.kspace.transpose(0, 1, *(2 + axis for axis in axes)))
        affine = np.array(back.affine)
        order = [2 - axis for axis in axes[::-1]]
        np.testing.assert_allclose(affine[:, :3], RAS[:, order], atol=1e-4)

    def test_partial_echo_and_repetitions(self, tmp_path: Path) -> None:
        mask = np.zeros((13, 10), bool)
        mask[:, 3:] = True
        labels = tuple({"slice": s, "repetition": r} for r in range(2) for s in range(2))
        scan = make_scan((4, 2, 13, 10), mask=mask, labels=labels)
        back = open_any(save(scan, tmp_path / "a.mrd"))
        np.testing.assert_array_equal(kspace(back), scan.kspace)
        np.testing.assert_array_equal(back.sampling(0)[0], mask)
        assert [(label["slice"], label["repetition"]) for label in back.labels] == [(0, 0), (1, 0), (0, 1), (1, 1)]
        np.testing.assert_allclose(back.affine, RAS, atol=1e-4)

    def test_what_is_not_known_is_not_invented(self, tmp_path: Path) -> None:
        path = save(make_scan(affine=None, spacing=None, matrix=None), tmp_path / "a.mrd")
        assert open_any(path).affine is None
        with ismrmrd.Dataset(str(path), "dataset", create_if_needed=False) as file:
            assert b"unknown" in file.read_xml_header()

    def test_samples_that_are_no_lines(self, tmp_path: Path) -> None:
        mask = np.random.default_rng(0).random((13, 10)) < 0.3
        with pytest.raises(OptionError, match=r"whole readouts.*Choose \.h5"):
            save(make_scan(mask=mask), tmp_path / "a.mrd")
        assert list(tmp_path.iterdir()) == []

    def test_by_name_with_another_ending(self, tmp_path: Path) -> None:
        assert open_any(save(make_scan(), tmp_path / "a.h5", format="ismrmrd")).source.format == "ismrmrd"
