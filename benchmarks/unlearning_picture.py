"""Picture of what `unlearning.py` recorded last: how far each method is from the oracle, on brain and on neck.

``python benchmarks/unlearning_picture.py [--out docs/unlearning.png] [--network unet] [--share 0.1]``
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from common import RESULTS

from recon.physics.errors import OptionError


def main() -> None:
    """Draw the last line of a network and a share of the retain set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS.parent.parent / "docs" / "unlearning.png")
    parser.add_argument("--network", default="unet")
    parser.add_argument("--share", type=float, default=0.1, help="of the retain set")
    args = parser.parse_args()
    lines = [json.loads(text) for text in (RESULTS / "unlearning.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line.get("network") == args.network and "methods" in line]
    lines = [line for line in lines if len(line["methods"]) > 1 and line["share of the retain set"] == args.share]
    if not lines:
        raise OptionError("no study of this network and share is recorded", found=args.network)
    line = lines[-1]
    names = sorted(line["methods"], key=lambda name: line["methods"][name]["figures"]["gap dB"][0])
    figure, panels = plt.subplots(1, 2, figsize=(9, 5.2), sharey=True, constrained_layout=True)
    kinds = (("gap dB", "retain test", "brain (kept)"), ("forget dB", "forget test", "neck (forgotten)"))
    for axes, (column, examples, title) in zip(panels, kinds, strict=True):
        found = np.array([line["methods"][name]["figures"][column] for name in names])
        axes.errorbar(found[:, 0], range(len(names)), xerr=found[:, 1], fmt="o", ms=5, lw=1)
        before = np.mean([seed["joint"][examples] - seed["oracle"][examples] for seed in line["references"].values()])
        axes.axvline(before, color="C3", ls="--", label="joint network, before")
        axes.axvline(0, color="k", label="oracle, trained without the neck")
        axes.set(xlabel="PSNR over the oracle's, dB", title=title, yticks=range(len(names)), yticklabels=names)
        axes.grid(axis="x", alpha=0.3)
    panels[0].axvspan(-0.1, 0, color="0.85", zorder=0)
    panels[1].axvspan(-0.5, 0.2, color="0.85", zorder=0)
    panels[0].legend(loc="upper left", fontsize=8)
    seeds = len(line["seeds"])
    figure.suptitle(
        f"{args.network}, {line['share of the retain set']:.0%} of the brains at hand, test volumes, mean and standard "
        f"deviation of {seeds} seed{'s' * (seeds > 1)}; grey: wanted",
        fontsize=10,
    )
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
