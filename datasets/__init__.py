"""Readers, writers, simulators and masks: from a file to a `Scan`, `Stamps` or `Image`, and back."""

from recon.datasets.readers import open, readers  # noqa: A004
from recon.datasets.scan import Image, Scan, Source
from recon.datasets.stamps import StampBatch, Stamps
from recon.datasets.writers import save, writers

__all__ = ["Image", "Scan", "Source", "StampBatch", "Stamps", "open", "readers", "save", "writers"]
