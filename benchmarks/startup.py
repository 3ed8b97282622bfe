"""What `import recon` and `recon --help` cost beyond Python and torch; each start is a process of its own.

``python benchmarks/startup.py``
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from common import record, time_side_by_side

STARTS = {
    "python": ["-c", "pass"],
    "recon --help": ["-m", "recon", "--help"],
    "import torch": ["-c", "import torch"],
    "import torch, recon": ["-c", "import torch, recon"],
    "import recon, its pipeline": ["-c", "import recon; recon.reconstruct"],
}


def main() -> None:
    def start(arguments: list[str]) -> object:
        return subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    seconds = time_side_by_side({name: lambda a=a: start(a) for name, a in STARTS.items()}, repeats=5)
    medians = {name: float(np.median(times)) for name, times in seconds.items()}
    for name, value in medians.items():
        print(f"{name:28s} {value:6.2f} s")
    beyond = np.subtract(seconds["import torch, recon"], seconds["import torch"])
    print(f"recon beyond torch: {np.median(beyond):.2f} s ({beyond.min():.2f} to {beyond.max():.2f})")
    help_beyond = medians["recon --help"] - medians["python"]
    record("startup", {"seconds": medians, "recon_beyond_torch": beyond.tolist(), "help_beyond_python": help_beyond})


if __name__ == "__main__":
    main()
