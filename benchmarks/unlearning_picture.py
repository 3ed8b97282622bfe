"""Picture of what `unlearning.py` recorded last: how far each method is from the oracle, on brain and on neck.

``python benchmarks/unlearning_picture.py [--out docs/unlearning.png] [--network unet]``
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
    """Draw the last line of a network with most of its retain set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS.parent.parent / "docs" / "unlearning.png")
    parser.add_argument("--network", default="unet")
    args = parser.parse_args()
    lines = [json.loads(text) for text in (RESULTS / "unlearning.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line.get("network") == args.network and "methods" in line]
    if not lines:
        raise OptionError("no study of this network is recorded", found=args.network)
    line = lines[-1]
    figure, axes = plt.subplots(figsize=(8.5, 5.5), constrained_layout=True)
    for name, found in sorted(line["methods"].items()):
        kept, forgotten = found["figures"]["gap dB"], found["figures"]["forget dB"]
        axes.errorbar(kept[0], forgotten[0], kept[1], forgotten[1], "o", ms=5, lw=0.8, alpha=0.8)
        axes.annotate(name, (kept[0], forgotten[0]), xytext=(5, 4), textcoords="offset points", fontsize=8)
    joint = [
        np.mean([seed["joint"][kind] - seed["oracle"][kind] for seed in line["references"].values()])
        for kind in ("retain test", "forget test")
    ]
    axes.plot(*joint, "ks", label="joint network, before")
    axes.plot(0, 0, "k*", ms=14, label="oracle, trained without the neck")
    axes.axvline(-0.1, color="0.7", lw=0.8)
    axes.axhspan(-0.5, 0.2, color="0.93", zorder=0)
    # A method that breaks the network would leave nothing to be seen of the others.
    low = 2.5 * min(joint[0], joint[1])
    axes.set(
        xlim=(low, max(0.3, -0.2 * low)),
        ylim=(low, max(0.4, -0.2 * low)),
        xlabel="brain (kept): PSNR over the oracle's, dB",
        ylabel="neck (forgotten): PSNR over the oracle's, dB",
        title=f"{args.network}, {line['share of the retain set']:.0%} of the brains, "
        f"{len(line['seeds'])} seed{'s' * (len(line['seeds']) > 1)}, test volumes; grey: bars",
    )
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
