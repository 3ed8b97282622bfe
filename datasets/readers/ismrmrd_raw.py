"""ISMRMRD, the vendor-neutral raw data format [Inati 2017, https://doi.org/10.1002/mrm.26089].

The data are a table of readouts. Their headers are read at once (they say where each readout belongs), the
samples slice by slice.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recon.datasets.geometry import affine_ras, are_directions, slice_step
from recon.datasets.hdf5_heaps import SIGNATURE
from recon.datasets.ismrmrd_header import Encoding, Header, parse_header
from recon.datasets.ismrmrd_table import (
    CALIBRATION,
    CALIBRATION_AND_IMAGING,
    COUNTERS,
    LEFT_OUT,
    NOISE,
    REVERSE,
    Table,
    find_groups,
    read_member,
    read_samples,
    read_table,
)
from recon.datasets.lazy import LazySlices
from recon.datasets.limits import check_claim
from recon.datasets.noncartesian import SpokesRead, sample_trajectory
from recon.datasets.readers import ReadOptions, readers
from recon.datasets.readouts import MAX_UNDERSAMPLING, GridRead, Readouts, grid_size, sampled_fractions, sort_entries
from recon.datasets.scan import Scan, Source
from recon.physics.errors import DataError, FileFormatError

_SEPARATE = ("separate", "external")
_CARTESIAN = ("cartesian", "epi")


@readers.register("ismrmrd")
class IsmrmrdReader:
    """HDF5 with a group, of any name, that holds ``xml`` and the table ``data``."""

    def sniff(self, path: Path, head: bytes) -> bool:
        """Answer to HDF5 files with such a group."""
        return head.startswith(SIGNATURE) and bool(find_groups(path))

    def read(self, path: Path, options: ReadOptions) -> Scan:
        """Read the header and the headers of the readouts; samples stay on disk, except noise.

        ``options.variable`` names the group where a file has several; else it is the last with image data.

        Raises
        ------
        FileFormatError
            A broken header, or readouts that do not fit it.
        DataError
            No image data.
        """
        groups = find_groups(path)
        if options.variable is not None and options.variable not in groups:
            raise FileFormatError(
                f"no ISMRMRD group {options.variable!r}", file=path, found=", ".join(groups) or "none"
            )
        tables = [read_table(path, name) for name in groups]
        with_image = [t for t in tables if t.imaging.any()]
        if options.variable is not None:
            with_image = [t for t in with_image if t.group == options.variable]
        if not with_image:
            raise DataError("no image data among the readouts", file=path, found=f"groups {', '.join(groups)}")
        return _Reading(path, with_image[-1], tables).scan()


class _Reading:
    """The steps from the headers of one group to a `Scan`."""

    def __init__(self, path: Path, table: Table, tables: list[Table]) -> None:
        self.path, self.table = path, table
        self.header: Header = parse_header(table.text, path)
        self.notes: list[str] = []
        if len(tables) > 1:
            self.notes.append(f"group {table.group!r} of {', '.join(t.group for t in tables)} was read")
        self.rows = np.flatnonzero(self._choose())
        self.head = table.head[self.rows]
        self.encoding: Encoding = self.header.encodings[self.number]
        self.coils = int(self.head["active_channels"][0])
        self.tables = tables

    def _choose(self) -> np.ndarray:
        """Return which readouts belong to the image, with a note on all others."""
        table, head = self.table, self.table.head
        for bit, name in LEFT_OUT.items():
            if n := int(table.flag(bit).sum()):
                self.notes.append(f"{n} {name} readouts left out")
        chosen = table.imaging
        refs = np.unique(head["encoding_space_ref"][chosen])
        self.number = int(refs[0])
        if self.number >= len(self.header.encodings):
            raise FileFormatError(
                "the readouts name an encoding that the header lacks",
                file=self.path,
                found=f"encoding {self.number}",
                expected=f"below {len(self.header.encodings)}",
            )
        if len(refs) > 1:
            self.notes.append(f"encoding {self.number} was read; left out: {', '.join(map(str, refs[1:]))}")
            chosen &= head["encoding_space_ref"] == self.number
        only_calibration = chosen & table.flag(CALIBRATION) & ~table.flag(CALIBRATION_AND_IMAGING)
        if n := int(only_calibration.sum()):
            mode = (self.header.encodings[self.number].calibration or "unstated").strip().lower()
            if mode in _SEPARATE and (chosen & ~only_calibration).any():
                self.notes.append(f"{n} readouts of a {mode} calibration scan left out")
                chosen &= ~only_calibration
            else:
                self.notes.append(f"{n} calibration lines used with the image lines (calibration mode: {mode})")
        channels, counts = np.unique(head["active_channels"][chosen], return_counts=True)
        if len(channels) > 1:
            most = channels[counts.argmax()]
            n = int(counts.sum() - counts.max())
            self.notes.append(f"{n} readouts with another number of coils than {most} left out")
            chosen &= head["active_channels"] == most
        return chosen

    def scan(self) -> Scan:
        if not 1 <= self.coils <= 1024:
            raise FileFormatError("an impossible number of coils", file=self.path, found=self.coils)
        counters = {name: self.head["idx"][name] for name in COUNTERS}
        entry, labels, reordered = sort_entries(counters, self.head["position"], self.head["slice_dir"][0])
        if reordered:
            self.notes.append("slices sorted by position (the counter's order is another: see labels)")
        labels = tuple({**label, "encoding": self.number} for label in labels)
        cartesian = self.encoding.trajectory in _CARTESIAN
        stored = bool(self.head["trajectory_dimensions"].any())
        if cartesian:
            fields = self._grid(entry, len(labels))
            if stored:
                self.notes.append("a Cartesian scan: the trajectory in the readouts was not used")
        elif stored:
            fields = self._spokes(entry, len(labels))
        else:
            raise FileFormatError(
                f"a {self.encoding.trajectory} scan whose readouts bring no trajectory",
                file=self.path,
                cure="Write the trajectory into the ISMRMRD file when converting",
            )
        fields |= self._geometry(entry, labels, cartesian=cartesian)
        return Scan(
            source=Source("ismrmrd", self.path),
            labels=labels,
            noise=self._noise(),
            header=self._fields(),
            notes=tuple(self.notes),
            **fields,
        )

    def _grid(self, entry: np.ndarray, entries: int) -> dict[str, Any]:
        """Lay the readouts onto the encoded matrix."""
        head, path = self.head, self.path
        nx, ny, nz = self.encoding.encoded.matrix
        reverse = self.table.flag(REVERSE)[self.rows]
        total = head["number_of_samples"].astype(np.int64)
        skip = head["discard_pre"].astype(np.int64)
        count = total - skip - head["discard_post"]
        center = head["center_sample"].astype(np.int64)
        if not center.any() and (count == nx).all():
            center = skip + nx // 2
            self.notes.append("no centre sample in the readouts: taken to be the middle")
        center = np.where(reverse, total - center, center)
        before = center - np.where(reverse, total - skip - count, skip)
        needed = int(
            max(grid_size(int(b), int(c - b)) for b, c in set(zip(before.tolist(), count.tolist(), strict=True)))
        )
        if needed > nx:
            self.notes.append(f"readouts need {needed} samples, the encoded matrix has {nx}: widened")
            nx = needed
        x = nx // 2 - before
        y = self._lines("kspace_encode_step_1", "kspace_encoding_step_1", ny)
        z = self._lines("kspace_encode_step_2", "kspace_encoding_step_2", nz)
        order = np.lexsort((self.rows, entry))
        readouts = Readouts(self.rows, entry, z, y, x, skip, count, reverse).select(order)
        readouts.check((nz, ny, nx), path)
        shape = (self.coils, nz, ny, nx)
        check_claim(
            (entries, *shape),
            8,
            stored=self.table.stored,
            path=path,
            what="the encoded k-space",
            expansion=MAX_UNDERSAMPLING,
        )
        places = np.stack([readouts.entry, readouts.z, readouts.y], axis=1)
        repeats = np.unique(places, axis=0, return_counts=True)[1]
        self.averages = int(repeats[0]) if (repeats == repeats[0]).all() else 1
        if repeats.max() > 1:
            self.notes.append(f"lines acquired up to {repeats.max()} times were averaged")
        fetch = partial(read_samples, path, self.table.group, self.coils, self.table.head["number_of_samples"])
        starts = np.searchsorted(readouts.entry, np.arange(entries + 1))
        squeeze = nz == 1
        read = GridRead(readouts, starts, shape, fetch, squeeze)
        mask = readouts.mask(entries, (nz, ny, nx))
        spatial = (ny, nx) if squeeze else (nz, ny, nx)
        mask = mask[:, 0] if squeeze else mask
        return {
            "kspace": LazySlices((entries, self.coils, *spatial), np.dtype(np.complex64), read, path),
            "mask": mask[0] if len(mask) == 1 else mask,
            "partial_fourier": sampled_fractions(mask, spatial),
            "readout_axis": -1,
            "oversampling": self.encoding.oversampling,
        }

    def _lines(self, counter: str, name: str, n: int) -> np.ndarray:
        """Return the grid lines of a phase encoding counter: its centre goes to the centre of the matrix."""
        index = self.head["idx"][counter].astype(np.int64)
        limit = self.encoding.limits.get(name)
        if limit is None:
            if n > 1:
                self.notes.append(f"no limits for {name}: its centre is taken to be {n // 2}")
            return index
        shifted = index + n // 2 - limit.center
        if (shifted.min() < 0 or shifted.max() >= n) and index.max() < n:
            self.notes.append(f"{name}: the centre {limit.center} does not fit the matrix {n}, {n // 2} taken")
            return index
        return shifted

    def _spokes(self, entry: np.ndarray, entries: int) -> dict[str, Any]:
        """Keep the readouts as samples along a trajectory."""
        path, head = self.path, self.head
        shape = np.unique(
            np.stack(
                [head[n] for n in ("number_of_samples", "discard_pre", "discard_post", "trajectory_dimensions")], 1
            ),
            axis=0,
        )
        per_entry = np.bincount(entry, minlength=entries)
        if len(shape) > 1 or (per_entry != per_entry[0]).any():
            raise DataError(
                "readouts of several lengths, or another number of them in each slice",
                file=path,
                found=f"{len(shape)} lengths, {per_entry.min()} to {per_entry.max()} readouts a slice",
            )
        total, pre, post, dims = map(int, shape[0])
        if pre + post >= total:
            raise FileFormatError("a readout without samples", file=path)
        order = np.lexsort((self.rows, entry))
        rows = self.rows[order].reshape(entries, -1)
        samples = (total - pre - post) * rows.shape[1]
        stored = self.table.stored
        check_claim((entries, self.coils, samples), 8, stored=stored, path=path, what="the k-space", expansion=1)
        steps = head["idx"]["kspace_encode_step_2"][order].reshape(entries, -1)
        limit = self.encoding.limits.get("kspace_encoding_step_2")
        kz = steps.astype(np.float32) - (limit.center if limit else self.encoding.encoded.matrix[2] // 2)
        trajectory, density = sample_trajectory(
            rows,
            partial(read_member, path, self.table.group, "traj"),
            (total, dims),
            slice(pre, total - post),
            kz,
            self.encoding.recon.matrix,
            path,
            self.notes,
        )
        self.averages = 1
        fetch = partial(read_samples, path, self.table.group, self.coils, self.table.head["number_of_samples"])
        read = SpokesRead(rows, fetch, slice(pre, total - post))
        return {
            "kspace": LazySlices((entries, self.coils, samples), np.dtype(np.complex64), read, path),
            "trajectory": trajectory,
            "density": density,
        }

    def _geometry(self, entry: np.ndarray, labels: tuple[dict[str, int], ...], *, cartesian: bool) -> dict[str, Any]:
        """Return voxel size, crop and affine."""
        encoding = self.encoding
        space = encoding.encoded if cartesian else encoding.recon
        dx, dy, dz = space.spacing
        mx, my, mz = encoding.crop if cartesian else encoding.recon.matrix
        volume = (mz > 1 or encoding.encoded.matrix[2] > 1) if cartesian else mz > 1
        found: dict[str, Any] = {"spacing": (dz, dy, dx), "matrix": (mz, my, mx) if volume else (my, mx)}
        first = np.unique(entry, return_index=True)[1]
        heads = self.head[first]
        axes = np.stack([heads[0][name].astype(np.float64) for name in ("read_dir", "phase_dir", "slice_dir")])
        if not are_directions(axes):
            self.notes.append("no valid directions in the readouts: no affine")
            return found
        if (self.header.vendor or "").lower() == "siemens":
            axes[:2] *= -1  # Siemens' data want an FFT where ours is an inverse FFT: the image comes out mirrored
            if volume:
                axes[2] *= -1
        same = [i for i, label in enumerate(labels) if all(label[n] == labels[0][n] for n in COUNTERS if n != "slice")]
        positions = heads["position"][same].astype(np.float64)
        if not np.isfinite(positions).all():
            self.notes.append("positions that are not finite: no affine")
            return found
        step = slice_step(positions, axes[2], dz)
        if volume:
            step = axes[2] * dz
        if step is None:
            self.notes.append("slices are not evenly spaced: no affine")
            return found
        if not volume:
            found["spacing"] = (float(np.linalg.norm(step)), dy, dx)
        found["affine"] = affine_ras(
            positions[0], np.stack([axes[0] * dx, axes[1] * dy, step]), (mx, my, mz if volume else 1)
        )
        return found

    def _noise(self) -> np.ndarray | None:
        """Read the noise readouts, scaled to the bandwidth and the averages of the image."""
        for table in (self.table, *reversed(self.tables)):
            chosen = table.flag(NOISE) & (table.head["active_channels"] == self.coils)
            rows = np.flatnonzero(chosen & (table.head["number_of_samples"] > 0))
            if len(rows):
                break
        else:
            if any(table.flag(NOISE).any() for table in self.tables):
                self.notes.append("noise readouts with another number of coils left out")
            return None
        total = int(table.head["number_of_samples"][rows].astype(np.int64).sum())
        check_claim((1, self.coils, total), 8, stored=table.stored, path=self.path, what="the noise", expansion=1)
        counts = table.head["number_of_samples"]
        noise = np.concatenate(list(read_samples(self.path, table.group, self.coils, counts, rows)), axis=1)
        dwell, image_dwell = float(table.head["sample_time_us"][rows[0]]), float(self.head["sample_time_us"][0])
        scale = 1.0
        if dwell > 0 and image_dwell > 0 and np.isfinite([dwell, image_dwell]).all():
            scale = float(np.sqrt(dwell / image_dwell))
        if scale != 1:
            self.notes.append(f"noise scaled by {scale:.4g} from {dwell:g} to the image's {image_dwell:g} us a sample")
        if self.averages > 1:
            scale /= np.sqrt(self.averages)
            self.notes.append(f"noise scaled down for {self.averages} averages")
        return noise * np.float32(scale)

    def _fields(self) -> dict[str, Any]:
        encoding = self.encoding
        fields: dict[str, Any] = dict(self.header.fields)
        fields |= {
            "group": self.table.group,
            "encodings": len(self.header.encodings),
            "trajectory": encoding.trajectory,
            "encoded_matrix": list(encoding.encoded.matrix),
            "recon_matrix": list(encoding.recon.matrix),
            "encoded_fov_mm": list(encoding.encoded.fov),
            "recon_fov_mm": list(encoding.recon.fov),
        }
        if encoding.acceleration is not None:
            fields["acceleration"] = list(encoding.acceleration)
        if encoding.calibration is not None:
            fields["calibration_mode"] = encoding.calibration
        return fields
