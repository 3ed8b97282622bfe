"""What each figure in the table is called, which way is better, and what it means in a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from recon.trust import RESIDUAL_LIMIT


@dataclass(frozen=True)
class Merit:
    """A row of the table.

    Parameters
    ----------
    label, meaning
        Its name and one sentence on how to read it.
    better
        ``"low"``, ``"high"``, or ``""`` where there is no best.
    write
        Number to text.
    limit
        Above it a value is marked as a reason for distrust.
    """

    label: str
    meaning: str
    better: str = ""
    write: Callable[[float], str] = lambda value: f"{value:.4g}"
    limit: float = math.inf

    def best(self, values: Sequence[float]) -> set[int]:
        """Return the positions of the best values as they are printed; none for fewer than two values."""
        finite = [i for i, value in enumerate(values) if math.isfinite(value)]
        if not self.better or len(finite) < 2:
            return set()
        choose = min if self.better == "low" else max
        winner = self.write(choose(values[i] for i in finite))
        return {i for i in finite if self.write(values[i]) == winner}

    def worst(self, values: Mapping[int, float]) -> int | None:
        """Return the slice with the worst value, None where no way is better or all are printed alike."""
        if len({self.write(value) for value in values.values()}) == 1:
            return None
        if self.better == "high":
            return min(values, key=lambda place: values[place])
        return max(values, key=lambda place: values[place]) if self.better or self.limit < math.inf else None


def _bytes(value: float) -> str:
    return f"{value / 2**20:.0f} MB" if value < 2**30 else f"{value / 2**30:.2f} GB"


def _fixed(digits: int, unit: str = "") -> Callable[[float], str]:
    return lambda value: f"{value:.{digits}f}{unit}"


MERITS: dict[str, Merit] = {
    "hold_out_error": Merit(
        "Hold-out error",
        "Some measured samples were kept from the method and predicted by it: the relative error of the prediction. "
        "Needs no reference; it includes the noise of those samples, so it never reaches 0.",
        "low",
        _fixed(3),
    ),
    "data_residual": Merit(
        "Data residual",
        "Distance of the image from the measurements over that of pure noise. 1 or somewhat below is right (the "
        "image takes up part of the noise); above 1.3 something does not fit, or aliasing is left. Not a ranking.",
        write=_fixed(2),
        limit=RESIDUAL_LIMIT,
    ),
    "misfit": Merit(
        "Misfit",
        "Distance of the image from the measurements over their norm; of noise-free ones it should be near 0.",
        write=_fixed(4),
    ),
    "psnr": Merit("PSNR", "Peak of the reference over the root mean square error, in dB.", "high", _fixed(2, " dB")),
    "ssim": Merit("SSIM", "Likeness of local structure to the reference; 1 is identical.", "high", _fixed(4)),
    "nmse": Merit("NMSE", "Squared error over the squared norm of the reference.", "low", _fixed(5)),
    "hfen": Merit("HFEN", "Error of the edges: relative error after a Laplacian-of-Gaussian filter.", "low", _fixed(4)),
    "seconds": Merit(
        "Time",
        "Wall time of the method alone; preparation and trust come on top.",
        "low",
        _fixed(2, " s"),
    ),
    "memory_growth_bytes": Merit(
        "Peak memory", "Growth of the process's memory through preparation, method and trust.", "low", _bytes
    ),
    "peak_memory_bytes": Merit("Peak memory", "Highest memory use of the process so far.", "low", _bytes),
}


def merit(name: str) -> Merit:
    """Return the row for a figure; one that is not known stands under its own name and has no best."""
    return MERITS.get(name) or Merit(name.replace("_", " "), "")
