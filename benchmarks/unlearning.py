"""Every method of unlearning on every figure: brain is kept, neck is forgotten; 3 seeds, mean and spread, test volumes.

``python benchmarks/unlearning.py [--volumes DIR] [--networks unet ...] [--methods NAME ...] [--shares 0.1 0.01]
[--seeds 0 1 2] [--small] [--sweep] [--cheap] [--self-supervised] [--report DIR] [--no-record]``

First the joint network, the oracle (brain only, as many steps), the forget-oracle (neck only) and, for the budget of
unlearning, a network from scratch. Options of each method are searched for once, on the first seed and validation
examples (`recon.unlearning.search`). ``--small`` is a version for a quarter of an hour on two cores. ``--sweep`` shows
in which setting the neck does harm to the brain at all, in place of the study.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from classical import DATA
from common import record
from deepinv.models import Reconstructor
from unlearning_study import NETWORKS, Setting, Study, descended, make_study, share_of, trained

from recon.physics.errors import ReconError
from recon.unlearning.audit import CHEAP, ROWS, Audit, Auditor, audit
from recon.unlearning.budget import Budget, Meter
from recon.unlearning.examples import Examples
from recon.unlearning.layers import fresh
from recon.unlearning.objectives import Objective, SelfSupervised, Supervised
from recon.unlearning.registry import methods
from recon.unlearning.search import distance_to_oracle, mean_psnr, search

_FULL, _SMALL = Setting(), Setting(retain=120, forget=240, held_out=12, steps=400)
_SWEEP = (  # slices to keep, to forget, steps, acceleration of the scans, and of those that were references
    (240, 480, 500, 8.0, 1),
    (240, 480, 500, 8.0, 2),
    (240, 480, 500, 8.0, 4),
    (80, 160, 500, 8.0, 1),
    (240, 480, 500, 4.0, 1),
    (240, 480, 1500, 8.0, 1),
    (240, 480, 1500, 8.0, 4),
)
_SHARE = 0.1  # of the oracle's samples, at most, may be looked at again
_BATCH = 2  # many small steps forget more for the same number of samples
_TRIALS = 3
_COSTLY = 3  # methods that get the costly rows of the audit, the best by the cheap ones
_COLUMNS = {
    "gap dB": ("quality", "gap to oracle", "psnr"),
    "gap SSIM": ("quality", "gap to oracle", "ssim"),
    "excess gone": ("hallucination", "share of the excess gone"),
    "forget dB": ("forgetting", "forget test", "gap to oracle", "psnr"),
    "MIA": ("membership", "distance to oracle"),
    "samples": ("price", "share", "samples"),
    "seconds": ("price", "share", "seconds"),
}


class Runs:
    """The networks of one seed, and what the methods make of them."""

    def __init__(
        self, network: str, study: Study, setting: Setting, objective: Objective, seed: int, cache: Path
    ) -> None:
        self.study, self.objective, self.seed = study, objective, seed
        self.joint, _ = trained(network, study.joint, setting, seed=seed, cache=cache)
        self.oracle, cost = trained(network, study.retain, setting, seed=seed, cache=cache)
        self.forget_oracle, _ = trained(network, study.forget, setting, seed=seed, cache=cache)
        self.oracle_cost = Meter(samples=int(cost["samples"]), seconds=cost["seconds"])
        # A step looks at examples of both sets at most.
        self.steps = max(int(_SHARE * setting.steps * setting.batch_size / (2 * _BATCH)), 1)
        self.lr = setting.lr / 2
        self.judge = distance_to_oracle(self.oracle, study.retain_validation, study.forget_validation)
        self.auditor = Auditor(
            self.joint,
            self.oracle,
            forget=study.forget,
            retain=study.retain,
            forget_test=study.forget_test,
            retain_test=study.retain_test,
            non_members=study.non_members,
            third=study.third,
            forget_oracle=self.forget_oracle,
            scratch=descended(fresh(self.joint, seed), study.retain, self.budget()),
            oracle_cost=self.oracle_cost,
            seed=seed,
        )

    def budget(self) -> Budget:
        return Budget(steps=self.steps, batch_size=_BATCH, lr=self.lr, objective=self.objective, seed=self.seed)

    def unlearned(self, name: str, retain: Examples, options: Mapping[str, Any]) -> tuple[Reconstructor, Meter]:
        budget = self.budget()
        with budget.meter.running():
            model = methods[name].function(copy.deepcopy(self.joint), self.study.forget, retain, budget, **options)
        return model, budget.meter

    def audited(self, name: str, retain: Examples, options: Mapping[str, Any], rows: Sequence[str]) -> Audit:
        model, meter = self.unlearned(name, retain, options)

        def again(network: Reconstructor, forget: Examples, kept: Examples) -> Reconstructor:
            return methods[name].function(copy.deepcopy(network), forget, kept, self.budget(), **options)

        return self.auditor.audit(model, method=again, cost=meter, rows=rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the study, print the table, record it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volumes", type=Path, default=DATA / "mri" / "volumes")
    parser.add_argument("--networks", nargs="+", default=["unet"], choices=tuple(NETWORKS))
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.1, 0.01], help="of the retain set")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--cheap", action="store_true", help="only the rows of the audit that train nothing")
    parser.add_argument("--self-supervised", action="store_true", help="neither set has ground truth")
    parser.add_argument("--cache", type=Path, default=Path("runs") / "unlearning")
    parser.add_argument("--report", type=Path, help="folder of the audits' pages and JSON")
    parser.add_argument("--no-record", action="store_true")
    args = parser.parse_args(argv)
    for line in sweep(args.volumes, args.networks, args.cache) if args.sweep else study_of(args):
        if not args.no_record:
            record("unlearning", line)


def study_of(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Search, unlearn, audit; one line a network and share of the retain set."""
    setting = _SMALL if args.small else _FULL
    objective: Objective = SelfSupervised() if args.self_supervised else Supervised()
    names = [n for n in (args.methods or methods) if not methods[n].exact]
    if args.self_supervised:
        names = [n for n in names if not methods[n].needs_truth]
    seeds = args.seeds[:1] if args.small else args.seeds
    for network in args.networks:
        runs = {
            seed: Runs(
                network, make_study(args.volumes, setting, seed=seed, cache=args.cache), setting, objective, seed,
                args.cache,
            )
            for seed in seeds
        }  # fmt: skip
        references = {seed: reference_figures(run) for seed, run in runs.items()}
        print(json.dumps({"network": network, "references": references}, indent=1), flush=True)
        options = searched(names, runs[seeds[0]], args.shares[0], args.cache / f"options-{network}-{args.small}.json")
        names = list(options)  # of the others no options fit this network
        for share in args.shares:
            audits: dict[str, list[dict[str, Any]]] = {}
            for name in names:
                for seed, run in runs.items():
                    retain = share_of(run.study.retain, share, seed=seed)
                    found = run.audited(name, retain, options[name], CHEAP)
                    audits.setdefault(name, []).append(found.as_dict())
                print(row_of(name, audits[name]), flush=True)
            best = sorted(names, key=lambda n: -np.mean([passed_share(a) for a in audits[n]]))[:_COSTLY]
            costly = {}
            if share == args.shares[0] and not args.cheap:
                for name in best:
                    costly[name] = [
                        in_full(run, name, share_of(run.study.retain, share, seed=seed), options[name], args.report)
                        for seed, run in runs.items()
                    ]
                    print(name, "all rows:", [a["failed"] for a in costly[name]], flush=True)
            yield {
                "network": network,
                "setting": vars(setting),
                "self-supervised": args.self_supervised,
                "share of the retain set": share,
                "seeds": list(seeds),
                "references": references,
                "options": options,
                "methods": {name: summary(audits[name]) for name in names},
                "all rows": {name: [brief(a) for a in found] for name, found in costly.items()},
            }


def in_full(run: Runs, name: str, retain: Examples, options: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """Audit by all rows; write page and JSON where asked to."""
    found = run.audited(name, retain, options, ROWS)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        found.report(folder / f"{name}-seed{run.seed}.html", overwrite=True)
        found.save(folder / f"{name}-seed{run.seed}.json", overwrite=True)
    return found.as_dict()


def reference_figures(run: Runs) -> dict[str, Any]:
    """PSNR of the networks that all methods are held against."""
    networks = {"joint": run.joint, "oracle": run.oracle, "forget-oracle": run.forget_oracle}
    sets = {"retain test": run.study.retain_test, "forget test": run.study.forget_test}
    return {
        name: {kind: round(mean_psnr(model, examples), 2) for kind, examples in sets.items()}
        for name, model in networks.items()
    }


def searched(names: Sequence[str], run: Runs, share: float, file: Path) -> dict[str, dict[str, Any]]:
    """Options of each method; those that were found before are read."""
    known: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
    retain = share_of(run.study.retain, share, seed=run.seed)
    for name in names:
        if name in known:
            continue
        try:
            best, trials = search(
                methods[name], run.joint, run.study.forget, retain, run.budget(), run.judge, trials=_TRIALS
            )
        except ReconError as error:
            print("search", name, error, flush=True)
            continue
        known[name] = dict(best.options)
        print("search", name, known[name], [round(t.distance, 2) for t in trials], flush=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(known))
    return {name: known[name] for name in names if name in known}


def passed_share(found: Mapping[str, Any]) -> float:
    """Share of the bars that were met."""
    checks = found["checks"]
    return sum(check["passed"] for check in checks) / max(len(checks), 1)


def summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of each column, and how often each bar was met."""
    columns = {}
    for name, path in _COLUMNS.items():
        values = [v for v in (_at(a["figures"], path) for a in found) if v is not None]
        if values:
            columns[name] = [float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0]
    bars = {check["name"] for a in found for check in a["checks"]}
    met = {
        bar: f"{sum(c['passed'] for a in found for c in a['checks'] if c['name'] == bar)} of "
        f"{sum(c['name'] == bar for a in found for c in a['checks'])}"
        for bar in sorted(bars)
    }
    return {"figures": columns, "bars met": met}


def brief(found: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what of an audit by all rows is recorded."""
    return {key: found[key] for key in ("failed", "score", "checks", "cannot")}


def row_of(name: str, found: Sequence[Mapping[str, Any]]) -> str:
    """One line of the table."""
    figures = summary(found)["figures"]
    cells = [f"{title} {mean:+.3f} ± {spread:.3f}" for title, (mean, spread) in figures.items()]
    met = sum(passed_share(a) for a in found) / len(found)
    return f"{name:20s} {'  '.join(cells)}  bars {met:.0%}"


def sweep(volumes: Path, networks: Sequence[str], cache: Path) -> Iterator[dict[str, Any]]:
    """Joint network against oracle on validation brains, by sizes of the sets, steps and acceleration, one seed."""
    for network in networks:
        for retain, forget, steps, acceleration, references in _SWEEP:
            sizes = {"retain": retain, "forget": forget, "steps": steps}
            setting = replace(_FULL, **sizes, acceleration=acceleration, references=references)
            study = make_study(volumes, setting, cache=cache)
            joint, _ = trained(network, study.joint, setting, seed=0, cache=cache)
            oracle, _ = trained(network, study.retain, setting, seed=0, cache=cache)
            found = audit(
                joint,
                joint,
                oracle,
                forget=study.forget,
                retain=study.retain,
                retain_test=study.retain_validation,
                rows=("quality", "hallucination"),
            )
            line = {
                "sweep": True,
                "network": network,
                **sizes,
                "acceleration": acceleration,
                "references": references,
                "joint over oracle, dB": _at(found.figures, _COLUMNS["gap dB"]),
                "null-space energy": _at(found.figures, ("hallucination", "null-space energy")),
            }
            print(line, flush=True)
            yield line


def _at(figures: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = figures
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


if __name__ == "__main__":
    main()
