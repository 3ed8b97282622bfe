"""Our networks beside the published code that they equal: DIRECT's RecurrentVarNet, fastMRI's U-Net and VarNet.

``python benchmarks/parity.py [--data FOLDER] [--peers FOLDER]``

Each peer is built with random weights and saved as its package saves it; ``recon import-weights`` converts the file,
and both see the same k-space: random, the package's own sample of a brain, and a fully sampled brain, 4x undersampled
by lines, where ``--data`` has it. Printed is the relative error of the output, which must be below 1e-5 in float32.

``--regression FILE`` writes instead what the tests compare with: small networks of the peers, given by the names and
shapes of their weights, a small k-space, and the peers' outputs.

The peers are downloaded to ``--peers`` (by default a cache folder outside the repository) and imported from there:
DIRECT's wheels are for newer Pythons than it needs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import record
from torch import Tensor, nn

from recon.calibration import lowres_maps
from recon.cli import main as recon_cli
from recon.models.learned import LearnedReconstructor
from recon.physics import MultiCoilMRI
from recon.physics.fft import ifft_centred
from recon.sample import sample_scan
from recon.zoo import load_model

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from foreign_weights import random_state

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
PEERS = Path.home() / ".cache" / "recon-benchmarks" / "peers"
LIMIT = 1e-5
WHEELS = (
    ("direct-recon", "--python-version", "3.12", "--only-binary=:all:"),
    ("fastmri", "--only-binary=:all:"),
    ("omegaconf", "--only-binary=:all:"),
)
SDISTS = ("antlr4-python3-runtime==4.9.3",)  # of omegaconf; pure Python

Case = tuple[str, Tensor, MultiCoilMRI]
Peer = Callable[[nn.Module, Tensor, MultiCoilMRI], Tensor]


def find_peers(folder: Path) -> None:
    """Download and unpack the peers where they are not yet, and put them on the path."""
    if not (folder / "fastmri").is_dir() or not (folder / "direct").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip"]
        with tempfile.TemporaryDirectory() as wheels:
            for package, *options in WHEELS:
                subprocess.run([*pip, "download", "-q", "--no-deps", *options, "-d", wheels, package], check=True)
            for wheel in Path(wheels).glob("*.whl"):
                zipfile.ZipFile(wheel).extractall(folder)
        subprocess.run([*pip, "install", "-q", "--no-deps", "--target", str(folder), *SDISTS], check=True)
    sys.path.insert(0, str(folder))


def randomised(module: nn.Module) -> nn.Module:
    """Give every weight, those that start as zeros or ones too, a random value."""
    module.load_state_dict(random_state({name: tuple(value.shape) for name, value in module.state_dict().items()}))
    return module.eval()


def cases(data: Path) -> Iterator[Case]:
    """Yield name, k-space (1, coil, y, x) and operator; masks of lines, which fastMRI needs, except the sample's."""
    generator = torch.Generator().manual_seed(1)
    random = torch.randn(1, 6, 64, 48, generator=generator, dtype=torch.complex64)
    yield "random", *problem(random, lines(random, 4))
    odd = torch.randn(1, 3, 75, 61, generator=generator, dtype=torch.complex64)
    yield "random, odd matrix", *problem(odd, lines(odd, 3))
    sample = sample_scan()
    sampled = torch.from_numpy(sample.slice(0))[None]
    yield "brain of the package, Poisson-disc", *problem(sampled, torch.from_numpy(sample.sampling(0)[0].copy()))
    full = data / "mri/kspace/brain-full-8ch.cfl"
    if full.exists():
        samples = np.fromfile(full, dtype=np.complex64).reshape(8, 180, 230).transpose(0, 2, 1)
        k = torch.from_numpy(samples.copy())[None]
        yield "brain-full-8ch, lines 4x", *problem(k, lines(k, 4))


def problem(k: Tensor, mask: Tensor) -> tuple[Tensor, MultiCoilMRI]:
    """Scale to a largest magnitude of 1, as DIRECT does, undersample, and estimate maps."""
    y = k / k.abs().max() * mask
    return y, MultiCoilMRI(lowres_maps(y), mask)


def lines(k: Tensor, step: int) -> Tensor:
    """Mask of every ``step``-th column and 16 in the middle."""
    mask = torch.zeros(k.shape[2:], dtype=torch.bool)
    mask[:, ::step] = True
    mask[:, k.shape[3] // 2 - 8 : k.shape[3] // 2 + 8] = True
    return mask


def of_varnet(peer: nn.Module, y: Tensor, physics: MultiCoilMRI) -> Tensor:
    """Output of fastMRI's VarNet, which finds its own maps."""
    return peer(torch.view_as_real(y), physics.mask[..., None])


def of_magnitude_unet(peer: nn.Module, y: Tensor, physics: MultiCoilMRI) -> Tensor:  # noqa: ARG001
    """Output of fastMRI's U-Net on a normalised root-sum-of-squares image, as its data transform makes it."""
    image = torch.linalg.vector_norm(ifft_centred(y, (-2, -1)), dim=1, keepdim=True)
    mean, deviation = image.mean(), image.std()
    return peer(((image - mean) / (deviation + 1e-11)).clamp(-6, 6)) * deviation + mean


def of_norm_unet(peer: nn.Module, y: Tensor, physics: MultiCoilMRI) -> Tensor:
    """Output of fastMRI's U-Net in its NormUnet on the combined complex image."""
    from fastmri.models.varnet import NormUnet

    wrapper = NormUnet(4, 1)
    wrapper.unet = peer
    return wrapper(torch.view_as_real(physics.combine(y))[:, None])[:, 0].movedim(-1, 1)


def of_recurrentvarnet(peer: nn.Module, y: Tensor, physics: MultiCoilMRI, *, centred: bool) -> Tensor:
    """Output of DIRECT's RecurrentVarNet, as its engine combines it; without centring it wants DC at index 0."""
    mask = physics.mask
    if not centred:
        y = torch.fft.fftn(ifft_centred(y, (-2, -1)), dim=(-2, -1), norm="ortho")
        mask = torch.fft.ifftshift(mask, (-2, -1))
        y = y * mask
    k = peer(torch.view_as_real(y.contiguous()), mask[..., None], torch.view_as_real(physics.coil_maps[:, 0]))
    images = peer.backward_operator(k, dim=(2, 3))
    return images.square().sum(-1).sum(1, keepdim=True).sqrt()


class WithMaps(nn.Module):
    """DIRECT's network and the U-Net by which its engine refines coil maps, one by one, to unit norm again."""

    def __init__(self, network: nn.Module, maps: nn.Module) -> None:
        super().__init__()
        self.model, self.sensitivity_model = network, maps
        self.backward_operator = network.backward_operator

    def forward(self, y: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Refine the maps (b, coil, y, x, 2), then reconstruct."""
        refined = torch.stack([self.sensitivity_model(one.movedim(-1, 1)) for one in maps.unbind(1)], 1).movedim(2, -1)
        norm = refined.square().sum((1, -1), keepdim=True).sqrt()
        return self.model(y, mask, torch.where(norm > 0, refined / norm, 0))


def networks() -> Iterator[tuple[str, str, nn.Module, Peer, list[str]]]:
    """Yield name, our model, the peer, how to run it, and what its weights don't tell of it."""
    from direct.data.transforms import fft2, ifft2
    from direct.nn.recurrentvarnet.recurrentvarnet import RecurrentVarNet
    from direct.nn.unet.unet_2d import UnetModel2d
    from fastmri.models import Unet, VarNet

    for sizes in ({"num_steps": 3, "recurrent_hidden_channels": 16, "recurrent_num_layers": 2}, PUBLISHED):
        for centred in (False, True):
            if centred and sizes is PUBLISHED:
                continue
            operators = (partial(fft2, centered=centred), partial(ifft2, centered=centred))
            peer = RecurrentVarNet(*operators, **sizes, **INITIALISER)
            name = f"RecurrentVarNet {sizes['num_steps']}x{sizes['recurrent_hidden_channels']}"
            option = [] if not centred else ["--set", "initialiser=kspace"]
            run = partial(of_recurrentvarnet, centred=centred)
            yield f"{name}{', centred' * centred}", "recurrentvarnet", peer, run, option
            if not centred and sizes is not PUBLISHED:
                refined = WithMaps(peer, UnetModel2d(2, 2, num_filters=8, num_pool_layers=4, dropout_probability=0.0))
                yield f"{name}, refined maps", "recurrentvarnet", refined, run, []
    yield "U-Net, magnitude", "unet", Unet(1, 1, 32, 4), of_magnitude_unet, []
    yield "U-Net, complex", "unet", Unet(2, 2, 32, 4), of_norm_unet, []
    yield "VarNet 4x18", "varnet", VarNet(4), of_varnet, []


PUBLISHED = {"num_steps": 8, "recurrent_hidden_channels": 128, "recurrent_num_layers": 4}
INITIALISER = {"learned_initializer": True, "initializer_initialization": "sense", "initializer_multiscale": 3}


def converted(peer: nn.Module, model: str, options: list[str], folder: Path) -> LearnedReconstructor:
    """Save the peer as its package does, and take the way of a user."""
    wrapped = {"recurrentvarnet": ("model", ""), "unet": ("state_dict", "unet."), "varnet": ("state_dict", "varnet.")}
    entry, prefix = wrapped[model]
    file, out = folder / "foreign.ckpt", folder / "ours.safetensors"
    content = {entry: {prefix + key: value for key, value in peer.state_dict().items()}}
    if isinstance(peer, WithMaps):
        content = {name: part.state_dict() for name, part in peer.named_children()}
    torch.save(content, file)
    command = ["import-weights", str(file), "--model", model, "--out", str(out), "--overwrite", *options]
    if recon_cli(command) != 0:
        raise SystemExit(f"import failed: {command}")
    return load_model(out)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--peers", type=Path, default=PEERS)
    parser.add_argument("--regression", type=Path)
    args = parser.parse_args()
    find_peers(args.peers)
    if args.regression is not None:
        write_regression(args.regression)
        return
    errors: dict[str, dict[str, float]] = {}
    parameters = {}
    for name, model, peer, run, options in networks():
        randomised(peer)
        with tempfile.TemporaryDirectory() as folder:
            ours = converted(peer, model, options, Path(folder))
        parameters[name] = sum(p.numel() for p in peer.parameters())
        errors[name] = {}
        for case, y, physics in cases(args.data):
            if model == "varnet" and "Poisson" in case:
                continue  # fastMRI's looks for its calibration lines in the first row
            with torch.no_grad():
                theirs, x = run(peer, y, physics), ours(y, physics)
            if x.shape != theirs.shape:
                theirs = theirs.reshape(x.shape)
            error = float(torch.linalg.vector_norm(x - theirs) / torch.linalg.vector_norm(theirs))
            errors[name][case] = error
            print(f"{name:34} {case:36} {error:.1e} {'' if error < LIMIT else 'TOO LARGE'}", flush=True)
    record("parity", {"relative_errors": errors, "parameters": parameters}, "fastmri", "direct-recon")
    raise SystemExit(any(not error < LIMIT for of_one in errors.values() for error in of_one.values()))


def write_regression(path: Path) -> None:
    """Store small k-space and the outputs of small peers."""
    from direct.data.transforms import fft2, ifft2
    from direct.nn.recurrentvarnet.recurrentvarnet import RecurrentVarNet
    from fastmri.models import Unet, VarNet

    operators = (partial(fft2, centered=False), partial(ifft2, centered=False))
    sizes = {"num_steps": 2, "recurrent_hidden_channels": 4, "recurrent_num_layers": 2}
    peers: dict[str, tuple[nn.Module, Peer]] = {
        "recurrentvarnet": (
            RecurrentVarNet(*operators, **sizes, **INITIALISER),
            partial(of_recurrentvarnet, centred=False),
        ),
        "unet": (Unet(1, 1, 4, 2), of_magnitude_unet),
        "varnet": (VarNet(2, sens_chans=4, sens_pools=2, chans=4, pools=2), of_varnet),
    }
    k = torch.randn(1, 2, 13, 12, generator=torch.Generator().manual_seed(2), dtype=torch.complex64)
    mask = torch.zeros(k.shape[2:], dtype=torch.bool)
    mask[:, ::3] = True
    mask[:, 4:8] = True
    y, physics = problem(k, mask)
    stored = {"y": y.numpy(), "mask": mask.numpy(), "maps": physics.coil_maps[0, 0].numpy()}
    for name, (peer, run) in peers.items():
        randomised(peer)
        with torch.no_grad():
            stored[f"{name}.output"] = run(peer, y, physics).reshape(1, 1, *mask.shape).numpy()
        shapes = {key: list(value.shape) for key, value in peer.state_dict().items()}
        stored[f"{name}.shapes"] = np.array(json.dumps(shapes))
    np.savez_compressed(path, **stored)


if __name__ == "__main__":
    main()
