"""FITS: stamps with their PSFs, MEDS, a full image with a catalogue, or a picture; plain or compressed."""

from __future__ import annotations

import zlib
from pathlib import Path

from recon.datasets.readers import ReadOptions, readers
from recon.datasets.scan import Image
from recon.datasets.stamps import Stamps
from recon.physics.errors import FileFormatError

_MAGIC = b"SIMPLE  ="
_GZIP = b"\x1f\x8b"


@readers.register("fits")
class FitsReader:
    """What a FITS file holds is told by the names of its extensions.

    *Stamps*: the pixels are the primary image, or the extension SCI, IMAGE, DATA or STAMPS: ``(n, y, x)``, one image,
    or one extension an object. An extension PSF ``(h, w)`` or ``(n, h, w)`` makes them stamps (or the option
    ``psf``); WEIGHT or IVAR, VARIANCE, ERR or SIGMA, and MASK or DQ may stand beside it, and a table with ID, SIGMA,
    FLAGS, X, Y. `recon.datasets.stamp_files.ROLES` has the other names they go by.

    *MEDS*: the extensions object_data and image_cutouts; the option ``epoch`` chooses (0: the coadd).

    *A full image*: with the option ``catalogue``, or with ``size`` alone (objects are detected), stamps are cut out.

    Everything else is an image: `recon.datasets.writers.fits` tells how the extensions are read.
    """

    def sniff(self, path: Path, head: bytes) -> bool:  # noqa: ARG002
        """Tell by the first keyword, inside gzip too."""
        if head.startswith(_GZIP):
            try:
                head = zlib.decompressobj(wbits=31).decompress(head, 80)
            except zlib.error:
                return False
        return head.startswith(_MAGIC)

    def read(self, path: Path, options: ReadOptions) -> Image | Stamps:
        """Read the headers."""
        from recon.datasets.cutouts import read_cutouts
        from recon.datasets.fits_file import scan
        from recon.datasets.fits_image import read_image
        from recon.datasets.meds import is_meds, read_meds
        from recon.datasets.stamp_files import has_psf, read_stamps

        hdus = scan(path)
        if is_meds(hdus):
            return read_meds(path, hdus, options)
        images = [hdu for hdu in hdus if hdu.kind in ("image", "tiles")]
        if not images:
            tables = sum(hdu.kind == "table" for hdu in hdus)
            raise FileFormatError(
                "the file holds no image",
                file=path,
                found=f"{tables} tables" if tables else "headers without data",
                expected="an image or a cube of stamps",
            )
        if options.catalogue is not None or (options.size is not None and len(images[0].shape) == 2):
            return read_cutouts(path, hdus, options)
        if options.psf is not None or options.weight is not None or options.mask is not None or has_psf(images):
            return read_stamps(path, hdus, options)
        return read_image(path, hdus)
