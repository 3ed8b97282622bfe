"""Small valid files, one function a format, written by the other side's own library wherever it has one.

``@sample("name")`` adds a format. The fuzz test damages each of them, and the recognition test checks that
exactly the reader of that name answers to it (a variant is called ``name-variant``).
"""

from samples.arrays import write_mat73
from samples.ismrmrd_files import encoding, ismrmrd_xml, make_ismrmrd, make_radial, readout, write_ismrmrd
from samples.multicoil import blob, calgary_kspace, fastmri_header, make_fastmri, write_fastmri
from samples.pictures import RAS, dicom_slice
from samples.registry import OPTIONS, SAMPLES, complex_normal
from samples.stamps import gaussian_stamp, write_meds, write_stamps
from samples.twix import TWIX_PROTOCOL, make_twix, twix_header, twix_readout, write_twix

__all__ = [
    "OPTIONS",
    "RAS",
    "SAMPLES",
    "TWIX_PROTOCOL",
    "blob",
    "calgary_kspace",
    "complex_normal",
    "dicom_slice",
    "encoding",
    "fastmri_header",
    "gaussian_stamp",
    "ismrmrd_xml",
    "make_fastmri",
    "make_ismrmrd",
    "make_radial",
    "make_twix",
    "readout",
    "twix_header",
    "twix_readout",
    "write_fastmri",
    "write_ismrmrd",
    "write_mat73",
    "write_meds",
    "write_stamps",
    "write_twix",
]
