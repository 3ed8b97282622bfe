"""HDF5 files written so that neither a full disk nor Ctrl-C reaches the HDF5 library in the middle.

The library cannot close a file whose writing failed: it crashes the process, at the latest when that ends. So
it writes into `_Sink`, which never fails; what went wrong is raised between two slices instead.
"""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import h5py


class _Sink(io.RawIOBase):
    """A file for h5py that remembers the first error and swallows what comes after it."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._position = self._size = 0
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, data: object) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        rest = view
        try:
            self._file.seek(self._position)
            while rest and self.error is None:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.error = error
        self._position += len(view)
        self._size = max(self._size, self._position)
        return len(view)

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        self._file.seek(self._position)
        count = self._file.readinto(view)
        view[count:] = bytes(len(view) - count)  # what a failed write left out
        self._position += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self._size = self._position if size is None else size
        try:
            if self.error is None:
                self._file.truncate(self._size)
        except OSError as error:
            self.error = error
        return self._size

    def flush(self) -> None:
        """Nothing is buffered."""


@contextmanager
def hdf5_output(path: Path) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Create an HDF5 file; give it and a function that raises what is waiting.

    That function is to be called after each slice. Signals whose handler is Python's (Ctrl-C) wait for it too.

    Raises
    ------
    OSError
        The disk is full, or what else the system says.
    """
    import h5py

    with _signals_wait() as raise_signal, path.open("x+b", buffering=0) as raw:
        sink = _Sink(raw)

        def raise_error() -> None:
            if sink.error is not None:
                raise sink.error

        def check() -> None:
            raise_error()
            raise_signal()

        try:
            with h5py.File(sink, "w") as file:
                yield file, check
        except Exception:
            raise_error()  # it is the cause, and says more than the library does
            raise
        raise_error()


@contextmanager
def _signals_wait() -> Iterator[Callable[[], None]]:
    """Hold back SIGINT and SIGTERM; what is given calls the handlers of those that came."""
    waiting: list[int] = []
    handlers: dict[int, Callable[[int, FrameType | None], object]] = {}

    def call() -> None:
        while waiting:
            number = waiting.pop()
            handlers[number](number, None)

    with ExitStack() as stack:
        stack.callback(call)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):
                    handlers[number] = handler
                    signal.signal(number, lambda number, _: waiting.append(number))
                    stack.callback(signal.signal, number, handler)
        yield call
