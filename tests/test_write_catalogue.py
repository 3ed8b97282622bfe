"""Catalogues: FITS and ECSV, some rows at a time, whole or absent."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table

from recon.datasets.catalogue import CatalogueWriter
from recon.physics.errors import DTypeError, OptionError, OutputError, ShapeError

ENDINGS = ("fits", "ecsv")
every_ending = pytest.mark.parametrize("ending", ENDINGS)


def rows(start, stop):
    i = np.arange(start, stop)
    return {
        "id": i + 10_000_000_000,
        "flux": (i * 1.5).astype(np.float32),
        "e1": i / 7,
        "flags": (i % 3).astype(np.int32),
        "converged": i % 2 == 0,
        "response": np.stack([i, -i, 2 * i, 3 * i], 1).astype(float),
        "name": np.array([f"g{k}" for k in i]),
    }


def write(path, parts, **options):
    with CatalogueWriter(path, **options) as catalogue:
        for start, stop in parts:
            catalogue.append(rows(start, stop))
    return path


@every_ending
def test_what_was_written_in_parts_is_read_as_one(ending, tmp_path):
    path = write(tmp_path / f"cat.{ending}", [(0, 5), (5, 5), (5, 6), (6, 20)])
    table = Table.read(path)
    expected = rows(0, 20)
    assert table.colnames == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(np.asarray(table[name]).astype(values.dtype), values)


@every_ending
def test_units_descriptions_and_how_it_was_made(ending, tmp_path):
    meta = {"model": "galaxy-admm", "options": "it's " * 50, "seed": 3}
    path = write(tmp_path / f"cat.{ending}", [(0, 2)], units={"flux": "adu"}, about={"e1": "distortion"}, meta=meta)
    table = Table.read(path)
    assert str(table["flux"].unit) == "adu"
    if ending == "ecsv":
        assert table["e1"].description == "distortion"
        assert json.loads(table.meta["provenance"]) == meta
    else:
        with fits.open(path) as file:
            assert [hdu.name for hdu in file[1:]] == ["CATALOG"]
            assert json.loads(file["CATALOG"].header["PROVENAN"]) == meta
            file.verify("exception")


@every_ending
def test_values_that_are_not_finite_stay_in_their_row(ending, tmp_path):
    with CatalogueWriter(tmp_path / f"cat.{ending}") as catalogue:
        catalogue.append({"id": [1, 2, 3], "e1": torch.tensor([0.5, float("nan"), float("inf")], requires_grad=True)})
    table = Table.read(tmp_path / f"cat.{ending}")
    assert table["id"].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(np.ma.filled(np.ma.asarray(table["e1"]), np.nan), [0.5, np.nan, np.inf])


def write_one_column_less(path):
    with CatalogueWriter(path) as catalogue:
        catalogue.append(rows(0, 5))
        catalogue.append({"id": [1]})


@every_ending
def test_an_error_leaves_no_file(ending, tmp_path):
    with pytest.raises(ShapeError):
        write_one_column_less(tmp_path / f"cat.{ending}")
    assert list(tmp_path.iterdir()) == []


@every_ending
def test_existing_file_stays(ending, tmp_path):
    path = write(tmp_path / f"cat.{ending}", [(0, 3)])
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        write(path, [(0, 4)])
    assert path.read_bytes() == before
    write(path, [(0, 4)], overwrite=True)
    assert len(Table.read(path)) == 4


def test_columns_must_stay_the_same(tmp_path):
    with CatalogueWriter(tmp_path / "cat.fits") as catalogue:
        catalogue.append({"id": [1], "e1": [0.5], "name": ["a"]})
        with pytest.raises(ShapeError, match="other columns than before"):
            catalogue.append({"id": [1], "e2": [0.5], "name": ["a"]})
        with pytest.raises(ShapeError, match="unequal length"):
            catalogue.append({"id": [1, 2], "e1": [0.5], "name": ["a"]})
        with pytest.raises(ShapeError, match="another shape"):
            catalogue.append({"id": [1], "e1": [[0.5, 1.0]], "name": ["a"]})
        with pytest.raises(DTypeError, match="longer than column 'name'"):
            catalogue.append({"id": [1], "e1": [0.5], "name": ["a" * 40]})
        with pytest.raises(DTypeError, match="whole numbers"):
            catalogue.append({"id": [1.5], "e1": [0.5], "name": ["a"]})
        with pytest.raises(DTypeError, match="another kind"):
            catalogue.append({"id": [1], "e1": ["x"], "name": ["a"]})
        catalogue.append({"id": [2], "e1": [1], "name": ["b"]})
    assert Table.read(tmp_path / "cat.fits")["id"].tolist() == [1, 2]


def test_what_cannot_be_a_catalogue(tmp_path):
    with pytest.raises(OptionError, match=r"found \.txt; expected one of \.fits"):
        CatalogueWriter(tmp_path / "cat.txt")
    with pytest.raises(OutputError, match="without columns"), CatalogueWriter(tmp_path / "cat.fits"):
        pass
    with pytest.raises(DTypeError, match="'e1' is not made"), CatalogueWriter(tmp_path / "cat.fits") as catalogue:
        catalogue.append({"e1": [1j]})
    assert list(tmp_path.iterdir()) == []


MILLION = """
import resource, sys
import numpy as np
from recon.datasets.catalogue import CatalogueWriter
names = "id flux x y size e1 e2 g1 g2 r11 r22 chi2".split()
def part(start):
    return {name: np.arange(start, start + 10000) for name in names[:1]} | {
        name: np.full(10000, start + 0.5) for name in names[1:]}
with CatalogueWriter(sys.argv[1]) as catalogue:
    catalogue.append(part(0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for start in range(10000, 1000000, 10000):
        catalogue.append(part(start))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_million_rows_in_the_memory_of_a_few(tmp_path):
    path = tmp_path / "cat.fits"
    command = [sys.executable, "-c", MILLION, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert path.stat().st_size > 90e6
    assert int(done.stdout) < 20 << 10  # KiB
    with fits.open(path, memmap=True) as file:
        ids = file["CATALOG"].data["id"]
        assert len(ids) == 1_000_000
        assert ids[[0, 12345, 999_999]].tolist() == [0, 12345, 999_999]
