"""RecurrentVarNet at its published size beside DIRECT's: forward pass, training step, peak memory.

``python benchmarks/recurrentvarnet.py [--repeats N] [--peers FOLDER] [--light NAME_OR_CHECKPOINT]``

Both have the same random weights and see the same k-space, 8 coils of 230 x 180. Speed is measured in turns in one
process, peak memory of a training step each in its own. ``--light`` also times the light model on the same slice.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import torch
from common import ratio, record, time_side_by_side
from parity import INITIALISER, PEERS, PUBLISHED, find_peers, of_recurrentvarnet
from torch import Tensor, nn

from recon.foreign import converters
from recon.models import registry
from recon.models.learned import LearnedReconstructor
from recon.physics import MultiCoilMRI
from recon.zoo import load_model

COILS, SHAPE = 8, (230, 180)
DENSITY = 0.2


def problem() -> tuple[Tensor, MultiCoilMRI]:
    """K-space of a random image that varies slowly, its largest magnitude 1, and maps of unit norm."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(1, COILS, *SHAPE, generator=generator, dtype=torch.complex64)
    maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    mask = torch.rand(SHAPE, generator=generator) < DENSITY
    physics = MultiCoilMRI(maps, mask)
    coarse = torch.randn(1, 2, 12, 10, generator=generator)
    y = physics.A(nn.functional.interpolate(coarse, SHAPE, mode="bicubic"))
    return y / y.abs().max(), physics


def models() -> tuple[nn.Module, LearnedReconstructor]:
    """DIRECT's network and ours with its weights."""
    from functools import partial

    from direct.data.transforms import fft2, ifft2
    from direct.nn.recurrentvarnet.recurrentvarnet import RecurrentVarNet

    operators = (partial(fft2, centered=True), partial(ifft2, centered=True))
    peer = RecurrentVarNet(*operators, **PUBLISHED, **INITIALISER)
    torch.manual_seed(0)
    for parameter in peer.parameters():  # as training starts, but for the step sizes and biases
        if parameter.ndim < 2:
            nn.init.normal_(parameter, std=0.1)
    foreign = converters["recurrentvarnet"](dict(peer.state_dict()))
    ours = registry["recurrentvarnet"](**foreign.arguments | {"initialiser": "kspace"})
    ours.load_state_dict(foreign.weights)
    assert isinstance(ours, LearnedReconstructor)
    return peer.eval(), ours.eval()


def peak_memory(which: str, peers: Path) -> int:
    """Bytes that a training step adds to what the process had before it, in a process of its own."""
    command = [sys.executable, __file__, "--peers", str(peers), "--step", which]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def one_step(which: str) -> None:
    """Print the memory that a training step of DIRECT's network, ours, or ours saving memory needs."""
    peer, ours = models()
    y, physics = problem()
    ours.save_memory = which == "ours, saving memory"
    before = peak()
    x = of_recurrentvarnet(peer, y, physics, centred=True) if which == "direct" else ours(y, physics)
    x.square().mean().backward()
    print(peak() - before)


def peak() -> int:
    """Most memory that this process has held, in bytes; of Linux, whose rusage counts the parent's too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", type=Path, default=PEERS)
    parser.add_argument("--light", help="also time this model, by name or checkpoint")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    find_peers(options.peers)
    if options.step:
        one_step(options.step)
        return
    peer, ours = models()
    y, physics = problem()

    @torch.no_grad()
    def direct() -> Tensor:
        return of_recurrentvarnet(peer, y, physics, centred=True)

    @torch.no_grad()
    def float32() -> Tensor:
        return ours(y, physics)

    @torch.no_grad()
    def bfloat16() -> Tensor:
        with torch.autocast(y.device.type, torch.bfloat16):
            return ours(y, physics)

    def train(model: nn.Module, output: Tensor) -> None:
        output.square().mean().backward()
        model.zero_grad()

    expected, exact, rough = direct(), float32(), bfloat16()
    figures: dict[str, object] = {
        "relative error": float((exact - expected).norm() / expected.norm()),
        "bfloat16, PSNR to float32, dB": 20
        * math.log10(float(expected.max() / (rough - exact).square().mean().sqrt())),
    }
    seconds = time_side_by_side({"DIRECT": direct, "float32": float32, "bfloat16": bfloat16}, repeats=options.repeats)
    seconds |= time_side_by_side(
        {
            "DIRECT, training step": lambda: train(peer, of_recurrentvarnet(peer, y, physics, centred=True)),
            "float32, training step": lambda: train(ours, ours(y, physics)),
        },
        repeats=max(options.repeats // 2, 2),
    )
    times = {
        "forward, float32": ratio(seconds["DIRECT"], seconds["float32"]),
        "forward, bfloat16": ratio(seconds["DIRECT"], seconds["bfloat16"]),
        "training step, float32": ratio(seconds["DIRECT, training step"], seconds["float32, training step"]),
    }
    memory = {which: peak_memory(which, options.peers) for which in ("direct", "ours", "ours, saving memory")}
    figures |= {
        "seconds": seconds,
        "times faster": times,
        "memory of a training step, bytes": memory,
        "coils": COILS,
        "matrix": SHAPE,
    }
    if options.light:
        light = load_model(options.light)

        @torch.no_grad()
        def slice_of_light() -> Tensor:
            return light(y, physics)

        figures["light, seconds"] = time_side_by_side({"light": slice_of_light}, options.repeats)["light"]
    for name, value in figures.items():
        print(f"{name}: {json.dumps(value)}")
    record("recurrentvarnet", figures)


if __name__ == "__main__":
    main()
