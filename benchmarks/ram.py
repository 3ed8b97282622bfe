"""Speed and memory of RAM at its published size, and of the light model, beside deepinv's RAM: inpainting of a picture.

``python benchmarks/ram.py [--side N] [--repeats N] [--sizes N N ...] [--no-record]``

Both at the published size have the same random weights, and their outputs are compared. Speed is measured in turns in
one process, in seconds of the processor, which other programs disturb less; peak memory of a forward pass each in a
process of its own, its weights included. ``--sizes`` times the light model on images of other sides.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from common import ratio, record, time_side_by_side
from deepinv.physics.noise import GaussianNoise
from torch import Tensor, nn

from recon.foreign import converters
from recon.models import registry
from recon.physics.inpainting import Inpainting, random_mask

NAMES = ("deepinv", "ram", "ram-light")


def problem(side: int) -> tuple[Tensor, Inpainting]:
    """Half of the pixels of a random image of three channels, in noise."""
    generator = torch.Generator().manual_seed(0)
    physics = Inpainting(random_mask((side, side), 0.5, generator), (3, side, side), noise_model=GaussianNoise(0.05))
    coarse = torch.rand(1, 3, 16, 16, generator=generator)
    x = nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    return physics(x), physics


def published() -> nn.Module:
    from deepinv.models import RAM

    torch.manual_seed(0)
    return RAM(pretrained=False).eval()


def network(name: str) -> nn.Module:
    if name == "deepinv":
        return published()
    torch.manual_seed(0)
    return registry[name]().eval()


def same_weights(peer: nn.Module) -> nn.Module:
    foreign = converters["ram"](dict(peer.state_dict()))
    ours = registry["ram"](**foreign.arguments)
    ours.load_state_dict(foreign.weights)
    return ours.eval()


def peak_memory(name: str, side: int) -> int:
    """Bytes that making a network and one forward pass add to what the process held before."""
    command = [sys.executable, __file__, "--side", str(side), "--pass", name]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def one_pass(name: str, side: int) -> None:
    import deepinv.models

    assert deepinv.models.RAM  # what deepinv imports is nobody's
    y, physics = problem(side)
    before = peak()
    with torch.no_grad():
        network(name)(y, physics)
    print(peak() - before)


def peak() -> int:
    """Most memory that this process has held, in bytes; of Linux."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="*", default=[128, 256, 512], help="of the light model")
    parser.add_argument("--no-record", action="store_true", help="do not add to results/")
    parser.add_argument("--pass", dest="one", choices=NAMES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one_pass(options.one, options.side)
        return
    y, physics = problem(options.side)
    peer = published()
    networks = {"deepinv": peer, "ram": same_weights(peer), "ram-light": network("ram-light")}

    def forward(name: str, bfloat16: bool) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext():
                return networks[name](y, physics)

        return run

    expected, found = forward("deepinv", False)(), forward("ram", False)()
    figures: dict[str, object] = {
        "side": options.side,
        "repeats": options.repeats,
        "relative error of ram": float((found - expected).norm() / expected.norm()),
        "parameters": {name: sum(p.numel() for p in model.parameters()) for name, model in networks.items()},
    }
    tasks = {f"{name}, float32": forward(name, False) for name in NAMES}
    tasks |= {f"{name}, bfloat16": forward(name, True) for name in NAMES}
    seconds = time_side_by_side(tasks, options.repeats, clock=time.process_time)
    figures["seconds"] = {name: sorted(values)[len(values) // 2] for name, values in seconds.items()}
    figures["times as fast as deepinv's, median, least, most"] = {
        name: ratio(seconds[f"deepinv, {name.split(', ')[1]}"], values)
        for name, values in seconds.items()
        if not name.startswith("deepinv")
    }
    memory = {name: peak_memory(name, options.side) for name in NAMES}
    figures["peak memory, MiB"] = {name: round(value / 2**20) for name, value in memory.items()}
    figures["share of deepinv's memory"] = {name: memory[name] / memory["deepinv"] for name in NAMES[1:]}
    light = networks["ram-light"]
    scaling = {}
    for side in options.sizes:
        measurements, operator = problem(side)
        with torch.no_grad():
            tasks = {"light": lambda m=measurements, o=operator: light(m, o)}
            of_side = time_side_by_side(tasks, 2, clock=time.process_time)
        scaling[side] = min(of_side["light"]) / (side / 1000) ** 2
    figures["light, seconds a megapixel"] = scaling
    print(json.dumps(figures, indent=2))
    if not options.no_record:
        record("ram", figures)


if __name__ == "__main__":
    main()
