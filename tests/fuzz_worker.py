"""Damages small valid files and opens them; runs apart from the tests, so that a crash of a library is seen.

``python fuzz_worker.py FOLDER FIRST LAST NAME...`` prints one JSON line for each case before and after it ran.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
from samples import OPTIONS, SAMPLES

from recon.datasets import Image, Measurements, Scan, Stamps
from recon.datasets import open as open_any
from recon.physics.errors import ReconError

SECONDS = 20
MEMORY = 1 << 30  # address space beyond what the imports took


def damage(data: bytes, rng: random.Random) -> bytes:
    """Cut the file short, or change bytes: few or many, anywhere or near the start, where headers are."""
    if rng.random() < 0.25:
        return data[: rng.randrange(len(data))]
    out = bytearray(data)
    reach = len(out) if rng.random() < 0.5 else min(len(out), 4096)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        out[rng.randrange(reach)] = rng.choice((rng.randrange(256), 0, 255))
    return bytes(out)


def use(path: Path, format: str | None, variable: str | None) -> str:
    """Read all that the file promises; errors other than `ReconError` go up."""
    try:
        found = open_any(path, format=format, variable=variable)
        if isinstance(found, Scan):
            for index in range(min(found.n_slices, 4)):
                found.slice(index)
                found.sampling(index)
                for array in (found.reference, found.coil_maps):
                    if array is not None:
                        np.asarray(array[index])
        elif isinstance(found, Stamps):
            for index in range(min(found.n, 4)):
                found.batch(index, index + 1)
        elif isinstance(found, Measurements):
            for index in range(min(found.n_slices, 4)):
                found.slice(index)
        else:
            assert isinstance(found, Image)
            for index in range(min(found.n_slices, 4)):
                np.asarray(found.pixels[index])
    except ReconError as error:
        assert "\n" not in str(error)
        return type(error).__name__
    return "read"


def main() -> None:
    folder, first, last, names = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    signal.signal(signal.SIGALRM, lambda *_: sys.exit("a hang"))
    for name in names:
        clean = folder / "clean" / name
        clean.mkdir(parents=True)
        made = SAMPLES[name](clean)
        files = sorted(p for p in clean.rglob("*") if p.is_file())
        assert use(made, None, OPTIONS.get(name)) == "read", f"{name}: the sample itself cannot be read"
        with Path("/proc/self/statm").open() as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, resource.RLIM_INFINITY))
        for seed in range(first, last):
            rng = random.Random(f"{name} {seed}")
            work = folder / "work"
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(clean, work)
            victim = rng.choice(files)
            (work / victim.relative_to(clean)).write_bytes(damage(victim.read_bytes(), rng))
            format = name.split("-")[0] if seed % 2 else None  # named, so that a damaged signature is passed
            print(json.dumps({"name": name, "seed": seed}), flush=True)
            peak, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
            signal.alarm(SECONDS)
            outcome = use(work / made.relative_to(clean), format, OPTIONS.get(name))
            signal.alarm(0)
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
            seconds = time.monotonic() - start
            print(json.dumps({"outcome": outcome, "kib": grown, "seconds": round(seconds, 3)}), flush=True)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
