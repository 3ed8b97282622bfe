"""A file of N stamps, other FITS files, and how they are opened."""

from __future__ import annotations

from astropy.io import fits
from samples import write_stamps

import recon

N = 5


def opened(path, **options):
    return recon.datasets.open(path, **options)


def whole(stamps):
    return stamps.batch(0, stamps.n)


def stamps_file(folder):
    write_stamps(folder / "stamps.fits", N)
    return folder / "stamps.fits"


def image_file(path, array, **cards):
    hdu = fits.PrimaryHDU(array)
    hdu.header.update(cards)
    hdu.writeto(path, overwrite=True)
    return path
