"""Write the XML header of ISMRMRD, which fastMRI's files carry too."""

from __future__ import annotations

from recon.datasets.scan import Scan

_SPACE = (
    "<{name}><matrixSize><x>{n[0]}</x><y>{n[1]}</y><z>{n[2]}</z></matrixSize>"
    "<fieldOfView_mm><x>{fov[0]:.10g}</x><y>{fov[1]:.10g}</y><z>{fov[2]:.10g}</z></fieldOfView_mm></{name}>"
)
_LIMIT = "<{name}><minimum>0</minimum><maximum>{last}</maximum><center>{center}</center></{name}>"


def header_xml(scan: Scan, axes: tuple[int, ...]) -> str:
    """Return the header of a scan.

    Parameters
    ----------
    scan
        The scan. Without a voxel size, 1 mm is written, because the header cannot do without, and a user
        parameter says so.
    axes
        The spatial axes, counted from the end, that are the header's x (readout), y and, in 3D, z.
    """
    encoded = scan.spatial if scan.trajectory is None else (scan.matrix or (1,) * len(axes))
    recon = scan.matrix or encoded
    spacing = scan.spacing or (1.0, 1.0, 1.0)
    matrices = [[int(sizes[axis]) for axis in axes] + [1] * (3 - len(axes)) for sizes in (encoded, recon)]
    if scan.matrix is None and scan.oversampling and scan.readout_axis == axes[0]:
        matrices[1][0] = round(matrices[1][0] / scan.oversampling)
    voxel = [spacing[axis] for axis in axes] + [spacing[0]] * (3 - len(axes))
    spaces = "".join(
        _SPACE.format(name=name, n=n, fov=[size * step for size, step in zip(n, voxel, strict=True)])
        for name, n in zip(("encodedSpace", "reconSpace"), matrices, strict=True)
    )
    limits = "".join(
        _LIMIT.format(name=f"kspace_encoding_step_{k}", last=matrices[0][k] - 1, center=matrices[0][k] // 2)
        for k in (1, 2)
    )
    trajectory = "cartesian" if scan.trajectory is None else "other"
    unknown = (
        "<userParameters><userParameterString><name>voxel_size</name><value>unknown</value>"
        "</userParameterString></userParameters>"
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        "<experimentalConditions><H1resonanceFrequency_Hz>"
        f"{_frequency(scan)}</H1resonanceFrequency_Hz></experimentalConditions>"
        f"<encoding>{spaces}<encodingLimits>{limits}</encodingLimits><trajectory>{trajectory}</trajectory></encoding>"
        f"{'' if scan.spacing else unknown}</ismrmrdHeader>"
    )


def _frequency(scan: Scan) -> int:
    """Return the resonance frequency in Hz; 0 where it is not known, since the header cannot do without."""
    try:
        return int(scan.header.get("experimentalConditions.H1resonanceFrequency_Hz", 0))
    except (TypeError, ValueError):
        return 0
