"""A page without scripts that loads nothing from elsewhere."""

from __future__ import annotations

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
