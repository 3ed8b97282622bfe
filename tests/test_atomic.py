"""Outputs are whole or absent, whatever ends the writing."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recon.datasets import atomic
from recon.datasets.atomic import atomic_path
from recon.physics.errors import DataError, OutputError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def touch(target: Path) -> None:
    with atomic_path(target) as temporary:
        temporary.touch()


@contextmanager
def nobody() -> Iterator[None]:
    """Be a user without special rights, which permissions bind."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep" / "out.bin"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"all of it")
        assert not target.exists()
        assert temporary.parent.parent == target.parent, "must be on the same disk"
        assert temporary.name == target.name
    assert target.read_bytes() == b"all of it"
    assert names(target.parent) == ["out.bin"]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "out") as temporary:
        temporary.touch()
    (tmp_path / "usual").touch()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode
    with atomic_path(tmp_path / "folder", folder=True) as temporary:
        pass
    (tmp_path / "usual-folder").mkdir()
    assert (tmp_path / "folder").stat().st_mode == (tmp_path / "usual-folder").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError, DataError])
@pytest.mark.parametrize("folder", [False, True])
def test_an_exception_leaves_nothing(tmp_path: Path, error: type[BaseException], folder: bool) -> None:
    target = tmp_path / "new" / "out.bin"

    def interrupted() -> None:
        with atomic_path(target, folder=folder) as temporary:
            (temporary / "part" if folder else temporary).write_bytes(b"half")
            raise error("in the middle")

    with pytest.raises(error):
        interrupted()
    assert names(tmp_path) == [], "not even the folder that was made for it"


@pytest.mark.parametrize("folder", [False, True])
def test_an_exception_keeps_what_was_there(tmp_path: Path, folder: bool) -> None:
    target = tmp_path / "out"
    with atomic_path(target, folder=folder) as temporary:
        (temporary / "a" if folder else temporary).write_text("old")

    def interrupted() -> None:
        with atomic_path(target, folder=folder, overwrite=True) as temporary:
            (temporary / "a" if folder else temporary).write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (target / "a" if folder else target).read_text() == "old"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("folder", [False, True])
def test_nothing_is_overwritten_unless_asked(tmp_path: Path, folder: bool) -> None:
    target = tmp_path / "out"
    for text in ("first", "second"):
        with atomic_path(target, folder=folder, overwrite=text == "second") as temporary:
            (temporary / "a" if folder else temporary).write_text(text)
    assert (target / "a" if folder else target).read_text() == "second"
    with pytest.raises(OutputError, match=r"exists already.*--overwrite"), atomic_path(target, folder=folder):
        pytest.fail("the block must not even start")
    assert names(tmp_path) == ["out"]


def test_a_dangling_link_counts_as_existing(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="exists already"), atomic_path(tmp_path / "out"):
        pass


def test_a_file_never_replaces_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="a folder of this name"), atomic_path(tmp_path / "out", overwrite=True):
        pass
    assert (tmp_path / "out").is_dir()


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """The kernel's own ENOSPC, from a device that is always full."""

    def write() -> None:
        with atomic_path(tmp_path / "out") as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_bytes(b"x")

    with pytest.raises(OutputError, match=r"No space left.*Free some space"):
        write()
    assert names(tmp_path) == []


@pytest.mark.parametrize("writer", ["plain", "h5py"])
def test_a_file_that_may_not_grow(tmp_path: Path, writer: str) -> None:
    """A limit on the file size stands for a disk that fills while a library writes."""
    target = tmp_path / "out.h5"

    def write() -> None:
        with atomic_path(target) as temporary:
            if writer == "plain":
                temporary.write_bytes(bytes(1 << 20))
            else:
                import h5py
                import numpy as np

                with h5py.File(temporary, "w") as file:
                    file["data"] = np.ones(1 << 17)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(OutputError, match=r"out.h5: the output cannot be written: File too large.*--out"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []


def test_hdf5_tells_a_full_disk_as_runtime_error(tmp_path: Path) -> None:
    """h5py raises a RuntimeError where closing a file finds the disk full."""
    message = "Can't decrement id ref count (file write failed: errno = 28, error message = 'No space left')"
    with pytest.raises(OutputError, match=r"No space left on device.*Free some space"), atomic_path(tmp_path / "out"):
        raise RuntimeError(message)
    with pytest.raises(RuntimeError, match="something else"), atomic_path(tmp_path / "out"):
        raise RuntimeError("something else")
    assert names(tmp_path) == []


def test_a_full_disk_while_publishing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"), atomic_path(tmp_path / "out") as temporary:
        temporary.write_text("whole, but not on the disk")
    assert names(tmp_path) == []


def test_a_read_only_folder_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with (
            nobody(),
            pytest.raises(OutputError, match=r"Permission denied.*--out"),
            atomic_path(tmp_path / "a" / "out"),
        ):
            pass
    finally:
        tmp_path.chmod(0o755)
    assert names(tmp_path) == []


@pytest.mark.parametrize("parent", ["a-file", "/proc/recon"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, parent: str) -> None:
    (tmp_path / "a-file").touch()
    with pytest.raises(OutputError, match=r"cannot be written.*--out"), atomic_path(tmp_path / parent / "out"):
        pass
    assert names(tmp_path) == ["a-file"]


def test_long_names_work(tmp_path: Path) -> None:
    target = tmp_path / ("ä" * 120 + ".bin")
    with atomic_path(target) as temporary:
        temporary.write_text("x")
    assert target.read_text() == "x"
    with pytest.raises(OutputError, match="shorter name"), atomic_path(tmp_path / ("x" * 300)) as temporary:
        temporary.write_text("x")
    assert names(tmp_path) == [target.name]


class TestPairs:
    """A target with a companion: both or none."""

    def write(self, target: Path, text: str, *, overwrite: bool = False, fail: bool = False) -> None:
        with atomic_path(target, overwrite=overwrite, companions=["a.hdr"]) as temporary:
            temporary.write_text(text)
            temporary.with_suffix(".hdr").write_text(text)
            if fail:
                raise KeyboardInterrupt

    def test_both_appear_and_are_replaced(self, tmp_path: Path) -> None:
        for text, overwrite in (("one", False), ("two", True)):
            self.write(tmp_path / "a.cfl", text, overwrite=overwrite)
            assert [(tmp_path / name).read_text() for name in names(tmp_path)] == [text, text]
        assert names(tmp_path) == ["a.cfl", "a.hdr"]

    def test_none_after_an_interrupt(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            self.write(tmp_path / "a.cfl", "one", fail=True)
        assert names(tmp_path) == []

    def test_an_existing_companion_counts(self, tmp_path: Path) -> None:
        (tmp_path / "a.hdr").write_text("someone's")
        with pytest.raises(OutputError, match=r"a.hdr: the output exists already"):
            self.write(tmp_path / "a.cfl", "one")
        assert (tmp_path / "a.hdr").read_text() == "someone's"
        assert names(tmp_path) == ["a.hdr"]

    def test_none_where_the_second_cannot_be_published(self, tmp_path: Path) -> None:
        def overtaken() -> None:
            with atomic_path(tmp_path / "a.cfl", companions=["a.hdr"]) as temporary:
                temporary.write_text("ours")
                temporary.with_suffix(".hdr").write_text("ours")
                (tmp_path / "a.hdr").write_text("theirs")

        with pytest.raises(OutputError, match="another process"):
            overtaken()
        assert names(tmp_path) == ["a.hdr"]
        assert (tmp_path / "a.hdr").read_text() == "theirs"


def _compete(target: Path, folder: bool, overwrite: bool, letter: str, barrier: object, results: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    try:
        with atomic_path(target, folder=folder, overwrite=overwrite) as temporary:
            for part in ("1", "2"):
                path = temporary / part if folder else temporary
                with path.open("a") as file:
                    file.write(letter * 50000)
        results.put((letter, "ok"))  # type: ignore[attr-defined]
    except OutputError as error:
        results.put((letter, str(error)))  # type: ignore[attr-defined]


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("overwrite", [False, True])
def test_two_processes_write_one_output(tmp_path: Path, folder: bool, overwrite: bool) -> None:
    context = multiprocessing.get_context("fork")
    for round_ in range(5):
        target = tmp_path / f"out{round_}"
        barrier, results = context.Barrier(4), context.Queue()
        workers = [
            context.Process(target=_compete, args=(target, folder, overwrite, letter, barrier, results))
            for letter in "abcd"
        ]
        for worker in workers:
            worker.start()
        told = dict(results.get(timeout=30) for _ in workers)
        for worker in workers:
            worker.join()
        content = "".join(path.read_text() for path in sorted(target.iterdir())) if folder else target.read_text()
        assert len(content) == 100000
        assert set(content) == {content[0]}, "one whole output, not a mixture"
        assert told[content[0]] == "ok"
        if overwrite and not folder:
            assert set(told.values()) == {"ok"}
        if not overwrite:
            assert list(told.values()).count("ok") == 1
            assert all("overwrite" in text for text in told.values() if text != "ok")
    assert names(tmp_path) == [f"out{k}" for k in range(5)], "no leftovers"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_nothing(tmp_path: Path, number: signal.Signals) -> None:
    program = textwrap.dedent(f"""
        import time
        from recon.datasets.atomic import atomic_path
        with atomic_path({str(tmp_path / "new" / "out")!r}) as temporary:
            temporary.write_text("half")
            print("writing", flush=True)
            time.sleep(60)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        assert (tmp_path / "new").is_dir()
        process.send_signal(number)
        process.wait(timeout=20)
    assert process.returncode != 0
    assert names(tmp_path) == []


def test_the_handler_of_others_stays(tmp_path: Path) -> None:
    def other(*_: object) -> None:
        raise AssertionError

    before = signal.signal(signal.SIGTERM, other)
    try:
        with atomic_path(tmp_path / "out") as temporary:
            temporary.touch()
            assert signal.getsignal(signal.SIGTERM) is other
        assert signal.getsignal(signal.SIGTERM) is other
    finally:
        signal.signal(signal.SIGTERM, before)
    with atomic_path(tmp_path / "out2") as temporary:
        temporary.touch()
    assert signal.getsignal(signal.SIGTERM) is before
