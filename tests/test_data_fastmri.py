from __future__ import annotations

import json
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from nibabel import Nifti1Image, save

from recon.cli import main
from recon.datasets.readers import open as open_any
from recon.physics.errors import DataError, FileFormatError, OptionError
from recon.training.data import fastmri, index
from recon.training.data.fastmri import FastMRIData
from recon.training.data.raw import RawData, RawSlices
from recon.training.data.slices import Sampling
from recon.training.examples import collate
from recon.training.run import train

Y, X = 48, 40


def centred(transform, k: np.ndarray) -> np.ndarray:
    return np.fft.fftshift(transform(np.fft.ifftshift(k, (-2, -1)), norm="ortho"), (-2, -1))


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slices, in a file that `recon simulate` takes."""
    y, x = np.mgrid[:Y, :X]
    disc = ((y - Y / 2) / 20) ** 2 + ((x - X / 2) / 16) ** 2 < 1
    images = np.stack([disc * (1 + 0.5 * ((y // 6 + x // (5 + s)) % 2)) for s in range(3)])
    path = tmp_path_factory.mktemp("phantom") / "image.nii"
    save(Nifti1Image(images.transpose(2, 1, 0).astype(np.float32), np.diag([1.0, 1, 4, 1])), path)
    return path


@pytest.fixture(scope="session")
def made(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set in fastMRI's layout: two training scans, two validation scans, one undersampled."""
    folder = tmp_path_factory.mktemp("fastmri")
    for seed, (name, kind) in enumerate(
        [("train/a", "AXT1"), ("train/b", "AXT2"), ("val/c", "AXT1"), ("val/d", "AXT2"), ("test/e", "AXT2")]
    ):
        out = folder / f"multicoil_{name}.h5"
        out.parent.mkdir(exist_ok=True)
        mask = ["--mask", "random", "--acceleration", "3"] if name == "test/e" else ["--mask", "full"]
        words = [str(phantom), "--out", str(out), "--format", "fastmri", "--acquisition", kind, "--seed", str(seed)]
        assert main(["simulate", "mri", *words, *mask, "--oversampling", "2", "--coils", "3"]) == 0
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "set", ignore=shutil.ignore_patterns("index.json")))


def data(folder: Path, train: str | tuple[str, ...] = "multicoil_train", **options) -> FastMRIData:
    options = {"validation": "multicoil_val", "index": folder / "index.json", "workers": 0} | options
    return FastMRIData(folder, train, **options)


class TestSimulated:
    def test_nothing_but_what_fastmri_has(self, made: Path) -> None:
        with h5py.File(made / "multicoil_train/a.h5") as file:
            assert set(file) == {"kspace", "ismrmrd_header", "reconstruction_rss"}
            assert set(file.attrs) == {"acquisition", "patient_id", "max", "norm"}
            assert file.attrs["acquisition"] == "AXT1"
            k, rss = file["kspace"][()], file["reconstruction_rss"][()]
            assert file.attrs["max"] == pytest.approx(rss.max())
            assert file.attrs["norm"] == pytest.approx(np.linalg.norm(rss))
        assert (k.shape, k.dtype, rss.dtype) == ((3, 3, 2 * Y, X), np.complex64, np.float32)
        images = centred(np.fft.ifft2, k)[..., Y // 2 : -(Y // 2), :]
        np.testing.assert_allclose(rss, np.linalg.norm(images, axis=1), rtol=1e-4, atol=1e-5)

    def test_undersampled_as_the_test_files(self, made: Path) -> None:
        with h5py.File(made / "multicoil_test/e.h5") as file:
            assert set(file) == {"kspace", "ismrmrd_header", "mask"}
            mask, k = file["mask"][()].astype(bool), file["kspace"][()]
            assert mask.shape == (X,)
            assert file.attrs["acceleration"] == round(X / mask.sum())
            assert file.attrs["num_low_frequency"] >= round(0.32 * X / 3)
        assert (np.abs(k).sum((0, 1, 2)) > 0).tolist() == mask.tolist()

    def test_is_read_as_fastmri(self, made: Path) -> None:
        scan = open_any(made / "multicoil_val/c.h5")
        assert scan.source.format == "fastmri"
        assert (scan.oversampling, scan.matrix, scan.readout_axis) == (2, (Y, X), -2)
        assert scan.spacing == pytest.approx((4, 1, 1))
        assert scan.header["acquisition"] == "AXT1"

    @pytest.mark.parametrize("mask", ["poisson", "gaussian"])
    def test_masks_of_points_do_not_fit(self, phantom: Path, tmp_path: Path, mask: str, capsys) -> None:
        words = ["simulate", "mri", str(phantom), "--out", str(tmp_path / "a.h5"), "--format", "fastmri"]
        assert main([*words, "--mask", mask]) == 2
        assert "masks are made of lines" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())


class TestExample:
    def test_is_the_file_undersampled_without_oversampling(self, made: Path) -> None:
        example = data(made).training_set()[1]
        with h5py.File(made / "multicoil_train/a.h5") as file:
            k = file["kspace"][1]
        images = centred(np.fft.ifft2, k)[:, Y // 2 : -(Y // 2)]
        cut = centred(np.fft.fft2, images)
        mask = example.mask.numpy()
        assert (mask == mask[:1]).all()
        assert 0.05 < mask.mean() < 0.6
        np.testing.assert_allclose(example.y.numpy() * example.scale, cut * mask, atol=2e-4 * np.abs(cut).max())
        combined = (images * example.coil_maps.numpy().conj()).sum(0)
        np.testing.assert_allclose(example.target.numpy() * example.scale, combined, atol=2e-4 * np.abs(combined).max())

    def test_target_is_the_files_own_reconstruction(self, made: Path) -> None:
        example = data(made, target="rss").training_set()[2]
        with h5py.File(made / "multicoil_train/a.h5") as file:
            rss = file["reconstruction_rss"][2]
        np.testing.assert_allclose(example.target.abs().numpy() * example.scale, rss, atol=1e-4 * rss.max())

    def test_crop_and_air_keep_the_middle(self, made: Path) -> None:
        full = Sampling(masks=("full",), accelerations=(1.0,))
        example = data(made, target="rss", matrix=(32, 44), sampling=full).training_set()[0]
        with h5py.File(made / "multicoil_train/a.h5") as file:
            rss = file["reconstruction_rss"][0][8:40]
        magnitude = example.target.abs().numpy() * example.scale
        assert magnitude.shape == (32, 44)
        np.testing.assert_allclose(magnitude[:, 2:42], rss, atol=1e-4 * rss.max())
        assert np.abs(magnitude[:, :2]).max() < 1e-4 * rss.max()

    def test_noise_is_known(self, made: Path) -> None:
        example = data(made).training_set()[0]
        images = centred(np.fft.ifft2, h5py.File(made / "multicoil_train/a.h5")["kspace"][0])
        air = images[:, :16].real.std()  # of the oversampled readout: nothing but noise
        assert 0.7 * air < example.sigma * example.scale < 2 * air, "so small a matrix has signal in its corners"

    def test_undersampled_scans_keep_their_mask_and_have_no_target(self, made: Path) -> None:
        example = data(made, "multicoil_test").training_set()[0]
        with h5py.File(made / "multicoil_test/e.h5") as file:
            assert example.mask[0].tolist() == file["mask"][()].astype(bool).tolist()
        assert example.target is None
        assert collate([example]).target is None
        assert data(made, "multicoil_test").card().covers is None

    def test_lines_that_the_scanner_left_out_stay_out(self, folder: Path) -> None:
        with h5py.File(folder / "multicoil_train/a.h5", "a") as file:
            file["kspace"][..., :3] = 0
            file["kspace"][..., 35:] = 0
        files = data(folder)
        assert files.files["train"][0][1].full
        for epoch in range(4):
            slices = files.training_set()
            slices.set_epoch(epoch)
            mask = slices[0].mask
            assert not mask[:, :3].any()
            assert not mask[:, 35:].any()
            assert mask.any()


class TestOrder:
    def test_example_depends_on_seed_epoch_and_index_only(self, made: Path) -> None:
        def masks(epoch: int, order: list[int], **options) -> dict[int, torch.Tensor]:
            slices = data(made, **options).training_set()
            slices.set_epoch(epoch)
            return {i: slices[i].y for i in order}

        a, b = masks(3, [0, 1, 2, 3, 4, 5]), masks(3, [5, 2, 0])
        assert all(torch.equal(a[i], b[i]) for i in b)
        assert any(not torch.equal(a[i], v) for i, v in masks(4, [0, 1, 2]).items())
        assert any(not torch.equal(a[i], v) for i, v in masks(3, [0, 1, 2], seed=1).items())

    def test_validation_has_one_mask_a_file_for_ever(self, made: Path) -> None:
        slices = data(made).validation_set()
        first = [slices[i].mask for i in range(6)]
        slices.set_epoch(9)
        assert all(torch.equal(slices[i].mask, first[i]) for i in (5, 0))
        assert torch.equal(first[0], first[2])

    def test_workers_give_the_same(self, made: Path) -> None:
        batches = [
            [batch.y for batch in data(made, workers=workers, batch_size=2).train_dataloader()] for workers in (0, 1)
        ]
        assert len(batches[0]) == 3
        assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


class TestIndex:
    @pytest.fixture
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        names: list[str] = []

        def count(path: Path):
            names.append(path.name)
            return fastmri.open_fastmri(path)

        monkeypatch.setattr(FastMRIData, "layout", replace(FastMRIData.layout, open=count))
        return names

    def test_headers_are_read_once(self, folder: Path, opened: list[str]) -> None:
        first = data(folder).files
        assert sorted(opened) == ["a.h5", "b.h5", "c.h5", "d.h5"]
        opened.clear()
        assert data(folder).files == first
        assert opened == []

    def test_changed_and_new_files_are_read_anew(self, folder: Path, opened: list[str]) -> None:
        data(folder).files  # noqa: B018
        opened.clear()
        with h5py.File(folder / "multicoil_train/b.h5", "a") as file:
            file.attrs["acquisition"] = "AXFLAIR"
        shutil.copy(folder / "multicoil_train/a.h5", folder / "multicoil_train/f.h5")
        entries = dict(data(folder).files["train"])
        assert sorted(opened) == ["b.h5", "f.h5"]
        assert [entry.acquisition for entry in entries.values()] == ["AXT1", "AXFLAIR", "AXT1"]

    @pytest.mark.parametrize("content", ["", "{", '{"version": 1}', '{"version": 0, "files": {}}', "[]"])
    def test_damaged_index_is_made_anew(self, folder: Path, content: str) -> None:
        (folder / "index.json").write_text(content)
        assert len(data(folder).files["train"]) == 2
        assert len(json.loads((folder / "index.json").read_text())["files"]) == 4

    def test_where_it_cannot_be_written_a_warning_is_all(self, folder: Path) -> None:
        (folder / "index.json").mkdir()
        with pytest.warns(UserWarning, match="index of raw data is not kept"):
            assert len(data(folder).files["train"]) == 2

    def test_default_place_is_the_users_cache(self, folder: Path, monkeypatch, tmp_path: Path) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        data(folder, index=None).files  # noqa: B018
        assert len(list((tmp_path / "cache/recon").glob("fastMRI-*.json"))) == 1

    def test_holes_tell_undersampling_from_an_ellipse(self) -> None:
        y, x = np.mgrid[-8:8, -8:8]
        ellipse = y**2 + x**2 < 50
        assert index.without_holes(ellipse)
        assert index.without_holes(np.ones((16, 16), bool))
        assert not index.without_holes(ellipse & ((x % 2 == 0) | (abs(x) < 3)))
        assert not index.without_holes(ellipse & (y != 5))


class TestBadInput:
    def test_one_corrupt_file_among_many(self, folder: Path) -> None:
        path = folder / "multicoil_train/b.h5"
        path.write_bytes(path.read_bytes()[:5000])
        for _ in range(2):  # read, and from the index
            with pytest.warns(UserWarning, match=r"1 of 2 files left out: \S*b\.h5: .*damaged"):
                assert len(data(folder).training_set()) == 3

    def test_slice_that_cannot_be_read_is_replaced(self, folder: Path) -> None:
        with h5py.File(folder / "multicoil_train/b.h5", "a") as file:
            file["kspace"][0, 0, 0, 0] = np.nan
        slices = data(folder).training_set()
        with pytest.warns(UserWarning, match=r"left out: \S*b\.h5: slice 0 .*not finite.*1 such files"):
            replaced = slices[3]
        assert "slice" in replaced.name
        assert "b.h5, slice 0" not in replaced.name
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # told once
            assert torch.equal(slices[3].y, replaced.y)

    def test_nothing_but_such_slices(self, folder: Path) -> None:
        for name in "ab":
            with h5py.File(folder / f"multicoil_train/{name}.h5", "a") as file:
                file["kspace"][...] = np.nan
        with pytest.raises(DataError, match="no raw data can be used"):
            data(folder).training_set()

    def test_all_corrupt(self, folder: Path) -> None:
        for path in (folder / "multicoil_train").iterdir():
            path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
        with pytest.raises(DataError, match=r"no raw data can be used; found .*a\.h5.*b\.h5"):
            data(folder).training_set()

    def test_empty_folder(self, folder: Path) -> None:
        (folder / "none").mkdir()
        with pytest.raises(DataError, match=r"none: no raw data; expected files that end in \.h5") as caught:
            data(folder, "none").training_set()
        assert "\n" not in str(caught.value)

    def test_absent_folder_list_and_file(self, folder: Path) -> None:
        with pytest.raises(FileFormatError, match="no such folder"):
            data(folder, "nowhere").training_set()
        with pytest.raises(FileFormatError, match="list of files cannot be read"):
            data(folder, "nowhere.txt").training_set()
        with pytest.raises(FileFormatError, match=r"listed files are absent; found \S*z\.h5"):
            data(folder, ("multicoil_train/a.h5", "z.h5")).training_set()

    def test_lists_of_files(self, folder: Path) -> None:
        (folder / "list.txt").write_text("# brains\nmulticoil_train/b.h5\n\n")
        (folder / "list.json").write_text('{"images": [{"file_name": "multicoil_train/b.h5"}]}')
        for split in ("list.txt", "list.json", ("multicoil_train/b.h5",)):
            assert [path.name for path, _ in data(folder, split).files["train"]] == ["b.h5"]

    def test_trained_and_validated_on(self, folder: Path) -> None:
        with pytest.raises(OptionError, match=r"1 files are both trained and validated on; found c\.h5"):
            data(folder, ("multicoil_train/a.h5", "multicoil_val/c.h5")).training_set()

    def test_acquisitions(self, folder: Path) -> None:
        files = data(folder, acquisitions=("AXT2",))
        assert [path.name for split in files.files.values() for path, _ in split] == ["b.h5", "d.h5"]
        assert "fastMRI (AXT2): 1 scans" in files.card().trained_on[0]
        with pytest.raises(DataError, match="no scan of these acquisitions; found AXT1, AXT2; expected AXFLAIR"):
            data(folder, acquisitions=("AXFLAIR",)).training_set()

    def test_single_coil(self, folder: Path) -> None:
        with h5py.File(folder / "multicoil_train/s.h5", "w") as file:
            file["kspace"] = np.ones((2, 16, 16), np.complex64)
        with pytest.warns(UserWarning, match=r"s\.h5: a single-coil file"):
            assert len(data(folder).files["train"]) == 2

    def test_options(self, made: Path) -> None:
        with pytest.raises(OptionError, match="no such masks"):
            Sampling(masks=("lines",))
        with pytest.raises(OptionError, match="accelerations are 1 or more"):
            Sampling(accelerations=(0.5,))
        with pytest.raises(OptionError, match="so few pixels"):
            data(made, matrix=(4, 4))
        with pytest.raises(OptionError, match="fewer than none"):
            data(made, outer=-1)
        with pytest.raises(DataError, match="no slice is left"):
            data(made, outer=2).training_set()


def test_card_says_what_it_covers(made: Path) -> None:
    card = data(made, organs=("brain",)).card()
    assert card.covers is not None
    assert (card.covers.coils, card.covers.acceleration, card.covers.matrix) == ((3, 3), (4, 8), (X, Y))
    assert re.fullmatch(r"fastMRI: 2 scans, sha256 of their sorted names [0-9a-f]{12}", card.trained_on[0])
    assert card.licence


def test_outer_slices_are_left_out(made: Path) -> None:
    slices = data(made, outer=1).training_set()
    assert isinstance(slices, RawSlices)
    assert [slices.place(i) for i in range(len(slices))] == [(0, 1), (1, 1)]
    assert issubclass(FastMRIData, RawData)


def test_trains_from_a_configuration(made: Path, tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(
        f"""
        trainer: {{max_steps: 2, accelerator: cpu}}
        model:
          network: recurrentvarnet
          arguments: {{steps: 1, hidden: 8, layers: 1}}
        ema: 0
        runs: {tmp_path / "runs"}
        data:
          class_path: recon.training.data.fastmri.FastMRIData
          init_args:
            folder: {made}
            train: multicoil_train
            validation: [multicoil_val/c.h5]
            sampling: {{masks: [random], accelerations: [2, 3]}}
            target: rss
            matrix: [32, 32]
            index: {tmp_path / "index.json"}
            batch_size: 2
            workers: 0
        """
    )
    run = train(config, [])
    assert (run / "best.safetensors").exists()
    assert "fastMRI: 1 scans" in json.loads((run / "best.json").read_text())["validated_on"][0]
