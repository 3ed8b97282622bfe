"""HTML elements whose text is escaped unless it is markup already, so that nothing from a file can be forgotten."""

from __future__ import annotations

from html import escape

_VOID = ("img", "input", "meta")


class Markup(str):
    """Text that is HTML and needs no escaping."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: str | int | float | bool) -> Markup:
    """Return one element.

    Attribute names lose a trailing underscore and ``_`` becomes ``-`` (``class_``, ``aria_label``);
    True stands for an attribute without value, False for none.
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not False
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: tuple[str, ...] | list[str]) -> Markup:
    """Return the children one after the other, each escaped unless it is `Markup`."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children))
