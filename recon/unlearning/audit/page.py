"""The audit as one page: verdict and score, bars, pictures, curves, and every figure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recon.display import common_window, highest
from recon.report.charts import STYLE, line_chart, point_chart
from recon.report.document import document, picture, section, table
from recon.report.markup import Markup, element
from recon.report.pictures import Scale, data_uri
from recon.unlearning.audit.quality import METRICS
from recon.unlearning.audit.relearning import ELSEWHERE, PLAIN, QUANTISED
from recon.unlearning.audit.subjects import FORGET_TEST, JOINT, NETWORKS, ORACLE, RETAIN_TEST, UNLEARNED, Picture

if TYPE_CHECKING:
    from recon.unlearning.audit.result import Audit

_STYLE = (
    STYLE
    + ".row{display:flex;flex-wrap:wrap;gap:.7rem;margin:.4rem 0 1rem}.row figure{margin:0}"
    + ".row img{image-rendering:pixelated;width:11rem;height:auto;display:block}"
    + ".charts{display:flex;flex-wrap:wrap;gap:1.5rem}.charts>div{flex:1 1 22rem;max-width:34rem}"
)
_DECIBEL = {"psnr": "PSNR, dB", "ssim": "SSIM", "nmse": "NMSE", "hfen": "HFEN", "loss": "loss"}
_UNSEEN = (
    "The part of the error in the null space of the sampling: what a network made up or left out without asking the "
    "data. All maps in one scale."
)
_KINDS = {
    "reconstruction": ("Reconstructions", "Test slices of what is kept where the joint network errs most.", "gray"),
    "null space": ("What the data do not show", _UNSEEN, "magma"),
    "forgotten": ("What was forgotten", "Test slices of the organ that was to be forgotten.", "gray"),
}


def audit_page(audit: Audit, others: Mapping[str, Audit]) -> str:
    """Return the whole HTML document; ``others`` share the plane of quality, forgetting and cost."""
    sections = [
        _bars(audit),
        _missing(audit),
        *(_pictures(audit, kind) for kind in _KINDS),
        _hallucination(audit.figures.get("hallucination", {})),
        _set_table("Quality of what is kept", audit.figures.get("quality", {}), RETAIN_TEST),
        *(
            _set_table(f"Error on what was forgotten: {name} set", found, name)
            for name, found in audit.figures.get("forgetting", {}).items()
            if isinstance(found, Mapping)
        ),
        _layers(audit.figures),
        _membership(audit.figures),
        _relearning(audit.figures.get("relearning", {})),
        _plane({UNLEARNED: audit, **others}),
        _record(audit),
    ]
    return document("Audit of unlearning", *(s for s in sections if s), style=_STYLE, header=_header(audit))


def _header(audit: Audit) -> tuple[Markup, ...]:
    if not audit.checks:
        verdict = "No bar could be judged."
    elif not audit.failed:
        verdict = f"All {len(audit.checks)} bars that could be judged are met"
        verdict += "." if audit.passed else ", but none of them tells whether it was forgotten."
    else:
        verdict = f"Not forgotten as it should be: {len(audit.failed)} of {len(audit.checks)} bars missed."
    lines = [element("p", element("strong", verdict), class_="verdict")]
    if "gap closed" in audit.score:
        parts = ", ".join(f"{name} {value:.2f}" for name, value in audit.score["parts"].items())
        text = f"Gap to the oracle closed: {audit.score['gap closed']:.2f} (1 is as the oracle, 0 as before). By part: "
        lines.append(element("p", text + parts))
    return (*lines, *(element("p", note, class_="muted") for note in audit.notes))


def _bars(audit: Audit) -> Markup:
    if not audit.checks:
        return Markup("")
    rows = [
        element(
            "tr",
            element("th", check.name, scope="row"),
            element("td", element("span", f"{check.value:.4g}"), class_="" if check.passed else "bad"),
            element("td", check.bar),
            element("td", "met" if check.passed else "missed"),
        )
        for check in audit.checks
    ]
    return section("Bars", table(["bar", "found", "wanted", ""], rows))


def _missing(audit: Audit) -> Markup:
    if not audit.cannot:
        return Markup("")
    items = [element("li", element("strong", name), f": {why}") for name, why in audit.cannot.items()]
    return section("What this audit cannot say", element("ul", *items))


def _pictures(audit: Audit, kind: str) -> Markup:
    shown = [one for one in audit.pictures if one.kind == kind]
    if not shown:
        return Markup("")
    title, meaning, palette = _KINDS[kind]
    images = [image for one in shown for image in one.images.values()]
    top = common_window(images, percentile=99.8) if palette == "gray" else highest(images, percentile=99.8)
    scale = Scale(0.0, top, palette)
    return section(title, *(_picture_row(one, scale) for one in shown), meaning=meaning)


def _picture_row(shown: Picture, scale: Scale) -> Markup:
    figures = [
        picture(data_uri(image, scale), f"{shown.kind}, {shown.title}: {name}", name)
        for name, image in shown.images.items()
    ]
    return element("div", element("h3", shown.title), element("div", *figures, class_="row"))


def _hallucination(row: Mapping[str, Any]) -> Markup:
    if not row:
        return Markup("")
    response = row.get("response to a piece in the null space", {})
    columns = {
        "null-space energy": row["null-space energy"],
        "false structures a slice": row["false structures a slice"],
        "response to an unseen piece, worst": response.get("worst", {}),
        "response, mean": response.get("mean", {}),
    }
    meaning = (
        "Energy of the unseen part of the error over that of the truth; connected regions where it is strong; and how "
        "much of a piece of the forgotten organ, put where the sampling hardly sees it, a network completes (1: all)."
    )
    return section("Hallucination", _by_network(columns), meaning=meaning)


def _set_table(title: str, row: Mapping[str, Any], examples: str) -> Markup:
    if "mean" not in row:
        return Markup("")
    names = [name for name in (*METRICS, "loss") if name in row["mean"][UNLEARNED]]
    columns = {_DECIBEL[name]: {model: found[name] for model, found in row["mean"].items()} for name in names}
    volumes = len(row.get("volumes", {}))
    meaning = f"Mean over {volumes} volumes of the {examples} set." if volumes else ""
    return section(title, _by_network(columns), meaning=meaning)


def _layers(figures: Mapping[str, Any]) -> Markup:
    charts = []
    for examples in (FORGET_TEST, RETAIN_TEST):
        found = figures.get("cka", {}).get(examples)
        if found:
            layers = list(next(iter(found["layers"].values())))
            ticks = [(float(i), ".".join(name.split(".")[-3:])) for i, name in enumerate(layers)]
            if len(ticks) > 16:
                ticks = ticks[:: -(-len(ticks) // 16)]
            series = {
                name: [(float(i), values[layer]) for i, layer in enumerate(layers)]
                for name, values in found["layers"].items()
            }
            charts.append(_titled(f"CKA on the {examples} set", line_chart(series, "layer", "CKA", x_ticks=ticks)))
    accuracy = figures.get("probe", {}).get("balanced accuracy")
    if accuracy:
        groups = list(accuracy[UNLEARNED])
        ticks = [(float(i), group) for i, group in enumerate(groups)]
        series = {
            name: [(float(i), values[group]) for i, group in enumerate(groups)] for name, values in accuracy.items()
        }
        chart = line_chart(series, "group of layers", "balanced accuracy", x_ticks=ticks, order=NETWORKS)
        charts.append(_titled("Probe: which organ is it?", chart))
    if not charts:
        return Markup("")
    meaning = (
        "Likeness of each layer's output to that of the joint network and of the oracle (1: alike up to rotation and "
        "scale), and how well a linear read-out tells the two organs apart."
    )
    return section("Layer by layer", element("div", *charts, class_="charts"), meaning=meaning)


def _membership(figures: Mapping[str, Any]) -> Markup:
    charts, columns = [], {}
    for row, title in (("membership", "By the loss"), ("shadow", "With shadow models")):
        found = {name: v for name, v in figures.get(row, {}).items() if isinstance(v, Mapping) and "roc" in v}
        if found:
            series = {name: [(a, b) for a, b in v["roc"]] for name, v in found.items()}
            charts.append(
                _titled(title, line_chart(series, "false positives", "true positives", diagonal=True, order=NETWORKS))
            )
            columns[f"{title}: area"] = {name: v["auc"] for name, v in found.items()}
            columns["true positives at 1 % false" + (" (shadow)" if row == "shadow" else "")] = {
                name: v["tpr"] for name, v in found.items()
            }
    if not charts:
        return Markup("")
    meaning = "Who guesses which slices were trained on? Nearer to the diagonal is nearer to chance."
    return section("Membership", element("div", *charts, class_="charts"), _by_network(columns), meaning=meaning)


def _relearning(row: Mapping[str, Any]) -> Markup:
    charts = []
    for name in (PLAIN, QUANTISED, ELSEWHERE):
        if name in row:
            ticks = [(math.log1p(step), str(step)) for step in row["steps"]]
            series = {
                model: [(x, y) for (x, _), y in zip(ticks, curve, strict=True)]
                for model, curve in row[name]["curves"].items()
            }
            charts.append(
                _titled(name[0].upper() + name[1:], line_chart(series, "steps", "loss", x_ticks=ticks, order=NETWORKS))
            )
    if not charts:
        return Markup("")
    meaning = "Loss on test slices of what was forgotten while it is learned again from a few of its slices."
    return section("Does it come back?", element("div", *charts, class_="charts"), meaning=meaning)


def _plane(audits: Mapping[str, Audit]) -> Markup:
    """Every network by its gaps to the oracle; the size of a point is its cost."""
    points: dict[str, tuple[float, float, float]] = {}
    for name, audit in audits.items():
        kept = audit.figures.get("quality", {}).get("mean", {})
        forgotten = audit.figures.get("forgetting", {}).get(FORGET_TEST, {}).get("mean", {})
        if "psnr" not in kept.get(UNLEARNED, {}) or "psnr" not in forgotten.get(UNLEARNED, {}):
            continue
        cost = audit.figures.get("price", {}).get("share", {}).get("samples", 0.0)
        for model in kept:
            own = name if model == UNLEARNED else model
            size = cost if model == UNLEARNED else 1.0 if model in (JOINT, ORACLE) else 0.0
            points.setdefault(own, (kept[model]["psnr"], forgotten[model]["psnr"], size))
    if len(points) < 2:
        return Markup("")
    chart = point_chart(points, "PSNR of what is kept, dB", "PSNR of what was forgotten, dB", order=NETWORKS)
    meaning = (
        "A good network stands where the oracle stands. The area of a point is its cost as a part of the oracle's; "
        "where the cost is not known the point is smallest."
    )
    return section("Quality, forgetting, cost", chart, meaning=meaning)


def _record(audit: Audit) -> Markup:
    raw = json.dumps(audit.as_dict(), indent=1, ensure_ascii=False)
    return section("All figures", element("details", element("summary", "As JSON"), element("pre", raw)))


def _titled(title: str, chart: Markup) -> Markup:
    return element("div", element("h3", title), chart)


def _by_network(columns: Mapping[str, Mapping[str, float]]) -> Markup:
    """Tabulate figures, a network a row."""
    networks = list(dict.fromkeys(name for values in columns.values() for name in values))
    shown = {title: values for title, values in columns.items() if values}
    rows = [
        element(
            "tr",
            element("th", network, scope="row"),
            *(element("td", f"{v[network]:.4g}" if network in v else "–") for v in shown.values()),
        )
        for network in networks
    ]
    return table(["network", *shown], rows)
