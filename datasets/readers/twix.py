"""Siemens raw data (``meas_*.dat``, VB, VD, VE, XA), whose layout `twixtools` knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from recon.datasets.geometry import affine_ras, are_directions, slice_step
from recon.datasets.lazy import LazySlices
from recon.datasets.limits import check_claim
from recon.datasets.readers import ReadOptions, readers
from recon.datasets.readouts import MAX_UNDERSAMPLING, GridRead, Readouts, grid_size, sampled_fractions, sort_entries
from recon.datasets.scan import Scan, Source
from recon.datasets.twix_file import Measurement, import_twixtools, measurement_bounds, read_measurement
from recon.physics.errors import DataError, FileFormatError

_LEFT_OUT = (
    "RTFEEDBACK",
    "HPFEEDBACK",
    "PHASCOR",
    "REFPHASESTABSCAN",
    "PHASESTABSCAN",
    "RETRO_DUMMYSCAN",
    "MDH_VOP",
    "noname60",
)
_COUNTERS = {"contrast": "Eco", "phase": "Phs", "repetition": "Rep", "set": "Set", "slice": "Sli"}
_INTEGRATED = 2.0
_CARTESIAN = 1.0
_MAX_LINES = 65535


@readers.register("twix")
class TwixReader:
    """VB files hold one measurement; of the others the last with image data is read."""

    def sniff(self, path: Path, head: bytes) -> bool:
        """Answer to the table of measurements or to the protocol at the start; does not need twixtools."""
        bounds = measurement_bounds(_head(path, head), path.stat().st_size) if head else None
        return bounds is not None

    def read(self, path: Path, options: ReadOptions) -> Scan:  # noqa: ARG002
        """Read the protocol and the headers of the readouts; samples stay on disk, except noise.

        Raises
        ------
        MissingDependencyError
            twixtools is not installed.
        FileFormatError
            Cut short, damaged, or not Cartesian.
        DataError
            No image data.
        """
        import_twixtools()
        size = path.stat().st_size
        found = measurement_bounds(_head(path, b""), size)
        if found is None:
            raise FileFormatError("not a Siemens twix file", file=path)
        newer, bounds = found
        measurements: list[Measurement] = []
        for start, length in bounds:
            if length:
                measurements.append(read_measurement(path, newer, start, length))
        for i in reversed(range(len(measurements))):
            if (rows := np.flatnonzero(_imaging(measurements[i]))).size:
                return _Reading(measurements, i, rows).scan()
        raise DataError("no image data in any measurement", file=path, found=f"{len(measurements)} measurements")


def _head(path: Path, head: bytes) -> bytes:
    """Return enough of the file for the whole table of measurements."""
    if len(head) >= 10240:
        return head
    with path.open("rb") as file:
        return file.read(10240)


def _imaging(m: Measurement) -> np.ndarray:
    out = ~m.flag("NOISEADJSCAN") & (m.headers["SamplesInScan"] > 0) & (m.headers["UsedChannels"] > 0)
    for name in _LEFT_OUT:
        out &= ~m.flag(name)
    calibration = m.flag("PATREFSCAN") & ~m.flag("PATREFANDIMASCAN")
    return out & ~calibration if m.number("sPat.ucRefScanMode") != _INTEGRATED else out


class _Reading:
    """The steps from one measurement to a `Scan`."""

    def __init__(self, measurements: list[Measurement], index: int, rows: np.ndarray) -> None:
        self.measurements, self.m = measurements, measurements[index]
        self.path = self.m.path
        self.notes: list[str] = []
        if len(measurements) > 1:
            self.notes.append(f"measurement {index + 1} of {len(measurements)} was read")
        if not self.m.complete:
            self.notes.append("no end mark: the scan was stopped or the file cut short")
        for name in _LEFT_OUT:
            if n := int(self.m.flag(name).sum()):
                self.notes.append(f"{n} readouts with the flag {name} left out")
        calibration = self.m.flag("PATREFSCAN") & ~self.m.flag("PATREFANDIMASCAN") & ~self.m.flag("NOISEADJSCAN")
        if n := int(calibration.sum()):
            used = "used with the image lines" if calibration[rows].any() else "of a separate scan left out"
            self.notes.append(f"{n} calibration readouts {used}")
        channels, counts = np.unique(self.m.headers["UsedChannels"][rows], return_counts=True)
        self.coils = int(channels[counts.argmax()])
        if len(channels) > 1:
            self.notes.append(f"{counts.sum() - counts.max()} readouts with other than {self.coils} coils left out")
            rows = rows[self.m.headers["UsedChannels"][rows] == self.coils]
        self.rows, self.head = rows, self.m.headers[rows]

    def scan(self) -> Scan:
        kind = self.m.number("sKSpace.ucTrajectory")
        if kind not in (None, _CARTESIAN):
            raise FileFormatError(
                "a scan that is not Cartesian: twix files hold no trajectory",
                file=self.path,
                cure="Convert it to ISMRMRD with its trajectory (siemens_to_ismrmrd)",
            )
        if float(self.m.extra.get("alRegridMode", "1")) > 1:
            self.notes.append("readouts sampled on gradient ramps: not regridded")
        axes = self._axes()
        positions = _vectors(self.head["SliceData"]["SlicePos"], ("Sag", "Cor", "Tra"))
        counters = {name: self.head["Counter"][field] for name, field in _COUNTERS.items()}
        entry, labels, reordered = sort_entries(
            counters, positions, axes[2] if axes is not None else np.array([0.0, 0.0, 1.0])
        )
        if reordered:
            self.notes.append("slices sorted by position (the counter's order is another: see labels)")
        fields = self._grid(entry, len(labels))
        fields |= self._geometry(entry, labels, positions, axes, fields["kspace"].shape[2:])
        return Scan(
            source=Source("twix", self.path),
            labels=labels,
            noise=self._noise(),
            header={
                name: self.m.protocol[name]
                for name in sorted(self.m.protocol)
                if name.startswith(("sKSpace.", "sPat.", "alTR", "alTE", "tSequence", "tProtocol", "adFlip", "lAve"))
            },
            notes=tuple(self.notes),
            **fields,
        )

    def _grid(self, entry: np.ndarray, entries: int) -> dict[str, Any]:
        """Lay the readouts onto a matrix that has the k-space centre in its centre."""
        head, path, m = self.head, self.path, self.m
        reverse = m.flag("REFLECT")[self.rows]
        total = head["SamplesInScan"].astype(np.int64)
        skip, post = (head["CutOff"][name].astype(np.int64) for name in ("Pre", "Post"))
        count = total - skip - post
        center = head["CenterCol"].astype(np.int64)
        center = np.where(reverse, total - center, center)
        before = center - np.where(reverse, post, skip)
        base = m.number("sKSpace.lBaseResolution")
        factor = float(m.extra.get("flReadoutOSFactor", 0)) or (2.0 if base and total[0] > base else 1.0)
        nx = max(grid_size(int(b), int(t - b)) for b, t in {*zip(center.tolist(), total.tolist(), strict=True)})
        if base and nx < factor * base <= _MAX_LINES:
            nx = round(factor * base)
        y, ny = self._lines("Lin", "CenterLin", "sKSpace.lPhaseEncodingLines")
        volume = m.number("sKSpace.ucDimension") == 4 or head["Counter"]["Par"].max() > 0
        z, nz = self._lines("Par", "CenterPar", "sKSpace.lPartitions") if volume else (np.zeros_like(y), 1)
        order = np.lexsort((self.rows, entry))
        readouts = Readouts(self.rows, entry, z, y, nx // 2 - before, skip, count, reverse).select(order)
        readouts.check((nz, ny, nx), path)
        shape = (self.coils, nz, ny, nx)
        stored = int((8 * total * self.coils).sum())
        check_claim((entries, *shape), 8, stored=stored, path=path, what="the k-space", expansion=MAX_UNDERSAMPLING)
        repeats = np.unique(np.stack([readouts.entry, readouts.z, readouts.y], 1), axis=0, return_counts=True)[1]
        self.averages = int(repeats[0]) if (repeats == repeats[0]).all() else 1
        if repeats.max() > 1:
            self.notes.append(f"lines acquired up to {repeats.max()} times were averaged")
        starts = np.searchsorted(readouts.entry, np.arange(entries + 1))
        squeeze = nz == 1
        mask = readouts.mask(entries, (nz, ny, nx))
        mask = mask[:, 0] if squeeze else mask
        spatial = (ny, nx) if squeeze else (nz, ny, nx)
        read = GridRead(readouts, starts, shape, m.samples, squeeze)
        return {
            "kspace": LazySlices((entries, self.coils, *spatial), np.dtype(np.complex64), read, path),
            "mask": mask[0] if len(mask) == 1 else mask,
            "partial_fourier": sampled_fractions(mask, spatial),
            "readout_axis": -1,
            "oversampling": round(nx / base, 4) if base else None,
        }

    def _lines(self, counter: str, center_name: str, protocol_name: str) -> tuple[np.ndarray, int]:
        """Return the grid lines of a phase encoding counter, and how many the grid has."""
        index = self.head["Counter"][counter].astype(np.int64)
        center = self.head[center_name].astype(np.int64)
        n = grid_size(int(center.max()), int((index - center).max()) + 1)
        lines = self.m.number(protocol_name)
        if lines is not None and n < lines <= _MAX_LINES:
            n = int(lines)
        return index - center + n // 2, n

    def _axes(self) -> np.ndarray | None:
        """Return the directions of read, phase and slice (patient coordinates: left, posterior, superior).

        twixtools' rotation maps (phase, read, slice) to patient coordinates, with the signs of phase and read
        turned for images made by an inverse FFT (`twixtools.geometry.prs2sct_mdb`).
        """
        quaternion = self.head["SliceData"]["Quaternion"][0].astype(np.float64)
        norm = float(np.linalg.norm(quaternion))
        if not np.isfinite(norm) or abs(norm - 1) > 1e-2:
            self.notes.append("no valid orientation in the readouts: no affine")
            return None
        rotation = import_twixtools().geometry.quat_to_rotmat(*(quaternion / norm))
        axes = np.stack([-rotation[:, 1], -rotation[:, 0], rotation[:, 2]])
        return axes if are_directions(axes) else None

    def _geometry(
        self,
        entry: np.ndarray,
        labels: tuple[dict[str, int], ...],
        positions: np.ndarray,
        axes: np.ndarray | None,
        spatial: tuple[int, ...],
    ) -> dict[str, Any]:
        """Return voxel size, crop and affine as far as the protocol says."""
        m, (ny, nx) = self.m, spatial[-2:]
        nz = spatial[0] if len(spatial) == 3 else 1
        names = ("dReadoutFOV", "dPhaseFOV", "dThickness")
        fov = [m.number(f"sSliceArray.asSlice[0].{name}") for name in names]
        base, lines = m.number("sKSpace.lBaseResolution"), m.number("sKSpace.lPhaseEncodingLines")
        partitions = m.number("sKSpace.lPartitions") if nz > 1 else 1.0
        values = [*fov, base, lines, partitions]
        if any(value is None or not 0 < value < 1e5 for value in values):
            self.notes.append("the protocol lacks field of view or matrix: no voxel size and no affine")
            return {}
        fov_x, fov_y, fov_z, base, lines, partitions = (float(v or 0) for v in values)
        over_y = 1 + (m.number("sKSpace.dPhaseOversamplingForDialog") or 0)
        over_z = 1 + (m.number("sKSpace.dSliceOversamplingForDialog") or 0) if nz > 1 else 1.0
        if not (1 <= over_y <= 4 and 1 <= over_z <= 4):
            self.notes.append("the protocol has an impossible oversampling: no voxel size and no affine")
            return {}
        dx, dy, dz = fov_x / base, fov_y * over_y / lines, fov_z * over_z / partitions
        crop = min(nx, round(base)), min(ny, round(lines / over_y)), min(nz, round(partitions / over_z))
        found: dict[str, Any] = {"spacing": (dz, dy, dx), "matrix": crop[1::-1] if nz == 1 else crop[::-1]}
        if axes is None:
            return found
        if nz > 1:
            axes = axes * [[1], [1], [-1]]  # the partitions are mirrored as phase and read are
        first = np.unique(entry, return_index=True)[1]
        same = [i for i, label in enumerate(labels) if all(label[n] == labels[0][n] for n in _COUNTERS if n != "slice")]
        step = axes[2] * dz if nz > 1 else slice_step(positions[first[same]], axes[2], dz)
        if step is None or not np.isfinite(positions[first[0]]).all():
            self.notes.append("slices are not evenly spaced: no affine")
            return found
        if nz == 1:
            found["spacing"] = (float(np.linalg.norm(step)), dy, dx)
        found["affine"] = affine_ras(positions[first[0]], np.stack([axes[0] * dx, axes[1] * dy, step]), crop)
        return found

    def _noise(self) -> np.ndarray | None:
        """Read the noise adjustment of this measurement, else of the last one before that has the same coils."""
        others = [m for m in self.measurements if m is not self.m]
        for m in (self.m, *reversed(others)):
            rows = np.flatnonzero(m.flag("NOISEADJSCAN") & (m.headers["UsedChannels"] == self.coils))
            if not len(rows):
                continue
            noise = np.concatenate(list(m.samples(rows)), axis=1)
            dwell, image_dwell = (x.number("sRXSPEC.alDwellTime[0]") for x in (m, self.m))
            if m is not self.m and dwell and image_dwell:
                scale = float(np.sqrt(dwell / image_dwell))
                noise = noise * np.float32(scale)
                if scale != 1:
                    self.notes.append(f"noise scaled by {scale:.4g} to the image's dwell time")
            else:
                self.notes.append("noise not scaled: its dwell time is not in the file")
            if self.averages > 1:
                noise = noise / np.float32(np.sqrt(self.averages))
                self.notes.append(f"noise scaled down for {self.averages} averages")
            return noise
        return None


def _vectors(record: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    return np.stack([record[name] for name in names], axis=-1).astype(np.float64)
