"""Readers, writers, simulators and masks: from a file to a `Scan`, `Measurements`, `Stamps` or `Image`, and back."""

from typing import TYPE_CHECKING

from recon.datasets.compressed import CompressedScan
from recon.datasets.measurements import Measurements
from recon.datasets.readers import open, readers  # noqa: A004
from recon.datasets.scan import Image, Scan, Source, wanted_slices
from recon.datasets.stamps import Stamps
from recon.datasets.writers import save, writers

if TYPE_CHECKING:
    from recon.datasets.stamp_batch import StampBatch


def __getattr__(name: str) -> object:
    if name == "StampBatch":  # brings torch along
        from recon.datasets.stamp_batch import StampBatch

        return StampBatch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "CompressedScan",
    "Image",
    "Measurements",
    "Scan",
    "Source",
    "StampBatch",
    "Stamps",
    "open",
    "readers",
    "save",
    "wanted_slices",
    "writers",
]
