"""The computation graph as text, DOT and SVG."""

import re
import xml.etree.ElementTree as ET
from itertools import pairwise, product

import numpy as np
import pytest

import tinyvit as tv
from tinyvit.autodiff.draw import draw, written
from tinyvit.autodiff.layout import arrange, layers, packed
from tinyvit.autodiff.watch import Listener, listening, watch

SVG = "{http://www.w3.org/2000/svg}"


def leaf(rng, *shape):
    return tv.Tensor(rng.normal(size=shape), requires_grad=True)


@pytest.fixture
def attention(rng):
    """The output of one attention and its named inputs."""
    q, k, v = (leaf(rng, 2, 5, 4) for _ in range(3))
    return tv.scaled_dot_product_attention(q, k, v), {"q": q, "k": k, "v": v}


@pytest.fixture
def vit(rng):
    """The loss of a ViT of one block, and the names of its parameters."""
    model = tv.create_model("vit_digits", depth=1, rng=rng)
    images = rng.normal(size=(2, 8, 8, 1)).astype(np.float32)
    return tv.cross_entropy(model(images), np.array([1, 2])), [("images", images), *model.named_parameters()]


def ops(listing: str) -> list:
    """The op of every line that has one, in order."""
    return re.findall(r"= (\w+)\(", listing)


class Calls(Listener):
    """The names of the ops that made a Tensor which records, with kernels open or not."""

    def __init__(self, open):
        self.open, self.names = open, []

    def opens(self, op):
        return self.open

    def called(self, op, inputs, options, value, seconds):
        if getattr(value, "op", None) is op:
            self.names.append(op.name)


# text --------------------------------------------------------------------------------------


def test_listing_of_a_product_and_a_sum(rng):
    x, y = leaf(rng, 3), leaf(rng, 3)
    assert draw(x * y + x, names={"x": x, "y": y}).splitlines() == [
        "x  = leaf             (3,)  float64",
        "y  = leaf             (3,)  float64",
        "%1 = multiply(x, y)   (3,)  float64",
        "%2 = add(%1, x)       (3,)  float64",
    ]


def test_every_value_is_listed_once_and_before_it_is_used(vit):
    for open in (False, True):
        known = set()
        for line in draw(vit[0], open=open, names=vit[1]).splitlines():
            name, made = re.fullmatch(r"(\S+) += (.*?)   +\(.*\)  +\w+", line).groups()
            assert name not in known
            assert set(re.findall(r"%\d+|[a-z_]+\.[\w.]+", made)) <= known
            known.add(name)


def test_folded_is_what_ran_and_open_is_what_runs_without_kernels(rng):
    q, k, v = (leaf(rng, 1, 3, 2) for _ in range(3))

    def run():
        return tv.layer_norm(tv.gelu(tv.scaled_dot_product_attention(q, k, v)) * 2.0)

    with listening(Calls(open=False)) as kernels:
        y = run()
    with listening(Calls(open=True)) as equations:
        run()
    assert ops(draw(y)) == kernels.names == ["scaled_dot_product_attention", "gelu", "multiply", "layer_norm"]
    assert ops(draw(y, open=True)) == equations.names
    assert all(op.is_primitive for op in map(tv.autodiff.op.REGISTRY.get, equations.names))


def test_the_graph_of_a_derivative(rng):
    x = leaf(rng, 3)
    first = tv.gradients(tv.sum(tv.exp(x)), x, differentiable=True)[0]
    assert ops(draw(first))[-1] == "multiply"
    assert "exp" in ops(draw(first))


def test_one_tensor_in_three_places_is_one_node(rng):
    x = leaf(rng, 1, 3, 2)
    y = tv.scaled_dot_product_attention(x, x, x)
    assert "scaled_dot_product_attention(x, x, x)" in draw(y, names={"x": x})
    assert draw(y, open=True, names={"x": x}).count("leaf") == 1


def test_an_open_equation_shows_arrays_it_was_given(rng):
    """Nothing is recorded of what happens to a plain array alone; drawn open, the equation is whole."""
    images, weight = rng.normal(size=(1, 4, 4, 2)), leaf(rng, 3, 2, 2, 2)
    listing = draw(tv.conv2d(images, weight, stride=2), open=True, names={"images": images})
    assert "unfold(images, " in listing
    assert "einsum" in ops(listing)


def test_a_tap_names_its_value_when_open(attention):
    y, names = attention
    assert re.search(r"^weights += divide\(", draw(y, open=True, names=names), re.M)
    again = tv.scaled_dot_product_attention(y, y, y)
    assert re.search(r"^weights#2 += divide\(", draw(again, open=True, names=names), re.M)


@pytest.mark.parametrize("form", ["pairs", "name first", "tensor first", "identity first"])
def test_names_may_be_given_in_four_ways(rng, form):
    x = leaf(rng, 2)
    y = tv.exp(x)
    names = {"pairs": [("x", x), ("y", y)], "name first": {"x": x, "y": y}, "tensor first": {x: "x", y: "y"},
             "identity first": {id(x): "x", id(y): "y"}}[form]  # fmt: skip
    assert draw(y, names=names).splitlines()[-1].startswith("y = exp(x)")


def test_an_equation_keeps_its_name_when_open(attention):
    y, names = attention
    assert re.search(r"^head += matmul\(weights, v\)", draw(y, open=True, names={**names, "head": y}), re.M)


def test_kinds_of_leaves(rng):
    a, b, c = leaf(rng, 3), tv.Tensor(np.ones(3)), np.ones(3)
    listing = draw(a * b + c)
    assert [re.search(r"= (\w+)", line)[1] for line in listing.splitlines()] == [
        "leaf", "input", "multiply", "constant", "add",
    ]  # fmt: skip
    assert "c  = input" in draw(a * b + c, names={"c": c})


def test_numbers_and_options_are_written_into_the_call(rng):
    x = leaf(rng, 2, 3)
    assert "multiply(x, 0.333)" in draw(x * (1 / 3), names={"x": x})
    assert "sum(x, axis=-1)" in draw(tv.sum(x, axis=-1), names={"x": x})  # keepdims is at its default
    assert "getitem(x, index=(0, 1:))" in draw(x[0, 1:], names={"x": x})
    assert "subtract(2, x)" in draw(2 - x, names={"x": x})


@pytest.mark.parametrize(
    ("value", "short"),
    [(1 / 3, "0.333"), (np.float32(0.5), "0.5"), (7, "7"), (True, "True"), (None, "None"), ("ij->i", "ij->i"),
     ((1,), "(1,)"), ([0, -1], "(0, -1)"), (slice(1, None), "1:"), (slice(None, None, 2), "::2"), (..., "..."),
     (np.zeros((2, 3), int), "int64(2, 3)"), (-np.inf, "-inf"), (np.float32, "float32"), (1j, "1j"),
     (np.array(0.25), "0.25"), ((slice(None), None), "(:, None)")],
)  # fmt: skip
def test_values_are_written_short(value, short):
    assert written(value) == short


def test_a_tensor_without_a_graph_and_several_outputs(rng):
    x = leaf(rng, 2)
    with tv.no_grad():
        assert draw(x * 2) == "%1 = input   (2,)  float64"
    assert draw(x) == "%1 = leaf   (2,)  float64"
    assert len(draw([x * 2, x * 3]).splitlines()) == 3


def test_a_model_without_numbers_can_be_drawn():
    model = tv.create_model("vit_tiny_patch16_224")
    listing = draw(model(tv.Blueprint((1, 224, 224, 3))), names=model.named_parameters())
    assert "blocks.11.mlp.fc2.weight" in listing


def test_what_is_not_a_graph_is_said(rng):
    with pytest.raises(TypeError, match="expected a Tensor or a list of them, found float"):
        draw([1.0])
    with pytest.raises(ValueError, match="'text', 'dot', 'svg', got 'png'"):
        draw(leaf(rng, 2), format="png")


def test_drawing_is_seen_by_nobody_and_changes_nothing(attention):
    y, _ = attention
    before = watch()
    with listening(Calls(open=False)) as calls, tv.no_grad():
        listing = draw(y, open=True)
    assert calls.names == []
    assert watch() is before
    assert ops(listing) == ops(draw(y, open=True))  # though nothing is recorded under no_grad
    assert ops(draw(y)) == ["scaled_dot_product_attention"]


@pytest.mark.parametrize("format", ["text", "dot", "svg"])
def test_a_deep_graph_needs_no_deep_stack(rng, format):
    x = leaf(rng, 2)
    y = x
    for _ in range(1500):
        y = y + x
    assert draw(y, format=format).count("add") >= 1500


# DOT ---------------------------------------------------------------------------------------


def test_dot_declares_what_it_joins(vit):
    source = draw(vit[0], format="dot", names=vit[1])
    nodes = re.findall(
        r'^  (n\d+) \[label="(?:[^"\\]|\\.)*", tooltip="(?:[^"\\]|\\.)*", shape=\w+[^"]*\];$', source, re.M
    )
    edges = re.findall(r"^  (n\d+) -> (n\d+);$", source, re.M)
    assert len(nodes) == len(set(nodes)) == len(draw(vit[0]).splitlines())
    assert {n for edge in edges for n in edge} == set(nodes)
    assert len(source.splitlines()) == len(nodes) + len(edges) + 3
    assert source.startswith("digraph {")
    assert source.endswith("}")


def test_dot_tells_leaves_inputs_and_constants_apart(rng):
    source = draw(leaf(rng, 3) * tv.Tensor(np.ones(3)) + np.ones(3), format="dot")
    assert len(set(re.findall(r"shape=(\w+)", source))) == 4


def test_dot_escapes(rng):
    x = leaf(rng, 2)
    source = draw(x, format="dot", names={'a "b" \\ c': x})
    assert r'label="a \"b\" \\ c\n(2,)"' in source


# SVG ---------------------------------------------------------------------------------------


def boxes(svg: str) -> list:
    """(left, top, right, bottom) of every node."""
    found = []
    for group in ET.fromstring(svg).iter(f"{SVG}g"):
        if group.get("class") == "tv-node":
            x, y, w, h = (float(group.find(f"{SVG}rect").get(key)) for key in ("x", "y", "width", "height"))
            found.append((x, y, x + w, y + h))
    return found


def curves(svg: str) -> list:
    """The numbers of every line's path: a start, perhaps a way straight down, and a bend's three points."""
    paths = [p.get("d") for p in ET.fromstring(svg).iter(f"{SVG}path") if p.get("class") == "tv-line"]
    return [re.fullmatch(r"M(\S+) (\S+?)(?:V([^C]+))?C(\S+) (\S+) (\S+) (\S+) (\S+) (\S+)", d).groups() for d in paths]


def on_the_way(curve):
    """Points of a line: the straight part, and the bend (a cubic of Bézier)."""
    x, y, down, *bend = curve
    yield from ((float(x), float(y)),) if down is None else ((float(x), float(y)), (float(x), float(down)))
    corners = np.array([x, down or y, *bend], float).reshape(4, 2)
    for t in np.linspace(0, 1, 21):
        yield (1 - t) ** 3 * corners[0] + 3 * t * (1 - t) ** 2 * corners[1] + 3 * t**2 * (1 - t) * corners[2] + t**3 * corners[3]  # noqa: E501  # fmt: skip


@pytest.mark.parametrize("open", [False, True])
def test_boxes_do_not_overlap_and_lines_run_down_between_them(vit, open):
    svg = draw(vit[0], open=open, format="svg", names=vit[1])
    places = boxes(svg)
    assert len(places) == len(draw(vit[0], open=open).splitlines())
    for i, (l, t, r, b) in enumerate(places):
        assert all(r < left or l > right or b < top or t > bottom for left, top, right, bottom in places[:i])
    for curve in curves(svg):
        points = list(on_the_way(curve))
        assert all(a[1] < b[1] + 1e-9 for a, b in pairwise(points))
        assert not any(l < x < r and t + 1 < y < b - 1 for x, y in points for l, t, r, b in places)


def test_everything_lies_within_the_picture(vit):
    svg = draw(vit[0], format="svg", names=vit[1])
    left, top, width, height = map(float, ET.fromstring(svg).get("viewBox").split())
    assert all(l >= left and t >= top and r <= left + width and b <= top + height for l, t, r, b in boxes(svg))


def test_every_box_has_its_call_as_a_title(attention):
    y, names = attention
    root = ET.fromstring(draw(y, format="svg", names=names))
    titles = [t.text for t in root.iter(f"{SVG}title")]
    assert titles[0] == "Computation graph"
    assert titles[1:] == [re.sub(" +", " ", line).replace(") float", ")  float").replace(" (", "   (", 1)
                          for line in draw(y, names=names).splitlines()]  # fmt: skip


def test_svg_escapes_and_a_notebook_shows_it(rng):
    x = leaf(rng, 2)
    svg = draw(tv.exp(x), format="svg", names={'<x> & "y"': x})
    assert any(t.text == '<x> & "y"' for t in ET.fromstring(svg).iter(f"{SVG}text"))
    assert svg._repr_svg_() == svg


def test_lines_arrive_in_the_order_of_the_arguments(rng):
    x, y = leaf(rng, 2, 2), leaf(rng, 2, 2)
    svg = draw(tv.exp(y) @ x, format="svg", names={"x": x, "y": y})
    left, top, right, _ = boxes(svg)[-1]
    ends = [float(c[-2]) for c in curves(svg) if top - 10 < float(c[-1]) < top]
    assert ends == pytest.approx([left + (right - left) * i / 3 for i in (1, 2)], abs=0.2)


# the layout --------------------------------------------------------------------------------


def test_layers_are_longest_ways_and_sources_wait():
    # 0 -> 1 -> 2 -> 5 <- 4 <- 3 and 0 -> 5
    inputs = [[], [0], [1], [], [3], [2, 4, 0]]
    assert layers(inputs) == [0, 1, 2, 1, 2, 3]


def test_a_branch_from_the_main_way_does_not_wait():
    assert layers([[], [0], [1], [1], [3], [2, 4]]) == [0, 1, 2, 2, 3, 4]


def crossings(layout) -> int:
    """Counted pair by pair."""
    place = {item: i for row in layout.rows for i, item in enumerate(row)}
    ends = [(layout.layer[a], place[a], place[b] + port) for a, b, port in layout.links]
    return sum(p[0] == q[0] and (p[1] - q[1]) * (p[2] - q[2]) < 0 for i, p in enumerate(ends) for q in ends[:i])


def test_a_tree_is_drawn_without_crossings(rng):
    shuffled = [*rng.permutation(8)]
    pairs = [[shuffled[2 * i], shuffled[2 * i + 1]] for i in range(4)]
    inputs = [*([] for _ in range(8)), *pairs, [8, 10], [9, 11], [12, 13]]
    assert crossings(arrange([40.0] * len(inputs), inputs)) == 0


def test_lines_of_one_node_share_their_way():
    n = 40
    layout = arrange([30.0] * (n + 1), [[], *([i, 0] for i in range(n))])
    assert len(layout.layer) < 2 * (n + 1)


def test_packed_is_the_least_squares_answer(rng):
    """Checked against every way in which neighbours can touch."""

    for _ in range(50):
        wishes, weights, widths = rng.normal(size=5) * 20, rng.uniform(0.1, 3, size=5), rng.uniform(5, 15, size=5)
        got = packed(wishes, weights, widths, 2.0)
        apart = (widths[1:] + widths[:-1]) / 2 + 2.0
        assert np.all(np.diff(got) >= apart - 1e-9)
        best = np.inf
        for touching in product([False, True], repeat=4):
            x, group, offsets = np.zeros(5), [0], [0.0]
            for i, glued in enumerate([*touching, False]):
                if glued:
                    group.append(i + 1)
                    offsets.append(offsets[-1] + apart[i])
                else:
                    x[group] = np.average(wishes[group] - offsets, weights=weights[group]) + offsets
                    group, offsets = [i + 1], [0.0]
            if np.all(np.diff(x) >= apart - 1e-9):
                best = min(best, np.sum(weights * (x - wishes) ** 2))
        assert np.sum(weights * (np.array(got) - wishes) ** 2) == pytest.approx(best)
