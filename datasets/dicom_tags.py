"""What reader and writer of DICOM agree upon."""

PRIVATE_CREATOR = "RECON IMAGING"
"""Owner of our private block."""
PRIVATE_GROUP = 0x0099
PRIVATE_TEXT = 0x01
"""Element within the block: the description of the image as JSON (VR UT)."""

KEPT = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientWeight",
    "PatientPosition",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
    "FrameOfReferenceUID",
    "SeriesDescription",
    "SeriesNumber",
    "Modality",
    "BodyPartExamined",
    "ProtocolName",
    "Manufacturer",
    "ManufacturerModelName",
    "InstitutionName",
    "MagneticFieldStrength",
    "ScanningSequence",
    "SequenceVariant",
    "MRAcquisitionType",
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "FlipAngle",
    "EchoTrainLength",
    "ImagingFrequency",
)
"""Elements that go from a file into `Image.header`, and from there into a derived file."""
