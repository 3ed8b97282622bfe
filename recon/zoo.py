"""Models by name, and the choice of one for a scan."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from recon import models
from recon.physics.errors import MaskError, OptionError

if TYPE_CHECKING:
    from deepinv.models import Reconstructor

    from recon.prepare import Problem


def load_model(name: str) -> Reconstructor:
    """Return a model by the name under which it is registered.

    Parameters
    ----------
    name
        One of ``recon.models()``.

    Raises
    ------
    OptionError
        No model of this name.
    """
    return models.registry[name]()


def choose(problem: Problem) -> tuple[str, str]:
    """Return the name of the model for a prepared slice, and why."""
    from recon.models.pocs import partial_axis
    from recon.physics import MultiCoilMRI

    physics = problem.physics
    if not isinstance(physics, MultiCoilMRI):
        return "cg-sense", "samples off the grid"
    if bool(physics.mask.all()):
        return "zero-filled", "fully sampled: the coil-combined inverse Fourier transform is the image"
    with suppress(MaskError):  # partial Fourier with gaps in it is undersampling
        if partial_axis(physics.mask) is not None:
            return "pocs", "partial Fourier, complete otherwise"
    return "l1-wavelet", "undersampled"


def describe(name: str) -> dict[str, str]:
    """Return name, one-line summary and full description of a model."""
    documentation = (models.registry[name].__doc__ or "").strip()
    if not documentation:
        raise OptionError(f"model {name!r} has no description")
    summary = documentation.splitlines()[0].rstrip(".")
    return {"name": name, "summary": summary, "description": documentation}
