"""What the verbs share that write what they found as a page or as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from recon.cli.common import OUT, print_json
from recon.physics.errors import OptionError


@runtime_checkable
class Findings(Protocol):
    """What was found."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and numbers."""
        ...

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write JSON."""
        ...

    def report(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write a page."""
        ...


def check_report(out: Path | None, *, overwrite: bool) -> None:
    """Refuse a report, before anything is computed, that is neither page nor JSON or that may not be replaced."""
    from recon.datasets.atomic import check_target

    if out is not None:
        if out.suffix not in (".html", ".json"):
            raise OptionError("the report is a page or JSON", found=out.name, expected="FILE.html or FILE.json")
        check_target(out, overwrite=overwrite)


def write_report(found: Findings, out: Path | None, *, overwrite: bool) -> None:
    """Write a page or JSON, by the ending, where one was asked for."""
    if out is not None:
        write = found.report if out.suffix == ".html" else found.save
        write(out, overwrite=overwrite)


def print_findings(found: Findings, out: Path | None) -> None:
    """Print JSON, with the name of the report if there is one."""
    print_json(found.as_dict() | ({} if out is None else {"output": str(out)}))


def print_output(out: Path | None) -> None:
    """Print the name of the report, if there is one."""
    if out is not None:
        OUT.print(str(out), markup=False, highlight=False, soft_wrap=True)
