"""From raw measurements to a trusted image.

>>> import recon
>>> scan = recon.datasets.open("scan.h5")           # doctest: +SKIP
>>> result = recon.reconstruct(scan, model="auto")  # doctest: +SKIP
>>> result.save("image.nii.gz")                     # doctest: +SKIP
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recon import calibration, datasets, metrics, models, physics
    from recon.finetuning.run import finetune
    from recon.galaxies.result import StampResult
    from recon.physics.errors import ReconError
    from recon.physics_spec import parse_physics
    from recon.pipeline import reconstruct
    from recon.result import Result
    from recon.unlearning.attribution.run import attribute
    from recon.unlearning.audit.run import audit
    from recon.unlearning.data_audit import audit_data
    from recon.unlearning.run import unlearn
    from recon.zoo import load_model

try:
    __version__ = version("recon-imaging")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"

# Public names and the modules they come from; imported at first use, so that `import recon` stays light.
_LAZY = {
    "ReconError": "recon.physics.errors",
    "Result": "recon.result",
    "StampResult": "recon.galaxies.result",
    "attribute": "recon.unlearning.attribution.run",
    "audit": "recon.unlearning.audit.run",
    "audit_data": "recon.unlearning.data_audit",
    "finetune": "recon.finetuning.run",
    "load_model": "recon.zoo",
    "parse_physics": "recon.physics_spec",
    "reconstruct": "recon.pipeline",
    "unlearn": "recon.unlearning.run",
}
_MODULES = ("calibration", "datasets", "metrics", "models", "physics")


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"recon.{name}")
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'recon' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY, *_MODULES])


__all__ = [
    "ReconError",
    "Result",
    "StampResult",
    "__version__",
    "attribute",
    "audit",
    "audit_data",
    "calibration",
    "datasets",
    "finetune",
    "load_model",
    "metrics",
    "models",
    "parse_physics",
    "physics",
    "reconstruct",
    "unlearn",
]
