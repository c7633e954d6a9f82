"""The computation graph of a Tensor, to read: as text, in DOT, or as a picture (SVG).

    print(draw(loss, names=model.named_parameters()))        %5 = matmul(%3, %4)   (2, 4, 6)  float32
    draw(loss, open=True, format="svg")                      every equation unfolded into its primitives

What is drawn is what was recorded: Tensors point back at what they came from, and this walks there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tinyvit.autodiff.backward import ancestors
from tinyvit.autodiff.tensor import Tensor
from tinyvit.autodiff.watch import Listener, listening, watching


def draw(output, *, open=False, format="text", names=None) -> str:
    """The graph that ``output`` (a Tensor, or a list of them) was computed by, one node per recorded op.

    open    unfold every equation that ran as a kernel into the primitives it stands for
    format  "text": a listing, inputs before what is made of them · "dot": for Graphviz · "svg": a picture that
            needs no other program, and that a notebook shows
    names   what to call Tensors and arrays: pairs (name, Tensor) such as ``model.named_parameters()``, or a
            dictionary name -> Tensor (what ``capture`` gives), Tensor -> name or id -> name

    Raises TypeError for an output that is no Tensor, ValueError for an unknown format.
    """
    outputs = [output] if isinstance(output, Tensor) else list(output)
    if wrong := [type(x).__name__ for x in outputs if not isinstance(x, Tensor)]:
        raise TypeError(f"output: expected a Tensor or a list of them, found {wrong[0]}; arrays have no graph")
    if format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(map(repr, FORMATS))}, got {format!r}")
    return FORMATS[format](Graph(outputs, _by_identity(names), open).nodes)


# reading the graph -------------------------------------------------------------------------


@dataclass
class Node:
    """One line of the listing.

    kind     "primitive" or "equation" (a kernel, that can be unfolded) · "leaf": derivatives arrive here · "input":
             a Tensor or a named array that has none · "constant": any other array
    name     "%5", or what the reader called it
    op       what made it: the op's name, or for what was not made the kind
    facts    the numbers and options of the call; inputs: the places of the nodes it was made of
    call     op, inputs and facts in one line
    """

    kind: str
    name: str
    op: str
    facts: list
    inputs: list
    call: str
    shape: tuple
    dtype: str
    is_named: bool
    is_output: bool = False

    @property
    def told(self) -> str:
        """The whole node in one line."""
        return f"{self.name} = {self.call}   {self.shape}  {self.dtype}"


class Graph:
    """The nodes between the outputs and the leaves; every node comes after those it was made of."""

    def __init__(self, outputs, names: dict, open: bool):
        self.nodes: list[Node] = []
        self.places: dict[int, int] = {}  # identity of a value -> its place among the nodes
        self.names, self.taken, self.unnamed = names, set(), 0
        self.originals: dict = {}  # identity of a stand-in (see unfold) -> what it stands for
        self.alive: list = []  # equations read again must outlive the identities noted above
        for tensor in ancestors(outputs):
            if tensor.op is not None:
                self.unfold(tensor) if open and tensor.op.fast else self.place(tensor)
        for out in outputs:
            self.nodes[self.place(out)].is_output = True

    def place(self, value) -> int:
        """Where a value stands among the nodes; it is added if it is new. What made it must be there already."""
        value = self.originals.get(id(value), value)
        if id(value) not in self.places:
            made = getattr(value, "op", None) is not None
            node = self.made(value) if made else self.found(value)
            self.places[id(value)] = len(self.nodes)
            self.nodes.append(node)
        return self.places[id(value)]

    def made(self, tensor) -> Node:
        """The node of a Tensor that an op made."""
        op, inputs, arguments, numbers = tensor.op, [], [], []
        for x in tensor.inputs:
            if _is_drawn(x):
                inputs.append(self.place(x))
                arguments.append(self.nodes[inputs[-1]].name)
            else:
                arguments.append(written(x))
                numbers += [] if x is None else [arguments[-1]]
        while arguments[-1] == "None":
            arguments.pop()
        options = [f"{name}={written(value)}" for name, value in tensor.options.items()
                   if name not in op.defaults or written(op.defaults[name]) != written(value)]  # fmt: skip
        kind = "equation" if op.fast else "primitive"
        return self.node(kind, tensor, op.name, numbers + options, inputs, arguments + options)

    def found(self, value) -> Node:
        """The node of a value that nothing made: a leaf, an input, a constant."""
        if getattr(value, "requires_grad", False):
            kind = "leaf"
        else:
            kind = "input" if isinstance(value, Tensor) or id(value) in self.names else "constant"
        return self.node(kind, value, kind, [], [], None)

    def node(self, kind, value, op, facts, inputs, arguments) -> Node:
        """A Node, with the name that its value is known by or the next number."""
        name = self.name(value)
        call = op if arguments is None else f"{op}({', '.join(arguments)})"
        return Node(kind, name, op, facts, inputs, call, tuple(value.shape), str(value.dtype), id(value) in self.names)

    def name(self, value) -> str:
        """What a value is called; a name that is taken gets a number (the ``weights`` of several blocks)."""
        if id(value) not in self.names:
            self.unnamed += 1
            return f"%{self.unnamed}"
        name, copies = self.names[id(value)], 1
        while name in self.taken:
            copies += 1
            name = f"{self.names[id(value)]}#{copies}"
        self.taken.add(name)
        return name

    def unfold(self, tensor) -> None:
        """In the place of a kernel, the primitives of its equation, which is read again on stand-ins of its inputs."""
        stand_ins = [_stand_in(x) for x in tensor.inputs]
        opener = _Opener()
        with watching(recording=True), listening(opener, alone=True):
            again = tensor.op.function(*stand_ins, **tensor.options)
        self.alive += [again, stand_ins]
        self.originals |= {id(new): x for new, x in zip(stand_ins, tensor.inputs, strict=True) if new is not x}
        known = {id(again): self.names[id(tensor)]} if id(tensor) in self.names else {}
        self.names = opener.names | known | self.names
        for inner in ancestors([again]):
            self.place(inner)
        self.places[id(tensor)] = self.place(again)


class _Opener(Listener):
    """Makes every equation run as written, and notes what it calls its inner values."""

    def __init__(self):
        self.names: dict = {}

    def opens(self, op) -> bool:
        return True

    def tapped(self, name, value):
        self.names[id(value)] = name
        return value


def _stand_in(x):
    """A leaf with x's numbers. Also an array is made to record, so that all of the equation is seen."""
    records = _is_drawn(x) and x.dtype.kind in "fc"
    return Tensor(x, requires_grad=True) if records else Tensor(x) if isinstance(x, Tensor) else x


def _is_drawn(x) -> bool:
    """Tensors and arrays are nodes; plain numbers are written into the call."""
    return isinstance(x, Tensor) or len(getattr(x, "shape", ())) > 0


def _by_identity(names) -> dict:
    """Identity -> name, from any of the ways in which names are given."""
    pairs = names.items() if isinstance(names, Mapping) else names or ()
    return {_identity(value): name for name, value in ((a, b) if isinstance(a, str) else (b, a) for a, b in pairs)}


def _identity(value) -> int:
    return value if isinstance(value, int) else id(value)


def written(value) -> str:
    """A number, an option or an index, short: 0.354, (2, -1), 1:, int64(5, 5)."""
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, slice):
        return ":".join("" if i is None else written(i) for i in (value.start, value.stop, value.step)[: _parts(value)])
    if isinstance(value, tuple | list):
        return f"({', '.join(map(written, value))}{',' if len(value) == 1 else ''})"
    if value is Ellipsis:
        return "..."
    if len(getattr(value, "shape", ())) > 0:
        return f"{value.dtype}{tuple(value.shape)}"
    value = value.item() if hasattr(value, "item") else value
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _parts(index: slice) -> int:
    return 2 if index.step is None else 3


# writing it down ---------------------------------------------------------------------------


def text(nodes) -> str:
    """A line per node: name, how it was made, shape, type."""
    left = [(node.name, node.call) for node in nodes]
    widths = [max(len(cells[i]) for cells in left) for i in (0, 1)]
    shapes = max(len(str(node.shape)) for node in nodes)
    return "\n".join(
        f"{name:<{widths[0]}} = {call:<{widths[1]}}   {node.shape!s:<{shapes}}  {node.dtype}"
        for (name, call), node in zip(left, nodes, strict=True)
    )


SHAPES = {
    "primitive": "shape=box",
    "equation": "shape=box, style=rounded, peripheries=2",
    "leaf": "shape=ellipse",
    "input": "shape=parallelogram",
    "constant": "shape=note",
}


def dot(nodes) -> str:
    """The graph in the language of Graphviz."""
    lines = ["digraph {", "  node [fontname=monospace, fontsize=11];"]
    for i, node in enumerate(nodes):
        label = "\\n".join(map(_escaped, labels(node)))
        bold = ", penwidth=2.5" if node.is_output else ""
        lines.append(f'  n{i} [label="{label}", tooltip="{_escaped(node.told)}", {SHAPES[node.kind]}{bold}];')
    lines += [f"  n{i} -> n{j};" for j, node in enumerate(nodes) for i in node.inputs]
    return "\n".join([*lines, "}"])


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")


def labels(node: Node) -> tuple[str, str]:
    """The two lines that a node shows: what it is and its shape."""
    facts = [fact for fact in node.facts if not fact.startswith("shape=")]  # it is the second line
    if not node.inputs and node.call == node.op:
        return (node.name if node.is_named else node.op), str(node.shape)
    told = " ".join([node.op, *facts])
    told = told if len(told) <= 34 else told[:33] + "…"
    return (f"{node.name} = {told}" if node.is_named else told), str(node.shape)


COMMUTATIVE = ("add", "multiply", "maximum", "minimum")  # a picture may show their inputs in either order


class Svg(str):
    """A picture as a string; the last value of a notebook's cell is shown."""

    def _repr_svg_(self) -> str:
        return str(self)


def svg(nodes) -> Svg:
    """The graph as a standalone picture."""
    from tinyvit.autodiff.svg import picture  # importing tinyvit does not wait for what draws

    return Svg(picture([
        (node.kind, *labels(node), node.told, node.is_output, node.inputs, node.op in COMMUTATIVE) for node in nodes
    ]))  # fmt: skip


FORMATS = {"text": text, "dot": dot, "svg": svg}
