"""Siemens twix files written by twixtools."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import twixtools
from samples import TWIX_PROTOCOL, complex_normal, make_twix, twix_header, twix_readout, write_twix

import recon
from recon.datasets import Scan
from recon.datasets.readers.twix import TwixReader
from recon.physics.errors import DataError, FileFormatError, MissingDependencyError

FIRST_READOUT = 10240 + len(twix_header(TWIX_PROTOCOL))


def opened(path: Path) -> Scan:
    scan = recon.datasets.open(path)
    assert isinstance(scan, Scan)
    assert scan.source.format == "twix"
    return scan


def lines(k: np.ndarray, **fields) -> list:
    """Readouts of one fully sampled slice (coil, y, x) with the centre in the middle."""
    return [twix_readout(k[:, y], **{"Lin": y, "CenterLin": k.shape[1] // 2} | fields) for y in range(k.shape[1])]


def written(tmp_path: Path, blocks: list, **protocol: str) -> Scan:
    names = {name.replace("__", "."): value for name, value in protocol.items()}
    return opened(write_twix(tmp_path / "meas.dat", (TWIX_PROTOCOL | names, blocks)))


def test_slices_noise_and_geometry(tmp_path: Path) -> None:
    path = make_twix(tmp_path)
    scan = opened(path)
    k = complex_normal((2, 3, 12, 16))
    np.testing.assert_array_equal(np.stack([scan.slice(0), scan.slice(1)]), k)
    np.testing.assert_array_equal(scan.noise, complex_normal((3, 32), 9))
    assert scan.mask.all()
    assert scan.matrix == (12, 8)
    assert scan.oversampling == 2
    assert scan.readout_axis == -1
    assert scan.partial_fourier is None
    assert scan.spacing == pytest.approx((5, 20, 25))
    assert scan.header["tProtocolName"] == "brain"
    assert any("measurement 2 of 2" in note for note in scan.notes)
    lps = np.diag([-1, -1, 1, 1]) @ scan.affine
    np.testing.assert_allclose(lps @ [4, 6, 1, 1], [0, 0, 5, 1], atol=1e-9)
    np.testing.assert_allclose(np.abs(lps[:3, :3]), [[0, 20, 0], [25, 0, 0], [0, 0, 5]], atol=1e-9)


def test_agrees_with_twixtools(tmp_path: Path) -> None:
    path = make_twix(tmp_path)
    with redirect_stdout(StringIO()):
        twix = twixtools.read_twix(str(path), parse_pmu=False, parse_geometry=False, verbose=False)
    scan = opened(path)
    for block in twix[1]["mdb"]:
        np.testing.assert_array_equal(scan.slice(block.cSlc)[:, block.cLin], block.data)


def test_orientation_agrees_with_twixtools(tmp_path: Path) -> None:
    quaternion = np.array([0.8, 0.2, -0.4, 0.4])
    quaternion = tuple(quaternion / np.linalg.norm(quaternion))
    scan = written(tmp_path, lines(complex_normal((3, 12, 16)), Quaternion=quaternion, SlicePos=(3.0, 4.0, 5.0)))
    rotation = twixtools.geometry.quat_to_rotmat(*quaternion)
    lps = np.diag([-1, -1, 1, 1]) @ scan.affine
    np.testing.assert_allclose(lps[:3, 0] / 25, -rotation[:, 1], atol=1e-5)  # read
    np.testing.assert_allclose(lps[:3, 1] / 20, -rotation[:, 0], atol=1e-5)  # phase
    np.testing.assert_allclose(lps[:3, 2] / 5, rotation[:, 2], atol=1e-5)  # slice
    np.testing.assert_allclose(lps @ [4, 6, 0, 1], [3, 4, 5, 1], atol=1e-5)


def test_partial_fourier_and_asymmetric_echo(tmp_path: Path) -> None:
    k = complex_normal((3, 12, 16))
    blocks = [twix_readout(k[:, y, 4:], Lin=y - 3, CenterLin=3, CenterCol=4) for y in range(3, 12)]
    scan = written(tmp_path, blocks)
    assert scan.kspace.shape == (1, 3, 12, 16)
    np.testing.assert_array_equal(scan.slice(0)[:, 3:, 4:], k[:, 3:, 4:])
    expected = np.zeros((12, 16), bool)
    expected[3:, 4:] = True
    np.testing.assert_array_equal(scan.mask, expected)
    assert scan.partial_fourier == (9 / 12, 12 / 16)


def test_samples_cut_off(tmp_path: Path) -> None:
    k = complex_normal((3, 12, 16))
    filled = k.copy()
    filled[..., :3] = 0
    scan = written(tmp_path, lines(filled, Pre=3))
    np.testing.assert_array_equal(scan.slice(0), filled)
    np.testing.assert_array_equal(scan.mask[0], np.arange(16) >= 3)


def test_undersampling_gives_a_mask(tmp_path: Path) -> None:
    k = complex_normal((3, 12, 16))
    kept = [0, 2, 4, 6, 8, 10]
    scan = written(tmp_path, [lines(k)[y] for y in kept])
    assert scan.kspace.shape == (1, 3, 12, 16)
    np.testing.assert_array_equal(np.flatnonzero(scan.mask), kept)
    assert scan.partial_fourier is None


@pytest.mark.parametrize(("mode", "kept"), [("2", True), ("4", False)])
def test_calibration_lines(tmp_path: Path, mode: str, kept: bool) -> None:
    k = complex_normal((3, 12, 16))
    blocks = []
    for y in (0, 2, 4, 5, 6, 7, 8, 10):
        flags = ("PATREFSCAN",) if y in (5, 7) else ("PATREFSCAN", "PATREFANDIMASCAN") if y == 6 else ()
        blocks.append(twix_readout(k[:, y], Lin=y, CenterLin=6, flags=flags))
    scan = written(tmp_path, blocks, sPat__ucRefScanMode=mode)
    assert set(np.flatnonzero(scan.mask)) == {0, 2, 4, 6, 8, 10} | ({5, 7} if kept else set())
    assert any("2 calibration readouts" in note for note in scan.notes)


def test_reflected_lines_and_lines_of_other_purpose(tmp_path: Path) -> None:
    k = complex_normal((3, 12, 16))
    blocks = [twix_readout(complex_normal((3, 16), 4), Lin=6, CenterLin=6, flags=("PHASCOR",))]
    for y in range(12):
        back = y % 2 == 1
        data = k[:, y, ::-1] if back else k[:, y]
        blocks.append(twix_readout(data, Lin=y, CenterLin=6, flags=("REFLECT",) if back else ()))
    scan = written(tmp_path, blocks)
    np.testing.assert_array_equal(scan.slice(0), k)
    assert any("PHASCOR" in note for note in scan.notes)


def test_averages_repetitions_and_interleaved_slices(tmp_path: Path) -> None:
    k = complex_normal((2, 3, 2, 3, 12, 16))  # (repetition, slice in space, average, ...)
    blocks = [
        line
        for repetition in range(2)
        for count, place in enumerate((0, 2, 1))
        for average in range(2)
        for line in lines(
            k[repetition, place, average], Rep=repetition, Sli=count, Ave=average, SlicePos=(0.0, 0.0, 6.0 * place)
        )
    ]
    scan = written(tmp_path, blocks)
    assert scan.n_slices == 6
    for i in range(6):
        np.testing.assert_allclose(scan.slice(i), k[i // 3, i % 3].mean(0), atol=1e-6)
    assert [(label["repetition"], label["slice"]) for label in scan.labels] == [
        (r, s) for r in (0, 1) for s in (0, 2, 1)
    ]
    assert scan.spacing[0] == pytest.approx(6)


def test_3d_encoding(tmp_path: Path) -> None:
    k = complex_normal((3, 6, 12, 16))
    blocks = [twix_readout(k[:, z, y], Lin=y, CenterLin=6, Par=z, CenterPar=3) for z in range(6) for y in range(12)]
    protocol = {"sKSpace__ucDimension": "4", "sKSpace__lPartitions": "6", "sKSpace__dSliceOversamplingForDialog": "0.5"}
    scan = written(tmp_path, blocks, **protocol, **{"sSliceArray__asSlice[0]__dThickness": "80"})
    assert scan.kspace.shape == (1, 3, 6, 12, 16)
    np.testing.assert_array_equal(scan.slice(0), k)
    assert scan.matrix == (4, 12, 8)
    assert scan.spacing == pytest.approx((20, 20, 25))
    lps = np.diag([-1, -1, 1, 1]) @ scan.affine
    np.testing.assert_allclose(lps @ [4, 6, 2, 1], [0, 0, 0, 1], atol=1e-9)


def test_noise_of_another_dwell_time(tmp_path: Path) -> None:
    noise = complex_normal((3, 32), 9)
    other = TWIX_PROTOCOL | {"sRXSPEC.alDwellTime[0]": "8000"}
    path = write_twix(
        tmp_path / "meas.dat",
        (other, [twix_readout(noise, flags=("NOISEADJSCAN",))]),
        (TWIX_PROTOCOL, lines(complex_normal((3, 12, 16)))),
    )
    np.testing.assert_allclose(opened(path).noise, 2 * noise, rtol=1e-6)


def test_vb_file(tmp_path: Path) -> None:
    """VB: no table of measurements, and a header of 128 bytes before each coil's samples."""
    k = complex_normal((3, 12, 16))
    header = twix_header(TWIX_PROTOCOL | {"padding": "x" * 12000}).tobytes()
    data = bytearray(header)
    for y in range(12):
        for coil in range(3):
            mdh = twixtools.mdh_def.VB17_header()
            mdh.SamplesInScan, mdh.UsedChannels, mdh.ChannelId = 16, 3, coil
            mdh.Counter.Lin, mdh.CenterLin, mdh.CenterCol = y, 6, 8
            mdh.SliceData.Quaternion[:] = (1, 0, 0, 0)
            data += bytes(mdh) + k[coil, y].tobytes()
    end = twixtools.mdh_def.VB17_header()
    end.EvalInfoMask = 1
    path = tmp_path / "vb.dat"
    path.write_bytes(data + bytes(end) + bytes(256))
    scan = opened(path)
    np.testing.assert_array_equal(scan.slice(0), k)
    assert not any("end mark" in note for note in scan.notes)


def test_recognition_needs_no_twixtools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_twix(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "twixtools"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert TwixReader().sniff(path, path.read_bytes()[:4096])
    with pytest.raises(MissingDependencyError, match=r'pip install "recon-imaging\[mri\]"'):
        recon.datasets.open(path)


def test_truncated_file(tmp_path: Path) -> None:
    path = make_twix(tmp_path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(FileFormatError, match=r"meas\.dat.*cut short"):
        opened(path)


def test_stopped_scan_is_read_with_a_note(tmp_path: Path) -> None:
    path = write_twix(tmp_path / "meas.dat", (TWIX_PROTOCOL, lines(complex_normal((3, 12, 16)))))
    data = bytearray(path.read_bytes())
    end = FIRST_READOUT + 12 * (192 + 3 * (32 + 8 * 16))
    assert data[end + 40] == 1  # ACQEND
    data[end + 40] = 0
    path.write_bytes(data)
    scan = opened(path)
    assert any("end mark" in note for note in scan.notes)
    np.testing.assert_array_equal(scan.slice(0), complex_normal((3, 12, 16)))


def test_no_image_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image data"):
        written(tmp_path, [twix_readout(complex_normal((3, 32)), flags=("NOISEADJSCAN",))])


def test_spiral_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="not Cartesian"):
        written(tmp_path, lines(complex_normal((3, 12, 16))), sKSpace__ucTrajectory="4")


@pytest.mark.parametrize("value", ["60000", "-3", "1e400", "many", "0"])
def test_absurd_protocol_allocates_nothing(tmp_path: Path, value: str) -> None:
    names = ("sKSpace__lBaseResolution", "sKSpace__lPhaseEncodingLines", "sKSpace__lPartitions")
    try:
        scan = written(
            tmp_path, lines(complex_normal((3, 12, 16))), **dict.fromkeys(names, value), sKSpace__ucDimension="4"
        )
    except FileFormatError as error:
        assert "larger than the file can hold" in str(error)
    else:
        assert scan.kspace.shape == (1, 3, 12, 16)
        assert scan.spacing is None


def test_lengths_that_lead_nowhere(tmp_path: Path) -> None:
    """twixtools goes round for ever where a length is zero."""
    path = write_twix(tmp_path / "meas.dat", (TWIX_PROTOCOL, lines(complex_normal((3, 12, 16)))))
    data = bytearray(path.read_bytes())
    first = FIRST_READOUT
    data[first : first + 4] = bytes(4)
    data[first + 40] |= 1 << 5  # SYNCDATA
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match="impossible length"):
        opened(path)
