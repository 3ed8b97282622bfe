"""The table of readouts in an ISMRMRD file: headers are read at once, samples by rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recon.physics.errors import FileFormatError

NOISE, CALIBRATION, CALIBRATION_AND_IMAGING, REVERSE = 19, 20, 21, 22
LEFT_OUT = {
    23: "navigator",
    24: "phase correction",
    26: "feedback",
    27: "dummy",
    28: "feedback",
    29: "surface coil correction",
    30: "phase stabilisation",
    31: "phase stabilisation",
}
COUNTERS = ("contrast", "phase", "repetition", "set", "slice")
_HEAD = np.dtype(
    [
        ("flags", "<u8"),
        ("number_of_samples", "<u2"),
        ("active_channels", "<u2"),
        ("discard_pre", "<u2"),
        ("discard_post", "<u2"),
        ("center_sample", "<u2"),
        ("encoding_space_ref", "<u2"),
        ("trajectory_dimensions", "<u2"),
        ("sample_time_us", "<f4"),
        ("position", "<f4", (3,)),
        ("read_dir", "<f4", (3,)),
        ("phase_dir", "<f4", (3,)),
        ("slice_dir", "<f4", (3,)),
        (
            "idx",
            [(n, "<u2") for n in ("kspace_encode_step_1", "kspace_encode_step_2", "average", *COUNTERS)],
        ),
    ]
)


def find_groups(path: Path) -> list[str]:
    """Return the groups that hold a table of readouts."""
    from recon.datasets.hdf5 import open_hdf5

    found = []
    with open_hdf5(path) as file:
        for name, group in file.items():
            data = group.get("data") if hasattr(group, "keys") else None
            if data is not None and getattr(data, "dtype", np.dtype("u1")).names == ("head", "traj", "data"):
                found.append(name)
    return found


@dataclass(frozen=True, eq=False)
class Table:
    """The headers of a group's readouts.

    Parameters
    ----------
    group
        Name of the group.
    head
        One header a readout.
    text
        The XML header.
    stored
        Size of the file, against which claims are held.
    """

    group: str
    head: np.ndarray
    text: str
    stored: int

    def flag(self, bit: int) -> np.ndarray:
        """Return which readouts have a flag; the format counts bits from 1."""
        return (self.head["flags"] >> np.uint64(bit - 1)) & np.uint64(1) != 0

    @property
    def imaging(self) -> np.ndarray:
        """Readouts that are neither noise nor of another purpose."""
        out = ~self.flag(NOISE) & (self.head["number_of_samples"] > 0)
        for bit in LEFT_OUT:
            out &= ~self.flag(bit)
        return out


def read_table(path: Path, group: str) -> Table:
    """Read the text and the headers of a group."""
    from recon.datasets.hdf5 import get_dataset, open_hdf5, read_text
    from recon.datasets.hdf5_records import read_column

    with open_hdf5(path) as file:
        data = get_dataset(file[group], "data", path, records=True)
        if data.ndim != 1:
            raise FileFormatError("the table of readouts has not one axis", file=path, found=f"shape {data.shape}")
        head = read_column(data, "head", _HEAD, path)
        text = read_text(file[group], "xml", path)
    return Table(group, head, text, path.stat().st_size)


def read_member(path: Path, group: str, member: str, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Read the ``data`` or ``traj`` of some rows as flat float32 arrays."""
    from recon.datasets.hdf5 import open_hdf5
    from recon.datasets.hdf5_records import read_values

    with open_hdf5(path) as file:
        for values in read_values(file[group]["data"], rows, path, member):
            yield values.astype(np.float32, copy=False)


def read_samples(path: Path, group: str, coils: int, counts: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Read readouts as (coil, sample); ``counts`` is what the headers of all rows say."""
    for row, flat in zip(rows, read_member(path, group, "data", rows), strict=True):
        if len(flat) != 2 * coils * int(counts[row]):
            raise FileFormatError(
                f"readout {row} is not what its header says",
                file=path,
                found=f"{len(flat)} values",
                expected=f"{coils} coils of {counts[row]} samples",
            )
        yield np.ascontiguousarray(flat, np.float32).view(np.complex64).reshape(coils, -1)
