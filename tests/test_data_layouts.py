"""Calgary-Campinas, M4Raw, SKM-TEA and ISMRMRD as training data."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from samples import blob, calgary_kspace, encoding, fastmri_header, ismrmrd_xml, readout, write_fastmri, write_ismrmrd

from recon.physics.errors import DataError, FileFormatError
from recon.physics.fft import fft_centred, ifft_centred
from recon.training.data.calgary import CalgaryData
from recon.training.data.ismrmrd import IsmrmrdData
from recon.training.data.m4raw import M4RawData, repetitions
from recon.training.data.skmtea import SkmTeaData, open_skmtea
from recon.training.data.slices import Sampling

FULL = Sampling(masks=("full",), accelerations=(1.0,))


def noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def kspace_of(images: np.ndarray) -> np.ndarray:
    return fft_centred(torch.from_numpy(images.astype(np.complex64)), (-2, -1)).numpy()


class TestCalgary:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        image = np.stack([blob((40, 36), 12)] * 6)
        for name, corner in (("Train/a", False), ("Train/b", True), ("Val/c", False)):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            with h5py.File(tmp_path / f"{name}.h5", "w") as file:
                file["kspace"] = calgary_kspace(image + 0.001 * noise(image.shape, 0), corner=corner)
        return tmp_path

    def data(self, folder: Path, train: str = "Train", **options) -> CalgaryData:
        options = {"outer": 1, "workers": 0, "index": folder / "i.json"} | options
        return CalgaryData(folder, train, "Val", **options)

    def test_last_of_kz_was_not_acquired(self, folder: Path) -> None:
        slices = self.data(folder, sampling=FULL).training_set()
        assert len(slices) == 2 * 4
        for example in (slices[0], slices[5]):
            acquired = example.mask[0]
            assert acquired[: math.ceil(0.85 * 36)].all()
            assert not acquired[math.ceil(0.85 * 36) :].any()
        magnitude = np.abs(blob((40, 36), 12))[0] * math.sqrt(12)
        found = slices[0].target.abs().numpy() * slices[0].scale / math.sqrt(40 * 36)  # numpy's FFT has no norm
        assert np.linalg.norm(found - magnitude) < 0.04 * np.linalg.norm(magnitude)

    def test_outer_50_slices_are_left_out(self, folder: Path) -> None:
        with pytest.raises(DataError, match="no slice is left; found 50 left out"):
            self.data(folder, outer=None).training_set()

    def test_its_masks_are_poisson_discs(self, folder: Path) -> None:
        mask = self.data(folder).training_set()[0].mask
        assert not (mask == mask[:1]).all()
        assert 3 < mask.numel() / mask.sum() < 20

    def test_undersampled_volumes_are_recognised_by_their_zeros(self, folder: Path) -> None:
        (folder / "Test-R=5").mkdir()
        with h5py.File(folder / "Train/a.h5") as file, h5py.File(folder / "Test-R=5/t.h5", "w") as out:
            sampled = np.random.default_rng(0).random((40, 36)) < 0.4
            sampled[16:24, 14:22] = True
            out["kspace"] = file["kspace"][()] * sampled[None, :, :, None]
        example = self.data(folder, "Test-R=5").training_set()[0]
        assert example.target is None
        sampled[:, math.ceil(0.85 * 36) :] = False
        assert (example.mask.numpy() == sampled).all()


class TestM4Raw:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        images = np.stack([blob((32, 32), 4)] * 2)
        for split, subject in (("train", 1), ("val", 2)):
            (tmp_path / split).mkdir()
            for contrast, count in (("T1", 3), ("FLAIR", 2)):
                for number in range(1, count + 1):
                    k = kspace_of(images * (2 if contrast == "FLAIR" else 1)) + 0.02 * noise((2, 4, 32, 32), number)
                    write_fastmri(tmp_path / split / f"20220610{subject:02}_{contrast}{number:02}.h5", k)
        return tmp_path

    def test_repetitions_are_those_of_one_subject_and_contrast(self, folder: Path) -> None:
        files = sorted((folder / "train").iterdir())
        found = [path.name for path in repetitions(folder / "train/2022061001_T102.h5", files)]
        assert found == [f"2022061001_T1{i:02}.h5" for i in (1, 2, 3)]
        other = folder / "train/other.h5"
        assert repetitions(other, files) == [other]

    def test_target_is_the_mean_of_the_repetitions(self, folder: Path) -> None:
        data = M4RawData(folder, "train", "val", workers=0, index=folder / "i.json", sampling=FULL, target="rss")
        slices = data.training_set()
        assert len(slices) == 5 * 2
        names = [path.stem for path, _ in data.files["train"]]
        index = 2 * names.index("2022061001_T101")
        example = slices[index]
        files = [h5py.File(folder / f"train/2022061001_T1{i:02}.h5")["kspace"][0] for i in (1, 2, 3)]
        np.testing.assert_allclose(example.y.numpy() * example.scale, files[0], atol=1e-5)
        mean = torch.from_numpy(np.mean(files, axis=0))
        rss = torch.linalg.vector_norm(ifft_centred(mean, (-2, -1)), dim=0)
        torch.testing.assert_close(example.target.abs() * example.scale, rss, atol=1e-5, rtol=1e-4)


class TestSkmTea:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        y, x = np.mgrid[-16:16, -12:12]
        ellipse = (y / 15) ** 2 + (x / 11) ** 2 < 1
        for seed, name in enumerate(("MTR_001", "MTR_005")):
            k = kspace_of(np.stack([[blob((32, 24), 8) * (1 + echo) for echo in range(2)]] * 3))
            k = (k + 0.01 * noise(k.shape, seed)) * ellipse
            with h5py.File(tmp_path / f"{name}.h5", "w") as file:
                file["kspace"] = np.moveaxis(k, (1, 2), (3, 4))  # (x, ky, kz, echo, coil)
        return tmp_path

    def test_each_echo_is_a_slice(self, folder: Path) -> None:
        scan = open_skmtea(folder / "MTR_001.h5")
        assert scan.kspace.shape == (6, 8, 32, 24)
        with h5py.File(folder / "MTR_001.h5") as file:
            np.testing.assert_array_equal(scan.slice(3), np.moveaxis(file["kspace"][1, :, :, 1], -1, 0))
        assert scan.labels[3] == {"slice": 1, "contrast": 1}

    def test_samples_lie_within_the_ellipse(self, folder: Path) -> None:
        data = SkmTeaData(folder, ("MTR_001.h5",), ("MTR_005.h5",), workers=0, index=folder / "i.json")
        assert data.files["train"][0][1].full
        example = data.training_set()[2]
        assert example.target is not None
        assert not example.mask[0, 0]
        assert 3 < example.mask.numel() / example.mask.sum() < 20

    def test_other_files(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["kspace"] = np.ones((2, 8, 8, 3), np.complex64)
        with pytest.raises(FileFormatError, match=r"not SKM-TEA's k-space; found \(2, 8, 8, 3\)"):
            open_skmtea(tmp_path / "a.h5")


class TestIsmrmrd:
    def write(self, path: Path, lines: list[int], *, noisy: bool = False) -> Path:
        """Readout 64 (32 wanted) along x, 24 lines."""
        import ismrmrd

        images = np.zeros((3, 24, 64), np.complex64)
        images[:, :, 16:48] = blob((24, 32), 3)
        k = kspace_of(images)
        readouts = [readout(0.3 * noise((3, 64), 5), flags=(ismrmrd.ACQ_IS_NOISE_MEASUREMENT,))] if noisy else []
        readouts += [readout(k[:, y], kspace_encode_step_1=y, center_sample=32) for y in lines]
        header = ismrmrd_xml(
            encoding((64, 24, 1), (32, 24, 1), encoded_fov=(400, 200, 5), recon_fov=(200, 200, 5), lines=(0, 23, 12))
        )
        return write_ismrmrd(path, header, readouts)

    def test_full_and_undersampled_scans(self, tmp_path: Path) -> None:
        self.write(tmp_path / "full.h5", list(range(24)), noisy=True)
        self.write(tmp_path / "half.mrd", [*range(0, 24, 2), 11, 13])
        data = IsmrmrdData(
            tmp_path,
            ("full.h5",),
            ("half.mrd",),
            workers=0,
            index=tmp_path / "i.json",
            sampling=Sampling(masks=("equispaced",), accelerations=(3.0,), center=4),
        )
        example = data.training_set()[0]
        assert example.y.shape == (3, 24, 32), "without oversampling"
        assert (example.mask == example.mask[:, :1]).all(), "lines run along x, where the readout is"
        assert 8 <= example.mask[:, 0].sum() <= 12
        assert example.sigma * example.scale == pytest.approx(0.3, rel=0.2), "from the noise scan"
        truth = np.abs(blob((24, 32), 3))[0] * math.sqrt(3)
        inside = truth > 0.3
        found = example.target.abs().numpy() * example.scale
        # Whitening weights coils by their noise, which is about the same.
        assert np.linalg.norm((found - truth)[inside]) < 0.15 * np.linalg.norm(truth[inside])

        other = data.validation_set()[0]
        assert other.target is None
        assert other.mask[:, 0].sum() == 14

    def test_three_dimensions_are_named_and_left_out(self, tmp_path: Path) -> None:
        self.write(tmp_path / "a.h5", list(range(24)))
        header = ismrmrd_xml(encoding((8, 6, 4), (8, 6, 4), lines=(0, 5, 3)))
        lines = [
            readout(noise((2, 8), 0), kspace_encode_step_1=y, kspace_encode_step_2=z)
            for z in range(4)
            for y in range(6)
        ]
        write_ismrmrd(tmp_path / "b.h5", header, lines)
        self.write(tmp_path / "c.h5", list(range(24)))
        data = IsmrmrdData(tmp_path, ("a.h5", "b.h5"), ("c.h5",), workers=0, index=tmp_path / "i.json")
        with pytest.warns(UserWarning, match=r"1 of 2 files left out: \S*b\.h5: not a Cartesian scan of slices"):
            assert len(data.training_set()) == 1


def test_fastmri_header_is_used_for_knees(tmp_path: Path) -> None:
    """fastMRI's own header: 32 samples of which 16 are wanted, 18 of 20 lines acquired."""
    from recon.training.data.fastmri import FastMRIData

    for name in ("a", "b"):
        k = kspace_of(np.stack([np.pad(blob((16, 20), 4), ((0, 0), (8, 8), (0, 0)))] * 2))
        k[..., :1] = k[..., 19:] = 0
        write_fastmri(tmp_path / f"{name}.h5", k, header=fastmri_header())
    data = FastMRIData(tmp_path, ("a.h5",), ("b.h5",), workers=0, index=tmp_path / "i.json", sampling=FULL)
    example = data.training_set()[0]
    assert example.y.shape == (4, 16, 20)
    assert example.mask[0].tolist() == [False] + [True] * 18 + [False]
    assert data.card().covers.matrix == (16, 20)
