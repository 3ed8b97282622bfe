"""``recon train CONFIG.yaml``: the configuration is found here, the rest is Lightning's command line."""

from __future__ import annotations

import argparse
from importlib.resources import as_file, files
from pathlib import Path

from recon.physics.errors import FileFormatError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the verb takes."""
    names = ", ".join(packaged())
    parser.epilog = (
        f"Packaged configurations: {names}. `recon train CONFIG.yaml --help` lists all options, such as "
        "--trainer.max_steps 10, --model.lr 1e-4, --data.init_args.batch_size 2; --ckpt_path last goes on with a run."
    )
    parser.add_argument("config", metavar="CONFIG.yaml", help="a configuration, or the name of a packaged one")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="...", help="options, after the configuration")
    parser.set_defaults(json=False)


def run(args: argparse.Namespace) -> int:
    """Train."""
    path = Path(args.config)
    name = path.stem if path.suffix == ".yaml" else path.name
    if not path.is_file() and len(path.parts) == 1 and name in packaged():
        with as_file(files("recon.configs") / f"{name}.yaml") as unpacked:
            return _train(unpacked, args.options)
    if not path.is_file():
        raise FileFormatError("no such configuration", file=path, expected=f"a file, or one of {', '.join(packaged())}")
    return _train(path, args.options)


def packaged() -> list[str]:
    """Names of the configurations that come with the package."""
    return sorted(
        item.name.removesuffix(".yaml") for item in files("recon.configs").iterdir() if item.name.endswith(".yaml")
    )


def _train(config: Path, options: list[str]) -> int:
    from recon.training.run import train

    folder = train(config, options)
    print(f"best weights: {folder / 'best.safetensors'}")
    return 0
