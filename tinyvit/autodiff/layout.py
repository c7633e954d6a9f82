"""Where the nodes of a layered drawing go: layers, order within a layer, places (Sugiyama et al. 1981).

Nodes are numbers, and come after those they depend on. A line that passes a layer on its way takes a place there, so
that it never runs through a node; lines from one node share their way for as long as they can.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass, field


@dataclass
class Layout:
    """Items are the nodes, and behind them the places that lines pass through.

    layer    of every item · x: its centre, from 0 · rows: the items of each layer, from the left
    links    (item, item one layer below, port): the pieces that lines are made of; port is where on the lower one
             the line arrives, as a share of its width from its centre (-½ … ½)
    """

    widths: list
    layer: list
    links: list = field(default_factory=list)
    rows: list = field(default_factory=list)
    x: list = field(default_factory=list)

    def above(self):
        """For every item the links that arrive at it."""
        return self._by(1)

    def below(self):
        """For every item the links that leave it."""
        return self._by(0)

    def _by(self, end: int):
        found: list = [[] for _ in self.layer]
        for link in self.links:
            found[link[end]].append(link)
        return found


def arrange(widths, inputs, swappable=(), *, line_width=14.0, gap=18.0) -> Layout:
    """A layout for nodes of the given widths.

    inputs     for every node those with lines to it, in the order in which they should arrive
    swappable  nodes whose lines may arrive in any order
    """
    layout = Layout(list(widths), layers(inputs))
    _link(layout, inputs, set(swappable), line_width)
    _order(layout)
    _swap(layout, set(swappable))
    _spread(layout, [not sources for sources in inputs], gap)
    return layout


def layers(inputs) -> list:
    """The longest way from a source to each node.

    What is prepared from sources alone and is not needed at once (a transposed weight) waits: it stands right above
    the first node that uses it.
    """
    users: list = [[] for _ in inputs]
    depth: list = []
    for node, sources in enumerate(inputs):
        depth.append(max((depth[s] + 1 for s in sources), default=0))
        for s in sources:
            users[s].append(node)
    latest = _pushed_down(depth, users, [True] * len(depth))
    waits: list = []
    for node, sources in enumerate(inputs):
        waits.append(not sources or (latest[node] > depth[node] and all(waits[s] for s in sources)))
    return _pushed_down(depth, users, waits)


def _pushed_down(depth: list, users: list, waits: list) -> list:
    """The layers when the nodes that may wait do so for as long as they can."""
    layer = list(depth)
    for node in reversed(range(len(depth))):
        if waits[node] and users[node]:
            layer[node] = min(layer[user] for user in users[node]) - 1
    return layer


def _link(layout: Layout, inputs, swappable: set, line_width: float) -> None:
    """Cut every line into links of one layer, through places that are added for them."""
    ways = [[node] for node in range(len(inputs))]  # a node, and its line's place in each layer below
    for node, sources in enumerate(inputs):
        for i, source in enumerate(sources):
            way = ways[source]
            while layout.layer[way[-1]] < layout.layer[node] - 1:
                _lengthen(layout, way, line_width)
            upper = way[layout.layer[node] - 1 - layout.layer[source]]
            layout.links.append((upper, node, 0.0 if node in swappable else _port(i, len(sources))))


def _port(i: int, count: int) -> float:
    """Where the i-th of some lines arrives: evenly over the width."""
    return (i + 1) / (count + 1) - 0.5


def _lengthen(layout: Layout, way: list, line_width: float) -> None:
    layout.links.append((way[-1], len(layout.layer), 0.0))
    layout.layer.append(layout.layer[way[-1]] + 1)
    layout.widths.append(line_width)
    way.append(len(layout.layer) - 1)


# order -------------------------------------------------------------------------------------


def _order(layout: Layout, sweeps: int = 12) -> None:
    """Sort each layer by the mean place of its neighbours, down and up in turn; keep the fewest crossings."""
    rows: list = [[] for _ in range(max(layout.layer) + 1)]
    for item, layer in enumerate(layout.layer):
        rows[layer].append(item)
    above, below = layout.above(), layout.below()
    place = [0.0] * len(layout.layer)
    best = None
    for sweep in range(sweeps):
        downwards = sweep % 2 == 0
        for row in rows if downwards else reversed(rows):
            _sort(row, place, above if downwards else below, upper=downwards)
        crossings = sum(_crossings(row, below, place) for row in rows)
        if best is None or crossings < best:
            best, layout.rows = crossings, [list(row) for row in rows]
        if not crossings:
            break


def _sort(row: list, place: list, links: list, upper: bool) -> None:
    """Sort one layer by the mean place of its neighbours on one side; who has none stays where it is."""
    for i, item in enumerate(row):
        near = [place[a] - port if upper else place[b] + port for a, b, port in links[item]]
        place[item] = sum(near) / len(near) if near else i
    row.sort(key=place.__getitem__)
    for i, item in enumerate(row):
        place[item] = i


def _crossings(row: list, below: list, place: list) -> int:
    """How many pairs of links below a layer cross: pairs in one order above and in the other below."""
    met: list = []
    crossings = 0
    for item in row:
        ends = [place[b] + port for _, b, port in below[item]]
        crossings += sum(len(met) - bisect_right(met, end) for end in ends)
        for end in ends:
            insort(met, end)
    return crossings


def _swap(layout: Layout, swappable: set) -> None:
    """Let the lines to swappable nodes arrive in the order in which they come."""
    place = {item: i for row in layout.rows for i, item in enumerate(row)}
    above = layout.above()
    layout.links = [link for link in layout.links if link[1] not in swappable]
    for node in swappable:
        uppers = sorted((a for a, _, _ in above[node]), key=place.__getitem__)
        layout.links += [(a, node, _port(i, len(uppers))) for i, a in enumerate(uppers)]


# places ------------------------------------------------------------------------------------


def _spread(layout: Layout, sources: list, gap: float) -> None:
    """Move each layer to where its lines are straightest (least squares), in its order and without overlap."""
    above, below = layout.above(), layout.below()
    stiffness = {link: _stiffness(link, sources) for link in layout.links}
    layout.x = [0.0] * len(layout.layer)
    for row in layout.rows:
        _settle(layout, row, gap, [above], stiffness)
    for sweep in range(max(8, min(60, 100_000 // len(layout.layer)))):  # a huge drawing is not looked at that closely
        for row in layout.rows if sweep % 2 else reversed(layout.rows):
            _settle(layout, row, gap, [above, below], stiffness, haste=1.8)
    left = min(x - w / 2 for x, w in zip(layout.x, layout.widths, strict=True))
    layout.x = [x - left for x in layout.x]


def _stiffness(link, sources: list) -> float:
    """How much a link minds a bend: long lines show it most; a parameter's does not matter, it gives way."""
    a, b, _ = link
    if a >= len(sources) or b >= len(sources):
        return 8.0 if a >= len(sources) and b >= len(sources) else 2.0
    return 0.1 if sources[a] else 1.0


def _settle(layout: Layout, row: list, gap: float, sides: list, stiffness: dict, haste: float = 1.0) -> None:
    """Place one layer as near as can be to the weighted mean of its neighbours.

    With ``haste`` above 1 it goes further the way it is going, so that long lines straighten in few sweeps
    (successive over-relaxation).
    """
    wishes, weights = [], []
    for item in row:
        pulls = [(layout.x[link[link[0] == item]], stiffness[link]) for side in sides for link in side[item]]
        weight = sum(w for _, w in pulls)
        x = layout.x[item]
        wishes.append(x + haste * (sum(x * w for x, w in pulls) / weight - x) if pulls else x)
        weights.append(weight or 1e-3)
    widths = [layout.widths[item] for item in row]
    for item, x in zip(row, packed(wishes, weights, widths, gap), strict=True):
        layout.x[item] = x


def packed(wishes, weights, widths, gap) -> list:
    """Places in the given order, at least ``gap`` apart, with the least Σ weight·(place - wish)².

    Without the widths this is a monotone regression, solved by pooling neighbours that want to pass each other.
    """
    starts, edge = [], 0.0
    for width in widths:
        starts.append(edge + width / 2)
        edge += width + gap
    blocks: list = []  # [weighted mean, weight, members]
    for wish, weight, start in zip(wishes, weights, starts, strict=True):
        block = [wish - start, weight, 1]
        while blocks and blocks[-1][0] >= block[0]:
            mean, other, members = blocks.pop()
            total = other + block[1]
            block = [(mean * other + block[0] * block[1]) / total, total, members + block[2]]
        blocks.append(block)
    offsets = [mean for mean, _, members in blocks for _ in range(members)]
    return [offset + start for offset, start in zip(offsets, starts, strict=True)]
