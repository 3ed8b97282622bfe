"""Deblurred stamps with their catalogue: what `recon.reconstruct` returns for galaxies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy import ndarray
from torch import Tensor

from recon.datasets import Stamps
from recon.datasets.catalogue import FITS_ENDINGS, CatalogueWriter
from recon.datasets.stamp_output import StampFile
from recon.galaxies.catalogue import UNMEASURED, about, units
from recon.galaxies.parts import Part
from recon.galaxies.responses import NAMES, of_columns
from recon.physics.errors import OptionError
from recon.shear import MeanShear, mean_shear


@dataclass(kw_only=True, eq=False)
class StampResult:
    """Deblurred stamps and what was measured on them, one row an object, none left out.

    Where a spool was given, the parts stay on disk: `save` and `save_catalogue` then take as much memory as one of
    them, `image` and `catalogue` read all.

    Parameters
    ----------
    stamps
        What was deblurred.
    parts
        Of neighbouring objects, in order.
    provenance
        Input and its sha256, model and options, versions, seed, seconds, memory, steps; JSON-serialisable.
    """

    stamps: Stamps
    parts: Sequence[Part]
    provenance: dict[str, Any]

    def __len__(self) -> int:
        return self.stamps.n

    @cached_property
    def image(self) -> Float[Tensor, "n 1 y x"]:
        """Deblurred stamps in the units of the data; NaN where there is none."""
        return torch.from_numpy(np.concatenate([part.image for part in self.parts]))[:, None]

    @cached_property
    def catalogue(self) -> Any:
        """All rows as an `astropy.table.Table` with units; ``flags`` as `recon.galaxies.catalogue.ObjectFlag`."""
        from astropy.table import Table

        rows = list(self._rows())
        table = Table({name: np.concatenate([row[name] for row in rows]) for name in rows[0]})
        described, of_columns = about(), units(self.stamps.units)
        for name in table.colnames:
            table[name].description, table[name].unit = described[name], of_columns.get(name)
        return table

    @property
    def metrics(self) -> dict[str, list[float]]:
        """One value an object: ``chi2``, the mean squared residual over the variance of the noise."""
        return {"chi2": [float(value) for part in self.parts for value in part.columns["chi2"]]}

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before trusting the result."""
        return list(self.provenance["warnings"])

    def summary(self) -> dict[str, float]:
        """Return the median chi2, and how many objects have no shape."""
        return {"chi2": self.provenance["chi2"], "unmeasured": self.provenance["unmeasured"]}

    def mean_shear(self) -> MeanShear:
        """Return the mean shear of all objects with responses, calibrated by them [Sheldon & Huff 2017, eq. 9-14].

        Raises
        ------
        OptionError
            The result has no responses.
        DataError
            No object has a shape.
        """
        if not self.provenance["options"]["responses"]:
            raise OptionError("the shapes have no responses to shear", cure="Ask for them with responses=True")
        rows = [part.columns for part in self.parts]
        return mean_shear(
            of_columns({name: torch.from_numpy(np.concatenate([row[name] for row in rows])) for name in NAMES})
        )

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the deblurred stamps as `recon.datasets.stamp_output.StampFile` has them.

        Raises
        ------
        OptionError
            The path does not end in .fits or .fit.
        OutputError
            The target exists and ``overwrite`` is false, or it cannot be written.
        """
        path = Path(path)
        if not path.name.lower().endswith(FITS_ENDINGS):
            raise OptionError(
                "stamps are not written in this format", file=path, found=path.suffix or "no ending", expected=".fits"
            )
        with StampFile(path, self.stamps, how=self._how(), overwrite=overwrite) as file:
            for part in self.parts:
                file.append(part.image, part.columns["flags"])
        return path

    def save_catalogue(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the catalogue as FITS or ECSV table; errors as those of `save`."""
        with CatalogueWriter(
            path, units=units(self.stamps.units), about=about(), meta=self.provenance, overwrite=overwrite
        ) as catalogue:
            for rows in self._rows():
                catalogue.append(rows)
        return Path(path)

    def _rows(self) -> Iterator[dict[str, Shaped[ndarray, " b"]]]:
        """Return the columns of each part, what the input says of its objects before them."""
        ids, positions = self.stamps.ids, self.stamps.positions
        assert ids is not None
        if ids.dtype.kind == "U":  # of one width in all parts
            ids = np.char.encode(ids, "utf-8")
        start = 0
        for part in self.parts:
            columns = part.columns
            rows = slice(start, start + len(columns["flags"]))
            start = rows.stop
            found: dict[str, ndarray] = {"id": ids[rows]}
            if positions is not None:
                for axis, name in enumerate("xy"):
                    middle = self.stamps.shape[1 - axis] // 2
                    found[f"{name}_image"] = positions[rows, axis] + columns[name] - middle
            yield found | columns

    def _how(self) -> dict[str, Any]:
        told = self.provenance
        return {
            "model": told["model"]["name"],
            "recon": told["versions"]["recon-imaging"],
            "input": told["input"]["path"],
            "sha256": told["input"]["sha256"],
            **{key: value for key, value in told["options"].items() if key != "model"},
        }


def unmeasured(flags: Shaped[ndarray, " b"]) -> int:
    """Count the objects without shape."""
    return int(((flags & UNMEASURED) != 0).sum())
