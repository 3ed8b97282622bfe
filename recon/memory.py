"""How much memory a piece of work takes on top of what the process holds already."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import threading
from pathlib import Path
from types import TracebackType

_STATM = Path("/proc/self/statm")
_INTERVAL = 0.002  # seconds between two looks


class PeakMemory:
    """Context that measures by how many bytes the resident memory grows at most.

    Memory that earlier work freed is given back to the system first; otherwise the work would reuse it
    and seem to take none. The growth is looked up every 2 ms, so a shorter peak can be missed. Where the
    system does not tell (no ``/proc``), `bytes` is NaN.

    >>> with PeakMemory() as memory:
    ...     block = bytearray(2**26)
    >>> memory.bytes > 2**25 or math.isnan(memory.bytes)
    True
    """

    def __init__(self) -> None:
        self.bytes = math.nan
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        gc.collect()
        with contextlib.suppress(AttributeError, OSError, TypeError):  # only glibc has it
            ctypes.CDLL(None).malloc_trim(0)
        self._start = self._peak = _resident()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._peak = max(self._peak, _resident())
        self._stop.set()
        self._thread.join()
        self.bytes = self._peak - self._start

    def _watch(self) -> None:
        while not self._stop.wait(_INTERVAL):
            self._peak = max(self._peak, _resident())


def _resident() -> float:
    try:
        return float(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, AttributeError, IndexError, ValueError):
        return math.nan
