"""Output files that are whole or absent: written beside their target, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recon.physics.errors import OutputError

_CURES = {
    errno.ENOSPC: "Free some space or choose another folder with --out",
    errno.EDQUOT: "Free some space or choose another folder with --out",
    errno.EACCES: "Choose another folder with --out",
    errno.EPERM: "Choose another folder with --out",
    errno.EROFS: "Choose another folder with --out",
}


def check_target(target: Path, *, overwrite: bool) -> None:
    """Raise `OutputError` where ``target`` exists and may not be replaced."""
    if target.exists() and not overwrite:
        raise OutputError("the output exists already", file=target, cure="Use --overwrite to replace it")


@contextmanager
def atomic_path(target: str | Path, *, overwrite: bool = False, folder: bool = False) -> Iterator[Path]:
    """Give a temporary path beside ``target`` that becomes ``target`` when the block ends well.

    Whatever ends the block otherwise (an exception, Ctrl-C, a full disk) removes the temporary path and
    leaves an existing target as it was. Of two processes that write one target, one whole file stays:
    without ``overwrite`` the first one's.

    Parameters
    ----------
    target
        The file (or, with ``folder``, the folder) to be written. Its parents are made.
    overwrite
        Replace an existing target.
    folder
        The target is a folder; the temporary path is an empty folder.

    Raises
    ------
    OutputError
        The target exists, the folder is read-only, the disk is full.
    """
    target = Path(target)
    check_target(target, overwrite=overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        workspace = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    except OSError as error:
        raise _output_error(error, target) from error
    try:
        temporary = workspace / target.name
        if folder:
            temporary.mkdir()
        yield temporary
        _publish(temporary, target, overwrite=overwrite, folder=folder)
    except OutputError:
        raise
    except OSError as error:
        raise _output_error(error, target) from error
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def _publish(temporary: Path, target: Path, *, overwrite: bool, folder: bool) -> None:
    if folder:
        if overwrite and target.exists():
            shutil.rmtree(target)
        check_target(target, overwrite=False)
        temporary.rename(target)
        return
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)
    if overwrite:
        temporary.replace(target)
        return
    try:
        os.link(temporary, target)  # fails where another process was first; a rename would replace its file
    except FileExistsError as error:
        raise OutputError(
            "another process wrote this output meanwhile", file=target, cure="Use --overwrite to replace it"
        ) from error
    except OSError:  # a file system without hard links
        check_target(target, overwrite=False)
        temporary.replace(target)


def _output_error(error: OSError, target: Path) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(
        f"the output cannot be written: {reason}",
        file=target,
        cure=_CURES.get(error.errno or 0, "Choose another folder with --out"),
    )
