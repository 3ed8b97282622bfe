"""The errors that a user can meet; the bottom layer, so that every other layer can raise them."""

from __future__ import annotations

from os import PathLike, fspath


class ReconError(Exception):
    """A problem with what the user gave, told in one line.

    Parameters
    ----------
    problem
        What is wrong, in plain words and without a full stop.
    file
        The file at fault.
    found, expected
        What was there and what should have been.
    cure
        What the user can do about it.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | PathLike[str] | None = None,
        found: object = None,
        expected: object = None,
        cure: str | None = None,
    ) -> None:
        self.problem, self.file, self.found, self.expected, self.cure = problem, file, found, expected, cure
        text = problem if file is None else f"{fspath(file)}: {problem}"
        if found is not None:
            text += f"; found {found}"
        if expected is not None:
            text += f"; expected {expected}"
        if cure is not None:
            text += f". {cure}"
        super().__init__(" ".join(text.split()))


class FileFormatError(ReconError):
    """A file that is absent, truncated, or not what its format says."""


class ShapeError(ReconError, ValueError):
    """An array whose shape does not fit."""


class DTypeError(ReconError, TypeError):
    """An array whose dtype does not fit."""


class DataError(ReconError, ValueError):
    """Samples that cannot be used: NaN, infinite, all zero."""


class MaskError(ReconError, ValueError):
    """A sampling mask that is absent, empty or does not fit the k-space."""


class CalibrationError(ReconError, ValueError):
    """Coil maps, noise or kernels that cannot be estimated from the data."""


class CheckpointError(ReconError):
    """Weights that are damaged, unsafe or of another model."""


class OptionError(ReconError, ValueError):
    """An option, name or combination of them that does not exist."""


class OutputError(ReconError, OSError):
    """An output that cannot be written: exists already, read-only folder, full disk."""


class PSFWarning(UserWarning):
    """A point-spread function was changed before use: normalised, moved to its centre, or missing."""


class MissingDependencyError(ReconError, ImportError):
    """An optional package that a format needs and that is not installed."""


class OperatorError(ReconError, ValueError):
    """An operator that is not linear, or whose adjoint is not its adjoint."""
