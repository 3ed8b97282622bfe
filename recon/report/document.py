"""A page without scripts that loads nothing from elsewhere, and what such pages are made of."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

import recon
from recon.report.markup import Markup, element

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def document(title: str, *sections: Markup, style: str = "", header: tuple[str, ...] = ()) -> str:
    """Return the whole HTML document.

    Parameters
    ----------
    title
        Of the page, and its heading.
    sections
        Of its main part.
    style
        CSS after that of all reports.
    header
        What stands below the heading.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup((files(__package__) / "page.css").read_text("utf-8") + style)),
    )
    body = element(
        "body",
        element("header", element("h1", title), *header),
        element("main", *sections),
        element("footer", f"Written by recon {recon.__version__}. This file needs no network."),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def section(title: str, *content: Markup, meaning: str = "", **attributes: str) -> Markup:
    """Return a section: its heading, a line on what it means, content. Attributes as those of `element`."""
    below = [element("p", meaning, class_="meaning")] if meaning else []
    return element("section", element("h2", title), *below, *content, **attributes)


def table(titles: Sequence[str], rows: Sequence[Markup], *, class_: str = "") -> Markup:
    """Return a table of rows that are ``tr`` elements, below the titles of its columns; where it is wide it scrolls."""
    head = element("tr", *(element("th", title, scope="col") for title in titles))
    whole = element("table", element("thead", head), element("tbody", *rows), class_=class_ or False)
    return element("div", whole, class_="scroll")


def picture(source: str, alt: str, *caption: str, **attributes: str | int) -> Markup:
    """Return a picture over its caption, by default ``alt``. Attributes are the picture's."""
    return element(
        "figure", element("img", src=source, alt=alt, **attributes), element("figcaption", *(caption or (alt,)))
    )
