"""JSON that every reader takes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping


def json_text(value: object) -> str:
    """Return JSON in lines; NaN and infinities become null, what JSON has no form for its text."""
    return json.dumps(finite(value), indent=2, default=str)


def finite(value: object) -> object:
    """Return plain values with every NaN and infinity replaced by None, which JSON can say, and keys as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
