"""A layered graph as a picture, written by hand: arrows run downwards, and no other program is needed."""

from __future__ import annotations

from html import escape

from tinyvit.autodiff.layout import Layout, arrange

CHARACTER = 7.25  # the advance of a monospaced letter at 12 px, which every system's is near
HEIGHT, MARGIN, ARROW = 38.0, 16.0, 6.0

#   kind          outline          fill       radius  words of the legend
LOOKS = {
    "leaf":      ("#c77700",       "#fff3df",  19,    "leaf: derivatives arrive here"),
    "input":     ("#008a63",       "#e6f5f0",  0,     "input"),
    "constant":  ("#9a9a9a",       "#f6f6f6",  0,     "constant"),
    "primitive": ("#4a4a4a",       "#ffffff",  5,     "primitive"),
    "equation":  ("#0072b2",       "#e6f1f9",  5,     "equation"),
}  # fmt: skip

STYLE = """\
.tv-node text{font-family:Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:12px;text-anchor:middle;fill:#1d1d1d}
.tv-node text.tv-shape{font-size:10.5px;fill:#6b6b6b}
.tv-line{fill:none;stroke:#7c7c7c;stroke-width:1.2}
.tv-head{fill:#7c7c7c}
.tv-legend{font-family:Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:10.5px;fill:#6b6b6b}"""


def picture(nodes) -> str:
    """A standalone SVG of nodes (kind, label, shape, title, is_output, inputs' places, whether their order is free)."""
    widths = [_width(label, shape) for _, label, shape, *_ in nodes]
    layout = arrange(widths, [node[5] for node in nodes], [i for i, node in enumerate(nodes) if node[6]])
    tops = _tops(layout)
    legend, legend_width = _legend([kind for kind in LOOKS if any(node[0] == kind for node in nodes)])
    right = max(x + w / 2 for x, w in zip(layout.x, layout.widths, strict=True))
    layout.x = [x + max(0.0, legend_width - right) / 2 for x in layout.x]  # a small graph stands above the middle
    width = max(right, legend_width) + 2 * MARGIN
    height = tops[-1] + HEIGHT + 26 + 2 * MARGIN
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="{-MARGIN:g} {-MARGIN:g} {width:.0f} {height:.0f}" style="max-width:100%;height:auto" role="img">',
        "<title>Computation graph</title>",
        f"<style>{STYLE}</style>",
        f'<rect x="{-MARGIN:g}" y="{-MARGIN:g}" width="100%" height="100%" fill="#ffffff"/>',
        *(_line(layout, tops, link, len(nodes)) for link in layout.links),
        *(_node(node, layout.x[i], layout.widths[i], tops[layout.layer[i]]) for i, node in enumerate(nodes)),
        f'<g transform="translate(0 {tops[-1] + HEIGHT + 22:.1f})">{legend}</g>',
        "</svg>",
    ])  # fmt: skip


def _width(label: str, shape: str) -> float:
    """The width of a box that holds both lines."""
    return max(len(label) * CHARACTER, len(shape) * CHARACTER * 10.5 / 12) + 20


def _tops(layout: Layout) -> list:
    """The upper edge of every layer; more room is left where lines go far to the side."""
    far = [0.0] * len(layout.rows)
    for a, b, port in layout.links:
        far[layout.layer[b]] = max(far[layout.layer[b]], abs(layout.x[a] - layout.x[b] - port * layout.widths[b]))
    tops = [0.0]
    for reach in far[1:]:
        tops.append(tops[-1] + HEIGHT + 24 + min(0.08 * reach, 36))
    return tops


def _line(layout: Layout, tops: list, link, count: int) -> str:
    """One piece of a line. Past a layer it runs straight down, between layers it bends; an arrow ends it."""
    a, b, port = link
    x0, x1 = layout.x[a], layout.x[b] + port * layout.widths[b]
    y0, y1 = tops[layout.layer[a]] + HEIGHT, tops[layout.layer[b]]
    head = ""
    if b < count:
        head = f'<path class="tv-head" d="M{x1:.1f} {y1:.1f}l-3.2 {-ARROW:g}h6.4z"/>'
        y1 -= ARROW
    start = f"M{x0:.1f} {y0:.1f}" if a < count else f"M{x0:.1f} {y0 - HEIGHT:.1f}V{y0:.1f}"
    middle = (y0 + y1) / 2
    bend = f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}"
    return f'<path class="tv-line" d="{start}{bend}"/>{head}'


def _node(node, x: float, width: float, top: float) -> str:
    """A box with its two lines; pointing at it shows the whole call."""
    kind, label, shape, title, is_output, *_ = node
    return (
        f'<g class="tv-node"><title>{escape(title)}</title>'
        f"{_box(kind, x - width / 2, top, width, HEIGHT, 2.4 if is_output else 1.2)}"
        f'<text x="{x:.1f}" y="{top + 16:.1f}">{escape(label)}</text>'
        f'<text class="tv-shape" x="{x:.1f}" y="{top + 30:.1f}">{escape(shape)}</text></g>'
    )


def _box(kind: str, x: float, y: float, width: float, height: float, stroke: float) -> str:
    outline, fill, radius, _ = LOOKS[kind]
    dashes = ' stroke-dasharray="4 3"' if kind == "constant" else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:g}" rx="{min(radius, height / 2):g}" '
        f'fill="{fill}" stroke="{outline}" stroke-width="{stroke:g}"{dashes}/>'
    )


def _legend(kinds) -> tuple[str, float]:
    """What the boxes mean, in a row, and its width."""
    parts, x = [], 0.0
    for kind in kinds:
        words = LOOKS[kind][-1]
        parts.append(_box(kind, x, 0, 18, 11, 1) + f'<text class="tv-legend" x="{x + 24:.1f}" y="9.5">{words}</text>')
        x += 24 + len(words) * 6.4 + 18
    return "".join(parts), x - 18
