"""What a result came from: input, model, options, versions, steps, time and memory."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recon.scan_plan import Plan
    from recon.slices import SliceResult

PACKAGES = ("recon-imaging", "torch", "deepinv", "numpy")


def provenance(plan: Plan, done: list[SliceResult], seconds: float) -> dict[str, Any]:
    """Return what the result came from and how, JSON-serialisable."""
    scan = plan.scan
    first = done[0].report
    return {
        "input": {
            "path": None if scan.source.path is None else str(scan.source.path),
            "sha256": scan.source.sha256,
            "format": scan.source.format,
            "shape": list(scan.kspace.shape),
        },
        "model": {
            "name": first["model"],
            "why": first["why"],
            "details": [item.report["details"] for item in done],
        }
        | ({} if first["calibration"] is None else {"calibration": first["calibration"]}),
        "options": plan.options(),
        "slices": plan.wanted,
        "steps": first["steps"],
        "notes": unique(note for item in done for note in item.report["notes"]),
        "warnings": unique(
            f"slice {item.report['index']}: {text}" for item in done for text in item.report["warnings"]
        ),
        "seconds": {"total": seconds}
        | {part: sum(item.report["seconds"][part] for item in done) for part in ("prepare", "model", "trust")},
        **machine(PACKAGES),
    }


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """Return peak memory of this process and the versions of Python and of packages."""
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "versions": versions,
    }


def unique(lines: Iterable[str]) -> list[str]:
    """Return each line once, in order."""
    return list(dict.fromkeys(lines))
