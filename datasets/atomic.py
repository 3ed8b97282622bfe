"""Output files that are whole or absent: written beside their target, then renamed."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from recon.physics.errors import OutputError

_OTHER_FOLDER = "Choose another folder with --out"
_MORE_SPACE = "Free some space or choose another folder with --out"
_CURES = {
    errno.ENOSPC: _MORE_SPACE,
    errno.EDQUOT: _MORE_SPACE,
    errno.EFBIG: "Choose a disk that takes files of this size with --out",
    errno.ENAMETOOLONG: "Choose a shorter name with --out",
}
_HDF5_ERRNO = re.compile(r"errno = (\d+)")  # how the HDF5 library tells what the system said


def check_target(target: Path, *, overwrite: bool) -> None:
    """Raise `OutputError` where ``target`` exists and may not be replaced."""
    if os.path.lexists(target) and not overwrite:
        raise OutputError("the output exists already", file=target, cure="Use --overwrite to replace it")


@contextmanager
def atomic_path(
    target: str | Path,
    *,
    overwrite: bool = False,
    folder: bool = False,
    companions: Sequence[str] = (),
) -> Iterator[Path]:
    """Give a temporary path beside ``target`` that becomes ``target`` when the block ends well.

    Whatever ends the block otherwise (an exception, Ctrl-C, a termination signal, a full disk) removes the
    temporary path and the parents that were made for it, and leaves an existing target as it was. Of two
    processes that write one target, one whole file stays: without ``overwrite`` the first one's.

    Parameters
    ----------
    target
        The file (or, with ``folder``, the folder) to be written. Its parents are made.
    overwrite
        Replace an existing target.
    folder
        The target is a folder; the temporary path is an empty folder.
    companions
        Names of files that belong to ``target`` and stand beside it (``"scan.hdr"`` for ``scan.cfl``). The
        block writes them beside the temporary path. They appear after the target and go before it, so that a
        pair is never made of an old and a new half.

    Raises
    ------
    OutputError
        The target exists, the folder is read-only, the disk is full.
    """
    target = Path(target)
    beside = [target.with_name(name) for name in companions]
    for path in (target, *beside):
        check_target(path, overwrite=overwrite)
        if os.path.isdir(path) and not (folder and path == target):  # noqa: PTH112 - Path.is_dir raises where it may not look
            raise OutputError("a folder of this name is in the way", file=path, cure=_OTHER_FOLDER)
    missing = [parent for parent in target.parents if not os.path.lexists(parent)]
    with _termination_as_exception():
        workspace: Path | None = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            workspace = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", suffix=".part", dir=target.parent))
            temporary = workspace / target.name
            if folder:
                temporary.mkdir()
            yield temporary
            _flush(workspace)
            if folder:
                _publish_folder(temporary, target, overwrite=overwrite)
            else:
                _publish_files([temporary, *(workspace / path.name for path in beside)], target, overwrite=overwrite)
        except OutputError:
            raise
        except OSError as error:
            raise _output_error(error, error.errno, target) from error
        except RuntimeError as error:
            if found := _HDF5_ERRNO.search(str(error)):
                raise _output_error(error, int(found[1]), target) from error
            raise
        finally:
            if workspace is not None:
                shutil.rmtree(workspace, ignore_errors=True)
            for parent in missing:  # only those that stayed empty go
                with suppress(OSError):
                    parent.rmdir()


def _flush(workspace: Path) -> None:
    """Bring everything to the disk, so that a name never stands for data that a power cut lost."""
    for path in workspace.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def _publish_files(temporaries: list[Path], target: Path, *, overwrite: bool) -> None:
    """Move ``temporaries`` beside one another under their final names, all or none."""
    if overwrite:
        for path in temporaries[1:]:
            target.with_name(path.name).unlink(missing_ok=True)
        for path in temporaries:
            path.replace(target.with_name(path.name))
        return
    done: list[Path] = []
    try:
        for path in temporaries:
            final = target.with_name(path.name)
            _move_to_new_name(path, final)
            done.append(final)
    except BaseException:
        for path in reversed(done):
            path.unlink(missing_ok=True)
        raise


def _move_to_new_name(temporary: Path, target: Path) -> None:
    try:
        os.link(temporary, target)  # fails where another process was first; a rename would replace its file
    except FileExistsError as error:
        raise _overtaken(target) from error
    except OSError:  # a file system without hard links
        check_target(target, overwrite=False)
        temporary.rename(target)


def _publish_folder(temporary: Path, target: Path, *, overwrite: bool) -> None:
    """Rename the folder; an old one is moved aside first, comes back where that fails, and is removed later."""
    aside = temporary.with_name("replaced")
    if overwrite:
        with suppress(FileNotFoundError):
            target.rename(aside)
    else:
        check_target(target, overwrite=False)
    try:
        temporary.rename(target)
    except BaseException as error:
        if aside.exists() and not target.exists():
            aside.rename(target)
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise _overtaken(target) from error
        raise


def _overtaken(target: Path) -> OutputError:
    return OutputError("another process wrote this output meanwhile", file=target, cure="Use --overwrite to replace it")


def _output_error(error: Exception, number: int | None, target: Path) -> OutputError:
    reason = os.strerror(number) if number else str(error)
    return OutputError(
        f"the output cannot be written: {reason}", file=target, cure=_CURES.get(number or 0, _OTHER_FOLDER)
    )


@contextmanager
def _termination_as_exception() -> Iterator[None]:
    """Let SIGTERM unwind the block instead of killing the process before it has tidied up.

    Only where nobody else handles the signal, and only in the main thread, where Python allows it.
    """
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, _exit_on_signal)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
