"""Curves and points as SVG inside the page: sharp at any size, in the page's own colours of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from recon.report.markup import Markup, element

Points = Sequence[tuple[float, float]]
STYLE = (
    ".chart{max-width:34rem;width:100%;height:auto;display:block}.chart text{fill:currentColor;font-size:11px}"
    ".chart .axis{stroke:currentColor;stroke-width:1;fill:none}.chart .grid{stroke:var(--line);stroke-width:1}"
    ".legend{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;font-size:.88rem;margin:.4rem 0 0}"
    ".legend i{display:inline-block;width:.8rem;height:.8rem;border-radius:2px;margin-right:.4rem}"
)
_COLOURS = (
    "#0b8f86",
    "#d1495b",
    "#3d6fd1",
    "#c98a1b",
    "#7a5bc0",
    "#5d6670",
    "#2f9e44",
    "#e8590c",
    "#ae3ec9",
    "#1098ad",
)
_WIDTH, _HEIGHT = 480.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 12.0, 12.0, 46.0
_LABELS = 78.0  # of the height, where labels of the first axis are names


def line_chart(
    series: Mapping[str, Points],
    x_label: str,
    y_label: str,
    *,
    x_ticks: Sequence[tuple[float, str]] | None = None,
    diagonal: bool = False,
    order: Sequence[str] = (),
) -> Markup:
    """Draw curves; what is not finite is left out.

    Parameters
    ----------
    series
        Points (x, y) by name, in the order in which they are joined.
    x_label, y_label
        Of the axes.
    x_ticks
        Positions and names on the first axis; numbers by default.
    diagonal
        Draw the line from (0, 0) to (1, 1).
    order
        Names whose colours are those of their places here; the others' follow.
    """
    finite = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in series.items()}
    frame = _Frame([p for points in finite.values() for p in points], x_ticks)
    colours = _colours(list(series), order)
    lines = [
        element(
            "polyline",
            points=" ".join(f"{x:.1f},{y:.1f}" for x, y in map(frame.place, points)),
            fill="none",
            stroke=colours[name],
            stroke_width=2,
            stroke_linejoin="round",
        )
        for name, points in finite.items()
    ]
    if diagonal:
        (x1, y1), (x2, y2) = frame.place((0, 0)), frame.place((1, 1))
        lines.insert(0, element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="grid", stroke_dasharray="4 4"))
    return frame.chart(lines, colours, x_label, y_label)


def point_chart(
    points: Mapping[str, tuple[float, float, float]], x_label: str, y_label: str, *, order: Sequence[str] = ()
) -> Markup:
    """Draw named points (x, y, size from 0 to 1); what is not finite is left out. ``order`` as in `line_chart`."""
    finite = {name: point for name, point in points.items() if all(map(math.isfinite, point))}
    frame = _Frame([(x, y) for x, y, _ in finite.values()], None)
    colours = _colours(list(finite), order)
    marks = []
    for name, (x, y, size) in finite.items():
        px, py = frame.place((x, y))
        radius = 4 + 14 * math.sqrt(min(max(size, 0.0), 1.0))
        where = {"cx": round(px, 1), "cy": round(py, 1), "r": round(radius, 1)}
        circle = element("circle", element("title", name), **where, fill=colours[name], fill_opacity=0.55)
        marks.append(circle)
    return frame.chart(marks, colours, x_label, y_label)


class _Frame:
    """Axes around points."""

    def __init__(self, points: Points, x_ticks: Sequence[tuple[float, str]] | None) -> None:
        self.names = x_ticks is not None and any(len(text) > 3 for _, text in x_ticks)
        self.bottom = _LABELS if self.names else _BOTTOM
        xs, ys = ([p[axis] for p in points] or [0.0, 1.0] for axis in (0, 1))
        if x_ticks is None:
            self.x, self.x_ticks = _range(xs)
        else:
            positions = [position for position, _ in x_ticks]
            self.x, self.x_ticks = _widened(min(positions), max(positions)), list(x_ticks)
        self.y, self.y_ticks = _range(ys)

    def place(self, point: tuple[float, float]) -> tuple[float, float]:
        """Return where a point stands in the picture."""
        across = (point[0] - self.x[0]) / (self.x[1] - self.x[0])
        up = (point[1] - self.y[0]) / (self.y[1] - self.y[0])
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - self.bottom - up * (_HEIGHT - _TOP - self.bottom)

    def chart(self, marks: Sequence[Markup], colours: Mapping[str, str], x_label: str, y_label: str) -> Markup:
        """Return axes, marks and legend."""
        floor, right = _HEIGHT - self.bottom, _WIDTH - _RIGHT
        parts: list[Markup] = []
        for value, text in self.y_ticks:
            y = self.place((self.x[0], value))[1]
            parts += [
                element("line", x1=_LEFT, x2=right, y1=y, y2=y, class_="grid"),
                element("text", text, x=_LEFT - 6, y=y + 4, text_anchor="end"),
            ]
        for value, text in self.x_ticks:
            x = self.place((value, self.y[0]))[0]
            turned = {"transform": f"rotate(-35 {x:.1f} {floor + 14})"} if self.names else {}
            anchor = "end" if self.names else "middle"
            parts.append(element("text", text, x=round(x, 1), y=floor + 14, text_anchor=anchor, **turned))
        middle = (floor + _TOP) / 2
        parts += [
            element("path", d=f"M{_LEFT} {_TOP}V{floor}H{right}", class_="axis"),
            element("text", x_label, x=(_LEFT + right) / 2, y=_HEIGHT - 6, text_anchor="middle"),
            element("text", y_label, x=14, y=middle, text_anchor="middle", transform=f"rotate(-90 14 {middle})"),
        ]
        picture = element(
            "svg",
            *parts,
            *marks,
            viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
            class_="chart",
            role="img",
            aria_label=f"{y_label} over {x_label}: {', '.join(colours)}",
        )
        keys = [element("span", element("i", style=f"background:{c}"), name) for name, c in colours.items()]
        return element("div", picture, element("div", *keys, class_="legend"))


def _range(values: Sequence[float]) -> tuple[tuple[float, float], list[tuple[float, str]]]:
    """Return limits that hold all values, and round marks between them."""
    low, high = _widened(min(values), max(values))
    marks = np.asarray(MaxNLocator(5).tick_values(low, high))
    return (float(marks[0]), float(marks[-1])), [(float(mark), f"{mark:.6g}") for mark in marks]


def _widened(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _colours(names: Sequence[str], order: Sequence[str]) -> dict[str, str]:
    places = {name: i for i, name in enumerate(dict.fromkeys([*order, *names]))}
    return {name: _COLOURS[places[name] % len(_COLOURS)] for name in names}
