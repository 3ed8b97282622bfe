"""Where the frames of a DICOM series lie, and how their stored values become physical ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

if TYPE_CHECKING:
    from pydicom import Dataset

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a series.

    Parameters
    ----------
    path, index
        The file, and the number of the frame in it.
    number
        What orders frames at the same place: the instance number, then the frame's.
    shape
        (rows, columns), or (rows, columns, 3).
    position
        Centre of the first voxel in LPS mm.
    axes
        Directions of a row and of a column, ``(2, 3)``, LPS.
    pixel
        Distance between rows and between columns in mm.
    step
        Distance between slices in mm, as the file states it.
    slope, intercept
        Stored values times slope plus intercept are the values; None where the file has none.
    """

    path: Path
    index: int
    number: tuple[int, int]
    shape: tuple[int, ...]
    position: ndarray | None
    axes: ndarray | None
    pixel: tuple[float, float] | None
    step: float | None
    scale: tuple[float, float] | None

    @property
    def place(self) -> float | None:
        """Position along the normal of the slices."""
        if self.position is None or self.axes is None:
            return None
        return float(np.cross(*self.axes) @ self.position)


def frames_of(dataset: Dataset, path: Path) -> list[Frame]:
    """Return the frames of one file, those of an enhanced multi-frame file with their own geometry."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    samples = int(dataset.get("SamplesPerPixel", 1))
    palette = dataset.get("PhotometricInterpretation") == "PALETTE COLOR"
    shape = (int(dataset.Rows), int(dataset.Columns), *((3,) if samples == 3 or palette else ()))
    frames = []
    for index in range(int(dataset.get("NumberOfFrames") or 1)):
        groups = [own[index] if index < len(own) else None, shared]

        def find(sequence: str, name: str, groups: list[Dataset | None] = groups) -> Any:
            for group in groups:
                if group is not None and group.get(sequence):
                    value = group[sequence][0].get(name)
                    if value is not None:
                        return value
            return dataset.get(name)

        position = _vector(find("PlanePositionSequence", "ImagePositionPatient"), 3)
        axes = _vector(find("PlaneOrientationSequence", "ImageOrientationPatient"), 6)
        pixel = _vector(find("PixelMeasuresSequence", "PixelSpacing"), 2)
        step = find("PixelMeasuresSequence", "SpacingBetweenSlices") or find("PixelMeasuresSequence", "SliceThickness")
        slope = find("PixelValueTransformationSequence", "RescaleSlope")
        intercept = find("PixelValueTransformationSequence", "RescaleIntercept")
        frames.append(
            Frame(
                path=path,
                index=index,
                number=(int(dataset.get("InstanceNumber") or 0), index),
                shape=shape,
                position=position,
                axes=None if axes is None else axes.reshape(2, 3),
                pixel=None if pixel is None else (float(pixel[0]), float(pixel[1])),
                step=float(step) if step else None,
                scale=None if slope is None else (float(slope), float(intercept or 0)),
            )
        )
    return frames


def _vector(value: Any, length: int) -> ndarray | None:
    if value is None or isinstance(value, str) or len(value) != length:
        return None
    vector = np.array([float(number) for number in value])
    return vector if np.isfinite(vector).all() else None


def order_frames(frames: Sequence[Frame]) -> tuple[list[Frame], list[str]]:
    """Sort by place along the normal; frames at the same place (echoes, times) make volumes one after another."""
    in_time = sorted(frames, key=lambda frame: frame.number)
    if any(frame.place is None for frame in frames):
        return in_time, ["no positions: in the order of the instance numbers"] if len(frames) > 1 else []
    places: dict[float, list[Frame]] = defaultdict(list)
    for frame in in_time:
        places[round(frame.place or 0.0, 3)].append(frame)
    stacks = [places[place] for place in sorted(places)]
    n_volumes = max(map(len, stacks))
    ordered = [stack[volume] for volume in range(n_volumes) for stack in stacks if volume < len(stack)]
    notes = []
    if n_volumes > 1:
        notes.append(f"{n_volumes} images at one place: volumes of {len(stacks)} slices, one after the other")
    steps = np.diff(sorted(places))
    if len(steps) and np.ptp(steps) > 0.01 * steps.mean() + 0.002:
        notes.append(f"slices at uneven distances, {steps.min():.3f} to {steps.max():.3f} mm")
    return ordered, notes


def voxel_to_ras(frames: Sequence[Frame]) -> tuple[ndarray | None, tuple[float, float, float] | None]:
    """Return the affine and the spacing (z, y, x) of ordered frames; None where the files do not tell."""
    first = frames[0]
    if first.pixel is None or min(first.pixel) <= 0:
        return None, None
    rows, columns = first.pixel
    normal = None if first.axes is None else np.cross(*first.axes)
    step = None if first.step is None or normal is None else normal * first.step
    if normal is not None and first.position is not None:
        places = sorted({round(frame.place or 0.0, 3) for frame in frames})
        last = next(frame for frame in reversed(frames) if round(frame.place or 0.0, 3) == places[-1])
        if len(places) > 1 and last.position is not None:
            step = (last.position - first.position) / (len(places) - 1)
    distance = first.step if step is None else float(np.linalg.norm(step))
    spacing = None if not distance else (distance, rows, columns)
    if first.axes is None or first.position is None or step is None:
        return None, spacing
    affine = np.eye(4)
    affine[:3, 0] = first.axes[0] * columns
    affine[:3, 1] = first.axes[1] * rows
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    return _LPS_TO_RAS @ affine, spacing
