"""The command ``recon``; one file a verb, imported only when it runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from recon import __version__
from recon.physics.errors import ReconError

VERBS = {
    "demo": "reconstruct a sample, galaxies or a compressed picture with every method; table, figures and report",
    "info": "say what files hold: kind, shape, coils, mask, acceleration, noise, what is missing",
    "reconstruct": "make images from raw measurements, deblurred stamps and their catalogue from galaxy stamps",
    "simulate": "make raw or compressed measurements from an image or volume, or galaxy stamps",
    "evaluate": "compare a result with a reference",
    "models": "list the methods, or describe one",
    "train": "train a network as a configuration says",
    "finetune": "adapt a trained network to a new scanner by its measurements alone",
    "attribute": "say which training slices help or harm what a network makes of a scan",
    "audit-data": "say which organs help and which harm each other in training, before anyone trains for days",
    "unlearn": "make a trained network forget files, and say whether it did",
    "import-weights": "convert trained weights of DIRECT, fastMRI or deepinv",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        """Print the problem in one line and exit with 2."""
        self.exit(2, f"recon: {message} (see {self.prog} --help)\n")


def _module(verb: str) -> ModuleType:
    return import_module(f"recon.cli.{verb.replace('-', '_')}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``recon`` and return its exit status: 0 done, 1 some inputs failed, 2 error, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(prog="recon", description="From raw measurements to a trusted image.")
    parser.add_argument("--version", action="version", version=f"recon {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    named = next((word for word in arguments if not word.startswith("-")), None)
    for verb, summary in VERBS.items():
        sub = verbs.add_parser(verb, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if verb == named:  # the other verbs' options need not be known
            _module(verb).add_arguments(sub)
    args = parser.parse_args(arguments)
    try:
        return int(_module(args.verb).run(args))
    except ReconError as error:
        if args.json:
            print(json.dumps({"error": {"kind": type(error).__name__, "message": str(error)}}))
        print(f"recon: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("recon: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe went away; there is nobody to tell
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
