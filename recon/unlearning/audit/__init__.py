"""The audit: whether it is forgotten and the rest is whole, told so that a sceptic can check it."""

from recon.unlearning.audit.checks import Check, Thresholds
from recon.unlearning.audit.run import ROWS, Audit, audit
from recon.unlearning.audit.subjects import Effort

__all__ = ["ROWS", "Audit", "Check", "Effort", "Thresholds", "audit"]
