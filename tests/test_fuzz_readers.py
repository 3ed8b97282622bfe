"""Every reader, on files that were damaged at random: one line, in little time and memory, and never a crash."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from samples import SAMPLES

from recon.datasets.readers import readers

CASES = 40
WORKER = Path(__file__).with_name("fuzz_worker.py")
NAMES = sorted(SAMPLES)
BATCHES = [NAMES[i::3] for i in range(3)]


@pytest.mark.parametrize("names", BATCHES, ids=" ".join)
def test_damaged_files_are_refused_or_read(names: list[str], tmp_path: Path) -> None:
    command = [sys.executable, str(WORKER), str(tmp_path), "0", str(CASES), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    cases, results = rows[::2], rows[1::2]
    where = f"at {cases[-1] if cases else 'the start'}"
    assert done.returncode == 0, f"exit {done.returncode} {where}: {done.stderr[-2000:]}"
    assert len(cases) == len(results) == CASES * len(names)
    for case, result in zip(cases, results, strict=True):
        assert result["kib"] < 128 << 10, f"{case} took {result['kib']} KiB"
        assert result["seconds"] < 10, f"{case} took {result['seconds']} s"
    refused = Counter(case["name"] for case, result in zip(cases, results, strict=True) if result["outcome"] != "read")
    for name in names:
        assert refused[name] > 0, f"{name}: damage was never noticed"


def test_every_format_has_a_sample() -> None:
    assert {name.split("-")[0] for name in SAMPLES} == set(readers)


@pytest.mark.parametrize("name", NAMES)
def test_exactly_one_reader_answers(name: str, tmp_path: Path) -> None:
    path = SAMPLES[name](tmp_path)
    head = b"" if path.is_dir() else path.read_bytes()[:4096]
    assert [key for key, reader in readers.items() if reader().sniff(path, head)] == [name.split("-", maxsplit=1)[0]]
