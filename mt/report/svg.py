"""Matplotlib figures as SVG elements that stand in a page: small, deterministic, in the page's own colours."""

from __future__ import annotations

import html
import re
import warnings
from collections.abc import Callable
from io import StringIO
from typing import Any

INK = "#010203"
"""stands for the page's text colour while matplotlib draws; `currentColor` afterwards"""

SERIES = ["#0b62a8", "#c2500a", "#0a7d5c", "#8e3a9d", "#6b5c00", "#a01c3c"]
"""line colours on a light ground; a dark page replaces them through the variables --series-1 to --series-6"""
OVER, UNDER = "#c1384c", "#2f7196"
_VARIABLES = {OVER: "--over", UNDER: "--under", **{colour: f"--series-{n}" for n, colour in enumerate(SERIES, 1)}}
MARKERS = ["o", "s", "^", "D", "v", "P"]
DASHES: list[Any] = ["-", (0, (5, 2)), (0, (2, 1.2)), (0, (6, 2, 1, 2)), (0, (1, 1)), (0, (8, 2))]
"""markers and dashes tell lines apart without colour, too"""

STYLE = {
    "svg.fonttype": "none",
    "text.usetex": False,  # whatever the user's matplotlibrc says: names are no TeX
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "hatch.linewidth": 0.6,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "grid.color"), INK),
    "legend.frameon": False,
    "legend.fontsize": 8,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
    "lines.markersize": 4,
    "axes.linewidth": 0.7,
    "axes.facecolor": "none",
}


def svg_element(name: str, draw: Callable[[], Any], description: str) -> str:
    """A figure as an SVG element; the same text for the same input.

    Text stays text; the ink is `currentColor` on a transparent ground, so that it follows the page around it. `name`
    differs for each figure of a page: it seeds the ids inside. `description` is for those who cannot see it.
    """
    import matplotlib

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's fonts draw the text
        buffer = StringIO()
        draw().savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    for waste in (r"<metadata>.*?</metadata>\s*", r"<style.*?</style>\s*", r"<!--.*?-->\s*", r"<defs>\s*</defs>\s*"):
        svg = re.sub(waste, "", svg, flags=re.DOTALL)
    # matplotlib names its groups figure_1, axes_1 ...: the same in every figure, and nothing refers to them
    svg = re.sub(r'(<g) id="[a-zA-Z0-9.]+_\d+"', r"\1", svg)
    # coordinates to a hundredth of a point, finer than any screen; the texts between the tags keep their digits
    svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", svg)
    svg = svg.replace(INK, "currentColor")
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable}, {colour})")
    label = html.escape(description, quote=True)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" stroke-linejoin="round" ', 1)


def svg_document(svg: str) -> str:
    """A figure as a file: on a white ground, in colours that every viewer knows, since no page around it gives any."""
    plain = re.sub(r"var\([^,]+, (#\w+)\)", r"\1", svg).replace("currentColor", "#1a1f26")
    head, end, rest = plain.partition(">")
    return f'{head}{end}\n<rect width="100%" height="100%" fill="#fff"/>{rest}\n'


def label_text(text: str) -> str:
    """Text from outside as a label: 30 characters of one line, without what hides text or turns it round."""
    shown = "".join(character if character.isprintable() else " " for character in text)
    return shown if len(shown) <= 30 else shown[:29] + "…"


def line_style(number: int) -> dict[str, Any]:
    """Colour, marker and dashes of the n-th line of a figure."""
    number %= len(SERIES)
    return {"color": SERIES[number], "marker": MARKERS[number], "linestyle": DASHES[number], "linewidth": 1.5}
