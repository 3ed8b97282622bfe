"""The page of the sharing matrix: what is clear, a heat map for each acceleration, the organs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib as mpl

from recon.display import common_window
from recon.report.document import document, picture, section, table
from recon.report.markup import Markup, element
from recon.report.pictures import Scale, data_uri

if TYPE_CHECKING:
    from recon.unlearning.sharing import DataAudit, Sharing

_STYLE = (
    ".row{display:flex;flex-wrap:wrap;gap:.8rem}.row figure{width:11rem}"
    ".row img{width:100%;border-radius:4px;display:block}"
    ".heat{width:auto}.heat td,.heat th{min-width:7rem;text-align:center}.heat tbody th{text-align:left;min-width:7rem}"
    ".heat td{border:2px solid var(--paper)}.heat td.map{color:#1b1f24}.heat td.own{background:var(--soft)}"
)
_LEAST = 0.3  # dB that has the strongest colour, where nothing is stronger


def data_audit_page(audit: DataAudit) -> str:
    """Return the whole HTML document."""
    plan = audit.plan
    facts = (
        f"{len(audit.organs)} organs",
        f"{plan.network}, {plan.steps} steps of {plan.batch_size} slices",
        f"{plan.seeds} seed{'s' * (plan.seeds > 1)}",
        f"{audit.seconds / 60:.1f} minutes",
    )
    strongest = max((abs(s.gain) for s in audit.sharing), default=0.0)
    return document(
        "Which organs help each other",
        _notes(audit),
        _advice(audit),
        *(_heat_map(audit, a, max(strongest, _LEAST)) for a in plan.accelerations),
        *(_transfer(audit, a) for a in plan.accelerations),
        _organs(audit),
        style=_STYLE,
        header=(element("p", *(element("span", fact) for fact in facts), class_="facts"),),
    )


def _notes(audit: DataAudit) -> Markup:
    if not audit.notes:
        return Markup("")
    items = [element("li", note) for note in audit.notes]
    return section("Read this first", element("ul", *items), class_="warnings", role="alert")


def _advice(audit: DataAudit) -> Markup:
    lines = audit.advice
    body = (
        element("ul", *(element("li", line) for line in lines))
        if lines
        else element(
            "p", "No pair of organs helps or harms clearly: the interval of every gain holds 0, or seeds differ."
        )
    )
    return section("What is clear", body)


def _heat_map(audit: DataAudit, acceleration: float, strongest: float) -> Markup:
    cells = {(s.tested, s.beside): s for s in audit.sharing if s.acceleration == acceleration}
    rows = []
    for tested in audit.organs:
        row = [element("th", tested)]
        for beside in audit.organs:
            if tested == beside:
                row.append(_own(audit.psnr, acceleration, tested))
            else:
                row.append(_cell(cells.get((tested, beside)), strongest))
        rows.append(element("tr", *row))
    meaning = (
        "Gain in PSNR on an organ (row) when another one (column) is trained on beside it, in as many steps; below it "
        "the 95 % interval and the change of hallucination. On the diagonal: PSNR when trained alone."
    )
    titles = ["tested", *(f"with {name}" for name in audit.organs)]
    return section(f"Sharing at {acceleration:g}x", table(titles, rows, class_="heat"), meaning=meaning)


def _own(psnr: Mapping[tuple[float, str, str], float], acceleration: float, organ: str) -> Markup:
    value = psnr.get((acceleration, organ, organ))
    return element("td", "-" if value is None else f"{value:.2f} dB", class_="own")


def _cell(sharing: Sharing | None, strongest: float) -> Markup:
    if sharing is None:
        return element("td", "-")
    share = 0.5 + 0.35 * max(-1.0, min(1.0, sharing.gain / strongest))
    colour = mpl.colors.to_hex(mpl.colormaps["RdYlGn"](share))
    gain = f"{sharing.gain:+.2f} dB"
    return element(
        "td",
        element("strong", gain) if sharing.verdict != "no clear difference" else gain,
        element("small", f"{sharing.low:+.2f} to {sharing.high:+.2f}"),
        element("small", f"hallucination {sharing.hallucination - 1:+.0%}"),
        class_="map",
        style=f"background:{colour}",
        title=sharing.verdict,
    )


def _transfer(audit: DataAudit, acceleration: float) -> Markup:
    rows = []
    for tested in audit.organs:
        values = [audit.psnr.get((acceleration, tested, trained)) for trained in audit.organs]
        rows.append(
            element(
                "tr",
                element("th", tested),
                *(element("td", "-" if value is None else f"{value:.2f}") for value in values),
            )
        )
    titles = ["tested", *(f"only {name}" for name in audit.organs)]
    return section(
        f"One organ in place of another at {acceleration:g}x",
        table(titles, rows, class_="heat"),
        meaning="PSNR, dB, on an organ (row) of a network that only knows one organ (column).",
    )


def _organs(audit: DataAudit) -> Markup:
    figures = []
    for name, pixels in audit.pictures.items():
        train, test = audit.organs[name]
        source = data_uri(pixels, Scale(0.0, common_window([pixels])))
        told = f"{train} slices to train on, {test} to test on"
        figures.append(picture(source, name, element("strong", name), told))
    return section("Organs", element("div", *figures, class_="row"))
