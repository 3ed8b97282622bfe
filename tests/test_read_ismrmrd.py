"""ISMRMRD files written by the ismrmrd package."""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest
from ismrmrd_scans import FULL, lines, opened
from samples import complex_normal, encoding, ismrmrd_xml, make_ismrmrd, readout, write_ismrmrd

from recon.physics.errors import FileFormatError


def test_slices_matrix_and_geometry(tmp_path: Path) -> None:
    scan = opened(make_ismrmrd(tmp_path))
    k = complex_normal((2, 3, 12, 16))
    np.testing.assert_array_equal(np.stack([scan.slice(0), scan.slice(1)]), k)
    assert scan.source.format == "ismrmrd"
    assert scan.matrix == (12, 8)
    assert scan.oversampling == 2
    assert scan.readout_axis == -1
    assert scan.mask.shape == (12, 1)
    assert scan.mask.all()
    assert scan.partial_fourier is None
    assert scan.noise is None
    assert scan.trajectory is None
    assert scan.spacing == pytest.approx((5, 200 / 12, 25))
    assert [label["slice"] for label in scan.labels] == [0, 1]
    # x to the left and y to the back in the scanner's coordinates: minus both in RAS; voxel n // 2 at the position
    np.testing.assert_allclose(scan.affine[:3, :3], np.diag([-25, -200 / 12, 5]))
    np.testing.assert_allclose(scan.affine @ [4, 6, 1, 1], [0, 0, 5, 1], atol=1e-9)
    assert scan.header["acquisitionSystemInformation.systemVendor"] == "ACME"


def test_real_brain_comes_back_equal(shared_data: Path, tmp_path: Path) -> None:
    raw = np.fromfile(shared_data / "mri/kspace/brain-full-8ch.cfl", np.complex64).reshape((1, 230, 180, 8), order="F")
    k = np.ascontiguousarray(raw[0].transpose(2, 0, 1))
    header = ismrmrd_xml(
        encoding((180, 230, 1), (180, 230, 1), encoded_fov=(180, 230, 5), recon_fov=(180, 230, 5), lines=(0, 229, 115))
    )
    scan = opened(write_ismrmrd(tmp_path / "brain.h5", header, lines(k)))
    np.testing.assert_array_equal(scan.slice(0), k)


def test_file_of_the_c_library() -> None:
    path = Path(__file__).parent / "data" / "ismrmrd_shepp_logan.h5"
    scan = opened(path)
    assert scan.kspace.shape == (1, 2, 32, 32)
    assert scan.mask.all()
    assert scan.noise.shape == (2, 32)
    assert scan.spacing == pytest.approx((6, 300 / 32, 600 / 32))
    assert scan.matrix == (32, 16)
    assert any("trajectory in the readouts was not used" in note for note in scan.notes)
    with ismrmrd.Dataset(str(path), "dataset", mode="r") as dataset:
        for i in range(1, dataset.number_of_acquisitions()):
            acquisition = dataset.read_acquisition(i)
            np.testing.assert_array_equal(scan.slice(0)[:, acquisition.idx.kspace_encode_step_1], acquisition.data)
        np.testing.assert_array_equal(scan.noise, dataset.read_acquisition(0).data)


@pytest.mark.parametrize(
    "options", [{"compression": "gzip"}, {"compression": "gzip", "shuffle": True}, {"chunks": (5,)}]
)
def test_repacked_tables(tmp_path: Path, options: dict) -> None:
    path = make_ismrmrd(tmp_path)
    with h5py.File(path, "r+") as file:
        table = file["dataset/data"][:]
        del file["dataset/data"]
        file.create_dataset("dataset/data", data=table, **options)
    scan = opened(path)
    np.testing.assert_array_equal(np.stack([scan.slice(0), scan.slice(1)]), complex_normal((2, 3, 12, 16)))


def test_a_contiguous_table(tmp_path: Path) -> None:
    path = make_ismrmrd(tmp_path)
    with h5py.File(path, "r+") as file:
        table = file["dataset/data"][:]
        del file["dataset/data"]
        file["dataset"].create_dataset("data", data=table)
        assert file["dataset/data"].chunks is None
    np.testing.assert_array_equal(opened(path).slice(1), complex_normal((2, 3, 12, 16))[1])


def test_group_of_another_name_and_several_groups(tmp_path: Path) -> None:
    k = complex_normal((2, 3, 12, 16))
    path = tmp_path / "s.h5"
    write_ismrmrd(path, ismrmrd_xml(FULL), lines(k[0]), group="mine")
    np.testing.assert_array_equal(opened(path).slice(0), k[0])
    write_ismrmrd(path, ismrmrd_xml(FULL), lines(k[1]), group="mine_1")
    scan = opened(path)
    np.testing.assert_array_equal(scan.slice(0), k[1])
    assert any("mine_1" in note for note in scan.notes)
    np.testing.assert_array_equal(opened(path, variable="mine").slice(0), k[0])
    with pytest.raises(FileFormatError, match="mine, mine_1"):
        opened(path, variable="yours")


def test_undersampling_gives_a_mask(tmp_path: Path) -> None:
    k = complex_normal((3, 12, 16))
    kept = [0, 2, 4, 5, 6, 7, 8, 10]
    path = write_ismrmrd(tmp_path / "s.h5", ismrmrd_xml(FULL), [lines(k)[y] for y in kept])
    scan = opened(path)
    np.testing.assert_array_equal(np.flatnonzero(scan.mask), kept)
    np.testing.assert_array_equal(scan.slice(0)[:, kept], k[:, kept])
    assert not scan.slice(0)[:, [1, 3, 9, 11]].any()


def test_noise_is_scaled_to_the_bandwidth_of_the_image(tmp_path: Path) -> None:
    k, noise = complex_normal((3, 12, 16)), complex_normal((3, 64), 1)
    header = ismrmrd_xml(FULL)
    scans = [readout(noise, flags=(ismrmrd.ACQ_IS_NOISE_MEASUREMENT,), sample_time_us=8.0)]
    scan = opened(write_ismrmrd(tmp_path / "s.h5", header, scans + lines(k, sample_time_us=2.0)))
    np.testing.assert_allclose(scan.noise, 2 * noise, rtol=1e-6)
    assert any("noise scaled by 2" in note for note in scan.notes)
    np.testing.assert_array_equal(scan.slice(0), k)


def test_noise_in_a_group_of_its_own(tmp_path: Path) -> None:
    noise, path = complex_normal((3, 64), 1), tmp_path / "s.h5"
    write_ismrmrd(path, ismrmrd_xml(FULL), [readout(noise, flags=(ismrmrd.ACQ_IS_NOISE_MEASUREMENT,))], group="first")
    write_ismrmrd(path, ismrmrd_xml(FULL), lines(complex_normal((3, 12, 16))), group="second")
    np.testing.assert_array_equal(opened(path).noise, noise)


def test_averages_are_averaged_and_the_noise_with_them(tmp_path: Path) -> None:
    k, noise = complex_normal((4, 3, 12, 16)), complex_normal((3, 64), 1)
    scans = [readout(noise, flags=(ismrmrd.ACQ_IS_NOISE_MEASUREMENT,))]
    for average in range(4):
        scans += lines(k[average], average=average)
    scan = opened(write_ismrmrd(tmp_path / "s.h5", ismrmrd_xml(FULL), scans))
    assert scan.n_slices == 1
    np.testing.assert_allclose(scan.slice(0), k.mean(0), atol=1e-6)
    np.testing.assert_allclose(scan.noise, noise / 2, rtol=1e-6)


def test_everything_else_becomes_an_entry_with_labels(tmp_path: Path) -> None:
    names = ("contrast", "phase", "repetition", "set", "slice")
    k = complex_normal((5, 3, 12, 16))
    scans = []
    for i, name in enumerate(names):
        scans += lines(k[i], **{name: 2})
    scan = opened(write_ismrmrd(tmp_path / "s.h5", ismrmrd_xml(FULL), scans))
    assert scan.n_slices == 5
    for i, name in enumerate(names):
        (index,) = [j for j, label in enumerate(scan.labels) if label[name] == 2]
        np.testing.assert_array_equal(scan.slice(index), k[i])


def test_partial_fourier_along_the_lines(tmp_path: Path) -> None:
    k = complex_normal((3, 20, 16))
    scans = [readout(k[:, y], kspace_encode_step_1=y - 5) for y in range(5, 20)]
    header = ismrmrd_xml(encoding((16, 20, 1), (8, 20, 1), lines=(0, 14, 5)))
    scan = opened(write_ismrmrd(tmp_path / "s.h5", header, scans))
    np.testing.assert_array_equal(scan.slice(0)[:, 5:], k[:, 5:])
    np.testing.assert_array_equal(np.flatnonzero(scan.mask), np.arange(5, 20))
    assert scan.partial_fourier == (15 / 20, 1.0)


def test_asymmetric_echo_and_discarded_samples(tmp_path: Path) -> None:
    k = complex_normal((3, 12, 16))
    scans = []
    for y in range(12):
        data = np.concatenate([np.full((3, 2), 99), k[:, y, 4:], np.full((3, 1), 99)], axis=1)
        scans.append(readout(data, kspace_encode_step_1=y, center_sample=6, discard_pre=2, discard_post=1))
    scan = opened(write_ismrmrd(tmp_path / "s.h5", ismrmrd_xml(FULL), scans))
    np.testing.assert_array_equal(scan.slice(0)[..., 4:], k[..., 4:])
    assert not scan.slice(0)[..., :4].any()
    np.testing.assert_array_equal(scan.mask, np.broadcast_to(np.arange(16) >= 4, (12, 16)))
    assert scan.partial_fourier == (1.0, 12 / 16)


def test_reversed_readouts_are_turned(tmp_path: Path) -> None:
    k = complex_normal((3, 12, 16))
    scans = []
    for y in range(12):
        back = y % 2 == 1
        flags = (ismrmrd.ACQ_IS_REVERSE,) if back else ()
        scans.append(readout(k[:, y, ::-1] if back else k[:, y], kspace_encode_step_1=y, flags=flags))
    scan = opened(write_ismrmrd(tmp_path / "s.h5", ismrmrd_xml(FULL), scans))
    np.testing.assert_array_equal(scan.slice(0), k)


def test_other_readouts_are_left_out_with_a_note(tmp_path: Path) -> None:
    k = complex_normal((3, 12, 16))
    other = complex_normal((3, 16), 5)
    flags = {
        ismrmrd.ACQ_IS_NAVIGATION_DATA: "navigator",
        ismrmrd.ACQ_IS_PHASECORR_DATA: "phase correction",
        ismrmrd.ACQ_IS_DUMMYSCAN_DATA: "dummy",
        ismrmrd.ACQ_IS_HPFEEDBACK_DATA: "feedback",
        ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA: "surface coil",
    }
    scans = [readout(other, kspace_encode_step_1=6, flags=(flag,)) for flag in flags]
    scan = opened(write_ismrmrd(tmp_path / "s.h5", ismrmrd_xml(FULL), scans + lines(k)))
    np.testing.assert_array_equal(scan.slice(0), k)
    for name in flags.values():
        assert any(name in note for note in scan.notes)


@pytest.mark.parametrize("mode", ["embedded", "separate", None])
def test_calibration_lines(tmp_path: Path, mode: str | None) -> None:
    k = complex_normal((3, 12, 16))
    kind = dict.fromkeys(range(0, 12, 2), ())
    kind |= {6: (ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING,)}
    kind |= dict.fromkeys((5, 7), (ismrmrd.ACQ_IS_PARALLEL_CALIBRATION,))
    scans = [readout(k[:, y], kspace_encode_step_1=y, flags=kind[y]) for y in kind]
    header = ismrmrd_xml(encoding((16, 12, 1), (8, 12, 1), lines=(0, 11, 6), calibration=mode))
    scan = opened(write_ismrmrd(tmp_path / "s.h5", header, scans))
    expected = {0, 2, 4, 6, 8, 10} | (set() if mode == "separate" else {5, 7})
    assert set(np.flatnonzero(scan.mask)) == expected
    assert any("2 " in note and "calibration" in note for note in scan.notes)


def test_first_of_several_encodings(tmp_path: Path) -> None:
    k = complex_normal((3, 12, 16))
    other = [readout(complex_normal((3, 32), 2), kspace_encode_step_1=40, encoding_space_ref=1)]
    header = ismrmrd_xml(FULL, encoding((32, 64, 1), (32, 64, 1)))
    scan = opened(write_ismrmrd(tmp_path / "s.h5", header, other + lines(k)))
    np.testing.assert_array_equal(scan.slice(0), k)
    assert any("left out: 1" in note for note in scan.notes)
    assert scan.labels[0]["encoding"] == 0


def test_3d_encoding(tmp_path: Path) -> None:
    k = complex_normal((2, 6, 5, 8))  # (coil, z, y, x)
    scans = [
        readout(k[:, z, y], kspace_encode_step_1=y, kspace_encode_step_2=z)
        for z in range(6)
        for y in range(5)
        if (y + z) % 2 == 0 or z == 3
    ]
    header = ismrmrd_xml(
        encoding(
            (8, 5, 6),
            (4, 5, 4),
            encoded_fov=(80, 50, 60),
            recon_fov=(40, 50, 40),
            lines=(0, 4, 2),
            partitions=(0, 5, 3),
        )
    )
    scan = opened(write_ismrmrd(tmp_path / "s.h5", header, scans))
    assert scan.kspace.shape == (1, 2, 6, 5, 8)
    assert scan.mask.shape == (6, 5, 1)
    assert scan.matrix == (4, 5, 4)
    assert scan.spacing == (10, 10, 10)
    z, y = np.mgrid[:6, :5]
    np.testing.assert_array_equal(scan.mask[..., 0], ((y + z) % 2 == 0) | (z == 3))
    np.testing.assert_array_equal(scan.slice(0), k * scan.mask)
    lps = np.diag([-1, -1, 1, 1]) @ scan.affine
    np.testing.assert_allclose(lps @ [2, 2, 2, 1], [0, 0, 0, 1], atol=1e-9)


def test_slices_survive_a_process_boundary(tmp_path: Path) -> None:
    scan = opened(make_ismrmrd(tmp_path))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(scan.kspace))[1], scan.slice(1))
