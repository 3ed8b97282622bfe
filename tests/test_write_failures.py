"""Writers that are interrupted, run out of disk or memory, or find their target taken: whole files or none."""

from __future__ import annotations

import resource
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from written import IMAGES, SCANS, make_image

from recon.datasets import Scan, Source, save
from recon.datasets import open as open_any
from recon.physics.errors import DataError, OutputError


class Interrupted:
    """Pixels whose second slice is interrupted."""

    shape = (3, 64, 64)

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.calls = 0

    def __getitem__(self, index: int) -> np.ndarray:
        self.calls += 1
        if index == 1:
            raise self.error
        return np.ones((64, 64), np.complex64)


class TestFailures:
    @pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("slice 1 is bad"), MemoryError()])
    @pytest.mark.parametrize("ending", IMAGES)
    def test_an_interrupt_leaves_nothing(self, tmp_path: Path, ending: str, error: BaseException) -> None:
        with pytest.raises(type(error)):
            save(make_image(pixels=Interrupted(error), maps={}), tmp_path / "new" / f"a{ending}")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("ending", SCANS)
    def test_an_interrupt_of_a_scan_leaves_nothing(self, tmp_path: Path, ending: str) -> None:
        class Kspace(Interrupted):
            shape = (3, 1, 64, 64)

            def __getitem__(self, index: int) -> np.ndarray:
                return super().__getitem__(index)[None]

        scan = Scan(kspace=Kspace(KeyboardInterrupt()), source=Source("array"))
        with pytest.raises(KeyboardInterrupt):
            save(scan, tmp_path / f"a{ending}")
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk(self, tmp_path: Path) -> None:
        """Every writer against a file size limit, in a process of its own: one line, nothing left, no crash."""
        program = textwrap.dedent(f"""
            import resource, sys
            from pathlib import Path
            import numpy as np
            from recon.datasets import Image, Scan, Source, save
            from recon.physics.errors import OutputError
            rng = np.random.default_rng(0)
            pixels = rng.standard_normal((1, 256, 256)).astype(np.float32)
            image = Image(pixels=pixels, source=Source("array"), maps={{"a": pixels}})
            scan = Scan(kspace=rng.standard_normal((2, 4, 64, 64)).astype(np.complex64), source=Source("array"))
            folder = Path({str(tmp_path)!r})
            small = Image(pixels=pixels[:, :8, :8], source=Source("array"))
            for ending in {IMAGES!r}:
                save(small, folder / f"first{{ending}}")  # so that only the disk is at fault
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, 1 << 14))
            for data, endings in ((image, {IMAGES!r}), (scan, {SCANS!r})):
                for ending in endings:
                    try:
                        save(data, folder / f"a{{ending}}")
                    except OutputError as error:
                        text = str(error)
                        assert "cannot be written" in text and "--out" in text and "\\n" not in text, text
                    else:
                        sys.exit(f"{{ending}}: no error")
            print("done")
        """)
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
        assert (run.returncode, run.stdout) == (0, "done\n"), run.stderr[-3000:]
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {"first.hdr", *(f"first{ending}" for ending in IMAGES)}

    @pytest.mark.parametrize("ending", IMAGES)
    def test_nothing_is_overwritten_unless_asked(self, tmp_path: Path, ending: str) -> None:
        for n in (1, 3):
            target = tmp_path / f"{n}{ending}"
            first, second = make_image((n, 13, 10)), make_image((n, 5, 6))
            save(first, target)
            with pytest.raises(OutputError, match="exists already"):
                save(second, target)
            save(second, target, overwrite=True)
            if ending not in (".fits", ".cfl"):
                assert open_any(target).pixels.shape == (n, 5, 6)
            if target.is_dir():
                assert len(list(target.iterdir())) == n

    def test_a_folder_with_other_files_is_not_replaced(self, tmp_path: Path) -> None:
        target = save(make_image(), tmp_path / "a.dcm")
        (target / "thesis.tex").write_text("years of work")
        with pytest.raises(OutputError, match=r"holds other files too.*thesis\.tex"):
            save(make_image(), target, overwrite=True)
        assert (target / "thesis.tex").exists()

    def test_fewer_slices_replace_a_folder_whole(self, tmp_path: Path) -> None:
        save(make_image((5, 6, 6)), tmp_path / "a.png")
        save(make_image((2, 6, 6)), tmp_path / "a.png", overwrite=True)
        assert len(list((tmp_path / "a.png").iterdir())) == 2

    def test_permissions_are_usual(self, tmp_path: Path) -> None:
        (tmp_path / "usual").touch()
        usual = stat.S_IMODE((tmp_path / "usual").stat().st_mode)
        for ending in (".h5", ".npz", ".nii.gz"):
            assert stat.S_IMODE(save(make_image(), tmp_path / f"a{ending}").stat().st_mode) == usual

    def test_memory_stays_with_one_slice(self, tmp_path: Path) -> None:
        """A scan of 96 MiB in slices of 1 MiB, written and read in a process that may hold 32 MiB of it."""
        program = textwrap.dedent(f"""
            import resource
            from pathlib import Path
            import numpy as np
            from recon.datasets import Scan, Source, open, save
            from recon.datasets.lazy import LazySlices
            def use(shape, name):
                slices = LazySlices(shape, np.dtype("c8"), lambda k: np.full(shape[1:], k + 1, "c8"), Path("x"))
                scan = open(save(Scan(kspace=slices, source=Source("array")), Path({str(tmp_path)!r}) / name))
                for k in range(scan.n_slices):
                    assert scan.slice(k)[0, 0, 0] == k + 1
            for ending in {SCANS!r}:
                use((1, 1, 16, 8192), f"small{{ending}}")
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                use((96, 1, 16, 8192), f"a{{ending}}")
                print(ending, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
        """)
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
        assert run.returncode == 0, run.stderr[-3000:]
        used = {line.split()[0]: int(line.split()[1]) for line in run.stdout.splitlines()}
        assert used.keys() == set(SCANS)
        assert max(used.values()) < 32, f"MiB by format: {used}"

    @pytest.mark.parametrize("ending", [".h5", ".nii.gz", ".dcm"])
    def test_ctrl_c_while_a_library_writes(self, tmp_path: Path, ending: str) -> None:
        """The signal comes at any time; the process ends by it, not by a crash, and leaves nothing."""
        program = textwrap.dedent(f"""
            import numpy as np
            from pathlib import Path
            from recon.datasets import Image, Source, save
            from recon.datasets.lazy import LazySlices
            pixels = LazySlices((100000, 64, 64), np.dtype("f4"), lambda k: np.ones((64, 64), "f4"), Path("x"))
            print("ready", flush=True)
            save(Image(pixels=pixels, source=Source("array")), {str(tmp_path / "new" / f"a{ending}")!r})
        """)
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            while not (tmp_path / "new").exists():
                time.sleep(0.01)
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            error = process.communicate(timeout=30)[1]
        assert b"KeyboardInterrupt" in error.splitlines()[-1]
        assert list(tmp_path.iterdir()) == []


def test_the_limit_is_back() -> None:
    """The tests above must not leave a limit behind."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
