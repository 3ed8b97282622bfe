"""The page itself: its sections as HTML, with style and script inside."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import recon
from recon.report.figures_of_merit import Merit, merit
from recon.report.markup import Markup, element
from recon.report.panels import Content, Panel, Tile

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_ROWS = ("hold_out_error", "data_residual", "misfit", "psnr", "ssim", "nmse", "hfen")  # the order of the table


def page(content: Content, title: str) -> str:
    """Return the whole HTML document."""
    assets = files(__package__)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup((assets / "page.css").read_text("utf-8"))),
        # Before the body, so that nothing flickers: without a script all slices are shown.
        element("script", Markup("document.documentElement.classList.add('js')")),
    )
    body = element(
        "body",
        _header(content, title),
        element(
            "main",
            _warnings(content),
            _toolbar(content),
            _section("images", content.images, content),
            _comparison(content),
            _table(content),
            *(_section(panel.key, panel, content) for panel in content.trust),
            *(_section(panel.key, panel, content) for panel in content.sampling),
            _provenance(content),
        ),
        element("footer", f"Written by recon {recon.__version__}. This file needs no network."),
        element("script", Markup((assets / "page.js").read_text("utf-8"))),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _header(content: Content, title: str) -> Markup:
    height, width = content.shape
    source = next(iter(content.provenance.values())).get("input", {})
    named = source.get("path") or source.get("format") if isinstance(source, Mapping) else source
    facts = [str(named)] if named else []
    shape = source.get("shape") if isinstance(source, Mapping) else None
    if isinstance(shape, list) and len(shape) > 1:
        facts.append(_count(shape[1], "coil"))
    facts += [
        f"{_count(content.n_slices, 'slice')} of {height} × {width} pixels",
        _count(len(content.methods), "method"),
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    ]
    return element(
        "header",
        element("h1", title),
        element("p", *(element("span", fact) for fact in facts), class_="facts"),
        *_verdict(content),
    )


def _verdict(content: Content) -> list[Markup]:
    """Return one sentence on the best method, where a figure without reference tells."""
    errors = {name: _mean(m.get("hold_out_error", [])) for name, m in content.metrics.items()}
    known = {name: value for name, value in errors.items() if math.isfinite(value)}
    if len(known) < 2:
        return []
    best = min(known, key=lambda name: known[name])
    text = element("strong", best)
    return [
        element("p", text, f" predicts left-out samples best (hold-out error {known[best]:.3f}).", class_="verdict")
    ]


def _warnings(content: Content) -> Markup:
    if not content.warnings:
        return Markup("")
    of: dict[str, list[str]] = {}
    for name, text in content.warnings:
        of.setdefault(text, []).append(name)
    items = [element("li", element("strong", ", ".join(names)), ": ", text) for text, names in of.items()]
    return element("section", element("h2", "Read this first"), element("ul", *items), class_="warnings", role="alert")


def _toolbar(content: Content) -> Markup:
    """Return the controls for all pictures at once; hidden without a script."""
    slices = Markup("")
    if len(content.slices) > 1:
        current = content.slices.index(_current(content))
        slices = element(
            "label",
            "Slice ",
            element(
                "input",
                type="range",
                id="slice",
                min=0,
                max=len(content.slices) - 1,
                value=current,
                data_slices=" ".join(map(str, content.slices)),
                data_labels=" ".join(str(content.labels[i]) for i in content.slices),
            ),
            element("output", str(content.labels[content.slices[current]]), for_="slice"),
            element("small", f"{len(content.slices)} of {content.n_slices} are in this page")
            if len(content.slices) < content.n_slices
            else "",
        )
    zoom = [
        element("button", f"{n}×", type="button", data_zoom=n, aria_pressed="true" if n == 1 else "false")
        for n in (1, 2, 3, 4)
    ]
    return element(
        "div",
        slices,
        element("span", "Zoom ", *zoom, class_="group", role="group", aria_label="Zoom"),
        element(
            "label",
            "Brightness ",
            element("input", type="range", id="brightness", min=0.5, max=3, step=0.05, value=1),
        ),
        element("small", "Click into a picture to zoom in there.", class_="hint"),
        class_="toolbar",
    )


def _section(key: str, panel: Panel, content: Content) -> Markup:
    groups = []
    for index in content.slices:
        tiles = [tile for tile in panel.tiles if tile.slice == index]
        label = f"Slice {content.labels[index]}"
        inside: list[str] = [_figure(tile, panel, label) for tile in tiles]
        if not tiles:
            inside = [element("p", "Not computed for this slice.", class_="muted")]
        groups.append(
            element(
                "div",
                element("h3", label, class_="slice-name") if content.n_slices > 1 else "",
                element("div", *inside, class_="grid", style=f"--n: {len(inside)}; --columns: {_columns(len(inside))}"),
                class_="slice current" if index == _current(content) else "slice",
                data_slice=index,
            )
        )
    return element(
        "section",
        element("h2", panel.title),
        element("p", panel.meaning, class_="meaning"),
        *groups,
        _colour_bar(panel) if panel.key != "mask" else "",
        id=key,
        class_="panel main" if key == "images" else "panel",
    )


def _figure(tile: Tile, panel: Panel, label: str) -> Markup:
    caption: list[str] = [element("strong", tile.method)]
    if tile.caption:
        caption.append(element("span", tile.caption))
    return element(
        "figure",
        element("div", _img(tile, panel, label), class_="frame", style=f"aspect-ratio: {tile.aspect:.4f}"),
        element("figcaption", *caption),
    )


def _img(tile: Tile, panel: Panel, label: str, **more: str) -> Markup:
    return element(
        "img",
        src=tile.uri,
        alt=f"{panel.title}: {tile.method}, {label.lower()}",
        width=tile.size[0],
        height=tile.size[1],
        data_method=tile.method,
        data_space=panel.space,
        data_kind=panel.key,
        **more,
    )


def _colour_bar(panel: Panel) -> Markup:
    colours = ["rgb({} {} {})".format(*colour) for colour in panel.scale.colours(24)]
    ticks = [
        element("span", _number(value), style=f"left: {100 * position:.1f}%") for position, value in panel.scale.ticks()
    ]
    return element(
        "div",
        element("div", class_="bar", style=f"background: linear-gradient(to right, {', '.join(colours)})"),
        element("div", *ticks, class_="ticks"),
        element("small", panel.scale.unit) if panel.scale.unit else "",
        class_="scale",
        aria_hidden="true",
    )


def _comparison(content: Content) -> Markup:
    current = _current(content)
    tiles = [tile for tile in content.images.tiles if tile.slice == current]
    if len(tiles) < 2:
        return Markup("")
    left, right = tiles[-1], tiles[0]
    label = f"Slice {content.labels[current]}"

    def chooser(side: str, chosen: Tile) -> Markup:
        options = [element("option", t.method, value=t.method, selected=t is chosen) for t in tiles]
        return element("label", element("span", side), element("select", *options, id=side.lower()))

    return element(
        "section",
        element("h2", "Compare two"),
        element(
            "p", "Drag over the picture, or use the arrow keys, to move the border.", class_="meaning needs-script"
        ),
        element("div", chooser("Left", left), chooser("Right", right), class_="choosers needs-script"),
        element(
            "div",
            element("div", _img(right, content.images, label), class_="layer", id="layer-right"),
            element("div", _img(left, content.images, label), class_="layer", id="layer-left"),
            element("span", left.method, class_="tag tag-left"),
            element("span", right.method, class_="tag tag-right"),
            element("span", class_="handle", aria_hidden="true"),
            element(
                "input",
                type="range",
                id="split",
                min=0,
                max=100,
                step=0.5,
                value=50,
                aria_label="Border between the left and the right picture, in percent",
            ),
            class_="frame slider",
            style=f"aspect-ratio: {left.aspect:.4f}",
        ),
        id="compare",
        style=f"--aspect: {left.aspect:.4f}",
    )


def _table(content: Content) -> Markup:
    names = dict.fromkeys(
        [*_ROWS, *(name for metrics in content.metrics.values() for name in metrics if not name.endswith("_interval"))]
    )
    rows = []
    for name in names:
        per_method = [content.metrics[method].get(name, []) for method in content.methods]
        if any(math.isfinite(_mean(values)) for values in per_method):
            intervals = [content.metrics[method].get(f"{name}_interval", []) for method in content.methods]
            rows.append(_row(merit(name), per_method, intervals, content.labels))
    measured = any("memory_growth_bytes" in record for record in content.provenance.values())
    for name in ("seconds", "memory_growth_bytes" if measured else "peak_memory_bytes"):
        costs = [_cost(content.provenance[method].get(name)) for method in content.methods]
        if any(math.isfinite(cost) for cost in costs):
            rows.append(_row(merit(name), [[cost] for cost in costs], [[] for _ in costs]))
    if not rows:
        return Markup("")
    head = element(
        "tr", element("th", "Figure", scope="col"), *(element("th", m, scope="col") for m in content.methods)
    )
    return element(
        "section",
        element("h2", "Figures"),
        element(
            "div",
            element("table", element("thead", head), element("tbody", *rows)),
            class_="scroll",
            tabindex="0",
            role="region",
            aria_label="Figures of all methods",
        ),
        element("p", "The best of each row is in bold with a dot.", class_="muted") if len(content.methods) > 1 else "",
        id="figures",
    )


def _row(
    what: Merit,
    per_method: Sequence[Sequence[float]],
    intervals: Sequence[Sequence[float]],
    labels: Sequence[int] = (),
) -> Markup:
    means = [_mean(values) for values in per_method]
    best = what.best(means)
    cells = []
    for i, (values, interval) in enumerate(zip(per_method, intervals, strict=True)):
        finite = {place: value for place, value in enumerate(values) if math.isfinite(value)}
        below: list[str] = []
        if len(interval) == 2:
            below.append(element("small", f"{what.write(interval[0])} to {what.write(interval[1])}"))
        elif len(finite) > 1:
            below.append(element("small", f"{what.write(min(finite.values()))} to {what.write(max(finite.values()))}"))
        if len(finite) > 1 and len(values) == len(labels):
            worst = what.worst(finite)
            below += [element("small", f"worst in slice {labels[worst]}")] if worst is not None else []
        written = what.write(means[i]) if finite else "–"
        mark = "best" if i in best else "bad" if any(v > what.limit for v in finite.values()) else ""
        cells.append(element("td", element("span", written), *below, class_=mark))
    return element("tr", element("th", what.label, element("small", what.meaning), scope="row"), *cells)


def _provenance(content: Content) -> Markup:
    blocks = []
    for method in content.methods:
        record = content.provenance[method]
        steps = record.get("steps")
        inside = [_lines({key: value for key, value in record.items() if key not in ("steps", "warnings")})]
        if isinstance(steps, list) and steps:
            inside.insert(0, element("ol", *(element("li", str(step)) for step in steps)))
        raw = json.dumps(record, indent=2, default=str, ensure_ascii=False)
        inside.append(element("details", element("summary", "As JSON"), element("pre", raw)))
        blocks.append(
            element("details", element("summary", method), *inside, open=len(content.methods) == 1, class_="record")
        )
    return element(
        "section",
        element("h2", "Provenance"),
        element("p", "What was done to which input, with which versions.", class_="meaning"),
        *blocks,
        id="provenance",
    )


def _lines(record: Mapping[str, Any]) -> Markup:
    items: list[str] = []
    for key, value in _flat(record):
        items += [element("dt", key), element("dd", value)]
    return element("dl", *items)


def _flat(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in record.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            rows += _flat(value, f"{name}, ")
        elif isinstance(value, list | tuple):
            text = "; ".join(_text(item) for item in value)
            rows.append((name, text if len(text) < 400 else f"{text[:400]} … ({len(value)} in all)"))
        elif str(key).endswith("_bytes"):
            rows.append((name, merit(str(key)).write(float(value))))
        else:
            rows.append((name, _text(value)))
    return rows


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None or value == "" else str(value)


def _columns(n: int) -> int:
    """Return the number of columns, at most 4, that fills its last row best."""
    return n if n <= 4 else max((3, 4), key=lambda columns: ((n - 1) % columns, columns))


def _current(content: Content) -> int:
    """Return the slice shown first: the middle one."""
    return content.slices[len(content.slices) // 2]


def _cost(value: object) -> float:
    if isinstance(value, Mapping):
        value = value.get("model", value.get("total"))
    return float(value) if isinstance(value, int | float) else math.nan


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _number(value: float) -> str:
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.3g}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
