"""The audit: whether it is forgotten and the rest is whole, told so that a sceptic can check it."""

from recon.unlearning.audit.checks import Check, Thresholds
from recon.unlearning.audit.result import Audit
from recon.unlearning.audit.run import CHEAP, ROWS, Auditor, audit
from recon.unlearning.audit.subjects import Effort

__all__ = ["CHEAP", "ROWS", "Audit", "Auditor", "Check", "Effort", "Thresholds", "audit"]
