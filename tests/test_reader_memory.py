"""Files larger than the bound: reading takes the memory of a slice or two, not of the file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
from samples import (
    TWIX_PROTOCOL,
    complex_normal,
    encoding,
    ismrmrd_xml,
    readout,
    twix_readout,
    write_ismrmrd,
    write_twix,
)

N = 64  # slices of 1 MiB: 16 coils of 4 x 2048
MIB = 1 << 20
SLICE = (16, 4, 2048)

MEASURE = """
import json, resource, sys
import recon
found = {}
for path in sys.argv[1:]:
    scan = recon.datasets.open(path)
    scan.slice(0), scan.slice(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index in range(scan.n_slices):
        scan.slice(index)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found[path] = [scan.n_slices, int(scan.slice(0).nbytes), (after - before) << 10]
print(json.dumps(found))
"""


def make_fastmri(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "kspace", (N, *SLICE), np.complex64, chunks=(1, 4, *SLICE[1:]), compression="gzip", compression_opts=1
        )
        one = complex_normal(SLICE).round()
        for i in range(N):
            data[i] = one
    return path


def make_calgary(path: Path) -> Path:
    one = np.random.default_rng(0).standard_normal((100, 110, 24), np.float32)
    np.save(path, np.broadcast_to(one, (N, *one.shape)))
    return path


def make_ismrmrd(path: Path) -> Path:
    k = complex_normal(SLICE)
    lines = [readout(k[:, y], kspace_encode_step_1=y, slice=s) for s in range(N) for y in range(SLICE[1])]
    header = ismrmrd_xml(encoding((2048, 4, 1), (2048, 4, 1), lines=(0, 3, 2)))
    return write_ismrmrd(path, header, lines)


def make_twix(path: Path) -> Path:
    k = complex_normal(SLICE)
    lines = [twix_readout(k[:, y], Lin=y, CenterLin=2, Sli=s) for s in range(N) for y in range(SLICE[1])]
    return write_twix(path, (TWIX_PROTOCOL, lines))


def test_memory_is_bounded_by_a_slice(tmp_path: Path) -> None:
    makers = {"fastmri.h5": make_fastmri, "calgary.npy": make_calgary, "scan.mrd": make_ismrmrd, "meas.dat": make_twix}
    paths = [make(tmp_path / name) for name, make in makers.items()]
    command = [sys.executable, "-c", MEASURE, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    for path, (slices, size, grown) in json.loads(done.stdout).items():
        assert slices == N
        assert size * slices >= 64 * MIB
        assert Path(path).stat().st_size > 12 * MIB  # fastMRI's is compressed
        assert grown < 6 * size, f"{path}: {grown / MIB:.1f} MiB for slices of {size / MIB:.1f} MiB"
