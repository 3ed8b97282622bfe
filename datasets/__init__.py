"""Readers, writers, simulators and masks: from a file to a `Scan` or `Image`, and back."""

from recon.datasets.readers import open, readers  # noqa: A004
from recon.datasets.scan import Image, Scan, Source
from recon.datasets.writers import save, writers

__all__ = ["Image", "Scan", "Source", "open", "readers", "save", "writers"]
