"""A reconstructed image with what is needed to trust it: uncertainty, figures, provenance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float
from numpy import ndarray
from torch import Tensor

from recon.datasets import Image, Source, save


@dataclass(kw_only=True, eq=False)
class Result:
    """What `recon.reconstruct` returns.

    Parameters
    ----------
    image
        ``(slice, channel, y, x)`` in the units of the measurements: 1 channel real, 2 complex, ``2 * set``
        with several sets of coil maps, 3 colour.
    uncertainty
        ``(slice, y, x)`` standard deviation of the magnitude through measurement noise, or of models that draw
        posterior samples over these; NaN in slices for which it was not computed.
    interval
        ``(slice, y, x)``: the magnitude lies within this distance of the image's at the share of the object's
        pixels that the model was calibrated for (90 % as a rule, see `recon.conformal`); NaN where it was not
        computed, None for models without calibration.
    maps
        Further ``(slice, y, x)`` arrays by name: ``g_factor``, ``residual`` (k-space residual in units of
        the expected noise, root mean square over coils), ``mask``; of learned models ``bootstrap``
        (`recon.uncertainty.deviation`), ``null_space`` (`recon.hallucination.unsure_null_part`) and, where the
        file has a reference, ``hallucination`` (`recon.hallucination.hallucination_map`).
    metrics
        One value a slice by name (``hold_out_error``, ``data_residual``, ``psnr``, ...); NaN where a figure
        was not computed.
    provenance
        Input and its sha256, model and options, versions, seed, seconds, memory, steps; JSON-serialisable.
    spacing, affine
        Voxel size (z, y, x) in mm and voxel-to-RAS matrix, where the input told them.
    unit
        Of the values, where the input told it.
    levels
        ``"uint8"`` or ``"uint16"``: a PNG file holds the values as such numbers, rounded, not in a window.
    """

    image: Float[Tensor, "slice channel y x"]
    uncertainty: Float[Tensor, "slice y x"] | None = None
    interval: Float[Tensor, "slice y x"] | None = None
    maps: dict[str, Float[Tensor, "slice y x"]] = field(default_factory=dict)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    spacing: tuple[float, float, float] | None = None
    affine: Float[ndarray, "4 4"] | None = None
    unit: str | None = None
    levels: str | None = None

    @property
    def complex(self) -> Complex[Tensor, "slice y x"] | None:
        """Complex image, or None where the image is real or has several sets."""
        if self.image.shape[1] != 2:
            return None
        return torch.view_as_complex(self.image.movedim(1, -1).contiguous())

    @property
    def magnitude(self) -> Float[Tensor, "slice y x"]:
        """Magnitude image: root of the sum of squares over channels."""
        return self.image.square().sum(dim=1).sqrt()

    @property
    def warnings(self) -> list[str]:
        """What a reader of the image must know before trusting it."""
        return list(self.provenance.get("warnings", []))

    def summary(self) -> dict[str, float]:
        """Mean of each figure over the slices for which it was computed."""
        return {
            name: math.nan if np.isnan(values).all() else float(np.nanmean(values))
            for name, values in self.metrics.items()
        }

    def to_image(self) -> Image:
        """Return the image as `recon.datasets.Image`, with uncertainty, interval and maps beside it."""
        maps: dict[str, ndarray] = {name: as_numpy(value) for name, value in self.maps.items()}
        for name in ("uncertainty", "interval"):
            if (values := getattr(self, name)) is not None:
                maps[name] = as_numpy(values)
        path = self.provenance.get("input", {}).get("path")
        return Image(
            pixels=as_numpy(self._pixels()),
            source=Source("recon", Path(path) if path else None),
            spacing=self.spacing,
            affine=self.affine,
            unit=self.unit,
            maps=maps,
            header={"provenance": self.provenance, "metrics": self.metrics},
        )

    def _pixels(self) -> Tensor:
        """Return ``(slice, y, x)``, real with its sign or complex, or ``(slice, y, x, 3)``."""
        channels = self.image.shape[1]
        if channels in (1, 3):
            return self.image[:, 0] if channels == 1 else self.image.movedim(1, -1)
        return self.magnitude if self.complex is None else self.complex

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the image by the ending of ``path``: .h5, .cfl, .nii.gz, .dcm, .fits, .npz, .png.

        Raises
        ------
        OptionError
            An ending that no writer answers to.
        OutputError
            The target exists and ``overwrite`` is false, or it cannot be written.
        """
        image = self.to_image()
        if self.levels is not None and Path(path).suffix.lower() == ".png":
            top = np.iinfo(self.levels).max
            image = replace(image, pixels=np.round(np.asarray(image.pixels)).clip(0, top).astype(self.levels))
        return save(image, path, overwrite=overwrite)

    def report(self, path: str | Path, *, overwrite: bool = False, others: Mapping[str, Result] | None = None) -> Path:
        """Write one self-contained HTML page; ``others`` (by name) stand beside this result.

        Raises
        ------
        OutputError
            The target exists and ``overwrite`` is false, or it cannot be written.
        """
        from recon.report import write_report

        name = str(self.provenance.get("model", {}).get("name", "image"))
        return write_report({name: self, **(others or {})}, path, overwrite=overwrite)


def as_numpy(tensor: Tensor) -> ndarray:
    """Return a tensor on any device, with or without gradient, as a numpy array."""
    return tensor.detach().cpu().resolve_conj().numpy()


def stack_metrics(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Turn one mapping a slice into one list a figure, NaN where a slice lacks it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [float(row.get(name, math.nan)) for row in rows] for name in names}
