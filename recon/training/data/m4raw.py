"""M4Raw: brains at 0.3 T, 4 coils, each contrast scanned several times [Lyu 2023, 10.1038/s41597-023-02181-4].

Files are fastMRI's, 18 slices of 256 x 256. Their names end in the contrast and the number of the repetition:
``2022061003_T201.h5``, ``2022061003_T202.h5``, ``2022061003_FLAIR01.h5``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from recon.training.data.fastmri import open_fastmri
from recon.training.data.raw import Layout, RawData
from recon.training.data.slices import Sampling

_NAME = re.compile(r"(.+_(?:T1|T2|FLAIR|GRE))(\d\d)")


def repetitions(path: Path, files: Sequence[Path]) -> list[Path]:
    """Return the scans of one subject and contrast, of which a file is one."""
    own = _NAME.fullmatch(path.stem)
    if own is None:
        return [path]
    names = ((other, _NAME.fullmatch(other.stem)) for other in files if other.parent == path.parent)
    return [other for other, name in names if name is not None and name[1] == own[1]]


class M4RawData(RawData):
    """Each repetition by itself is undersampled; the target is the mean of all, which has less noise."""

    layout: ClassVar[Layout] = Layout("M4Raw", (".h5",), open_fastmri, repetitions)
    benchmark: ClassVar[Sampling] = Sampling(masks=("equispaced_fraction", "random"), accelerations=(2.0, 3.0, 4.0))
    organ: ClassVar[tuple[str, ...]] = ("brain",)
    terms: ClassVar[str] = "the terms of M4Raw bind those who train on it"
