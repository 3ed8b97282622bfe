"""What an audit found: figures, bars, score; as JSON, and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recon.datasets.atomic import atomic_path
from recon.json_text import finite, json_text
from recon.unlearning.audit.checks import FORGETTING, Check
from recon.unlearning.audit.subjects import Picture


@dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
    """What an audit found.

    Parameters
    ----------
    figures
        By row; plain numbers, texts, lists and dictionaries.
    cannot
        Figures that cannot be given, and why.
    checks
        The bars that could be judged.
    score
        ``gap closed`` and its ``parts``.
    notes
        What a reader should know, a line each.
    settings
        Rows, seed, sizes of the sets.
    pictures
        For the report.
    """

    figures: Mapping[str, Any]
    cannot: Mapping[str, str]
    checks: tuple[Check, ...]
    score: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether all bars that could be judged were met, one of forgetting among them."""
        return not self.failed and any(check.name in FORGETTING for check in self.checks)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the bars that were missed."""
        return tuple(check.name for check in self.checks if not check.passed)

    def as_dict(self) -> dict[str, Any]:
        """All but the pictures, as JSON has it: numbers that are not finite become None."""
        record = {
            "passed": self.passed,
            "failed": list(self.failed),
            "score": self.score,
            "checks": [asdict(check) for check in self.checks],
            "cannot": self.cannot,
            "notes": list(self.notes),
            "settings": self.settings,
            "figures": self.figures,
        }
        return {key: finite(value) for key, value in record.items()}

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write JSON.

        Raises
        ------
        OutputError
            The file exists, or cannot be written.
        """
        with atomic_path(path, overwrite=overwrite) as temporary:
            temporary.write_text(json_text(self.as_dict()) + "\n", encoding="utf-8")

    def report(self, path: str | Path, *, others: Mapping[str, Audit] | None = None, overwrite: bool = False) -> None:
        """Write one HTML file that needs no other.

        Parameters
        ----------
        path
            To be written.
        others
            Audits of other networks by name, for the plane of quality, forgetting and cost.
        overwrite
            Replace an existing file.

        Raises
        ------
        OutputError
            The file exists, or cannot be written.
        """
        from recon.unlearning.audit.page import audit_page

        with atomic_path(path, overwrite=overwrite) as temporary:
            temporary.write_text(audit_page(self, others or {}), encoding="utf-8")
