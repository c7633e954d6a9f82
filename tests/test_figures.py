"""Figures made by name: what they show is what the models do, and one command writes them."""

import json

import numpy as np
import pytest

from tinyvit import cli
from tinyvit.figures import FIGURES, caption, make_figure


def shown(axes):
    """The groups of a panel's squares (-1 where there is none), and what is written into them."""
    (squares,) = axes.collections
    written = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}
    return np.ma.filled(squares.get_array(), -1).astype(int), written


def frames(axes):
    """(row, column, height, width) of every frame."""
    corners = [(patch.get_y() + 0.5, patch.get_x() + 0.5, patch.get_height(), patch.get_width())
               for patch in axes.patches]  # fmt: skip
    return {tuple(map(int, corner)) for corner in corners}


def test_shifted_windows_step_by_step():
    figure, numbers = FIGURES["swin_shifted_windows"]()
    regular, shifted, rolled, masks, back, _ = figure.axes
    tokens = np.arange(36).reshape(6, 6)
    assert frames(regular) == frames(rolled) == {(r, c, 3, 3) for r in (0, 3) for c in (0, 3)}
    edges = ((0, 1), (1, 3), (4, 2))
    assert frames(shifted) == frames(back) == {(r, c, h, w) for r, h in edges for c, w in edges}
    region = (np.arange(6) < 1)[:, None] * 1 + (np.arange(6) < 1) * 2  # what is to come round from the upper left
    over = [np.roll(x, (-1, -1), (0, 1)) for x in (region, tokens)]
    for axes, groups, order in ((shifted, region, tokens), (back, region, tokens), (rolled, *over)):
        found, written = shown(axes)
        assert np.array_equal(found, groups)
        assert written == {place: str(order[place]) for place in np.ndindex(6, 6)}
    of_window = over[0].reshape(2, 3, 2, 3).swapaxes(1, 2).reshape(4, 9)
    found = shown(masks)[0]
    for w, (r, c) in enumerate(np.ndindex(2, 2)):
        for query, key in np.ndindex(9, 9):
            wanted = of_window[w, query] if of_window[w, query] == of_window[w, key] else -1
            assert found[10 * r + query, 10 * c + key] == wanted
            assert numbers["mask"][w, query, key] == (-100 if wanted < 0 else 0)


def test_fitted_heads_stay_above_the_bound():
    figure, numbers = FIGURES["necessary_heads"]()
    (axes,) = figure.axes
    for line, (_, errors), (_, bounds) in zip(axes.lines, numbers["found"].values(), numbers["bounds"].values(),
                                              strict=False):  # fmt: skip
        np.testing.assert_array_equal(line.get_ydata(), errors)
        assert np.all(errors >= bounds - 1e-9)
        assert errors[-1] < 1e-4, "nine heads are enough"
        assert errors[0] > 0.5


def test_receptive_fields_end_where_the_architecture_ends_them():
    figure, fields = FIGURES["receptive_fields"]()
    assert [axes.get_title() for axes in figure.axes] == list(fields)
    reached = {title: int((field > 0).sum()) for title, field in fields.items()}
    assert reached["ViT, block 1"] == reached["ViT, block 3"] == 32 * 32
    assert reached["ResNet"] == 7 * 7, "three convolutions of 3×3"
    assert reached["Swin, block 1"] == 4 * 4, "a window of 2×2 patches"
    assert reached["Swin, block 2"] > reached["Swin, block 1"]
    for axes, field in zip(figure.axes, fields.values(), strict=True):
        shown = axes.images[0].get_array()
        np.testing.assert_allclose(10 ** (-3 * shown), np.maximum(field, 1e-3), rtol=1e-6)


def test_patch_merging_step_by_step():
    figure, numbers = FIGURES["swin_patch_merging"]()
    before, apart, together, after, *_ = figure.axes
    assert shown(before)[1] == {place: str(n) for n, place in enumerate(np.ndindex(4, 4))}
    assert shown(before)[0].tolist() == [[0, 2, 0, 2], [1, 3, 1, 3]] * 2
    wanted = [[0, 4, 1, 5], [2, 6, 3, 7], [8, 12, 9, 13], [10, 14, 11, 15]]
    assert numbers["merged"].reshape(4, 4).tolist() == wanted
    assert shown(together)[1] == {(r, c): str(wanted[r][c]) for r, c in np.ndindex(4, 4)}
    assert shown(together)[0].tolist() == [[0, 1, 2, 3]] * 4
    assert frames(together) == {(r, 0, 1, 4) for r in range(4)}
    groups, written = shown(apart)
    for place, corner in enumerate([(0, 0), (3, 0), (0, 3), (3, 3)]):
        for r, c in np.ndindex(2, 2):
            at = (corner[0] + r, corner[1] + c)
            assert groups[at] == place
            assert written[at] == str(wanted[2 * r + c][place])
    assert shown(after)[0].shape == (2, 2)


RULES = {  # along one axis, whether query q sees token n; then the sign of its offset, and how far offsets go
    "NAT: 3×3, moved inwards": (lambda q, n: 0 <= n - max(q - 1, 0) < 3, 1, 2),
    "SASA: 3×3, and zeros": (lambda q, n: abs(n - q) <= 1, 1, 1),
    "Swin: windows of 4×4": (lambda q, n: n // 4 == q // 4, -1, 3),
    "Swin: shifted by 2": (lambda q, n: (n - 2) // 4 == (q - 2) // 4, -1, 3),
}


def test_neighbourhoods_of_a_corner_an_edge_and_an_inner_token():
    figure, numbers = FIGURES["neighbourhoods"]()
    queries = [(0, 0), (0, 5), (5, 3)]
    for axes, title in zip(figure.axes, RULES, strict=False):
        sees, sign, reach = RULES[title]
        assert axes.get_title("left") == title
        groups, texts = shown(axes)
        found = {query: [] for query in queries}
        for at in np.ndindex(10, 10):
            n = tuple(np.subtract(at, 1))
            inside = 0 <= min(n) <= max(n) < 8
            by = [q for q in queries if all(map(sees, q, n)) and (inside or "zeros" in title)]
            group, text = -1, "·" if inside else ""
            for query in by:
                group = queries.index(query) if inside else 3
                offset = sign * np.subtract(n, query) + reach
                text = str(offset[0] * (2 * reach + 1) + offset[1])
                found[query].append(n)
            assert (groups[at], texts[at]) == (group, text), f"{title}: {n}"
        assert [sorted(map(tuple, seen)) for seen in numbers["seen"][title]] == [sorted(x) for x in found.values()]
        assert {(r + 1, c + 1, 1, 1) for r, c in queries} < frames(axes)
    table = shown(figure.axes[4])[1]
    assert [table[place] for place in ((2, 2), (4, 4), (6, 6))] == ["0", "12", "24"]


def test_one_command_lists_and_writes_them_the_same_every_time(tmp_path, capsys):
    assert cli.main(["figures"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed and caption(name) in listed for name in FIGURES)
    name = next(iter(FIGURES))
    assert cli.main(["figures", name, "--out", str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "new" / f"{name}.png")]
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    for kind, start in starts.items():
        assert (tmp_path / "new" / name).with_suffix(kind).read_bytes().startswith(start)
    assert json.loads((tmp_path / "new" / f"{name}.json").read_text(encoding="utf-8"))
    assert len(list((tmp_path / "new").iterdir())) == 4
    again = make_figure(name, tmp_path / "again")
    for kind in starts:
        assert (tmp_path / "new" / name).with_suffix(kind).read_bytes() == again.with_suffix(kind).read_bytes(), kind


def test_an_unknown_figure_gets_those_there_are(tmp_path):
    with pytest.raises(ValueError, match="there is no figure 'swin'; there are swin_shifted_windows, "):
        make_figure("swin", tmp_path)


def drawn(figure):
    """The pixels under every title."""
    return {axes.get_title(): axes.images[0].get_array().data for axes in figure.axes if axes.images}


def test_every_operation_of_rand_augment_is_shown():
    figure, amounts = FIGURES["rand_augment_operations"]()
    shown = drawn(figure)
    assert len(shown) == 16
    assert {f"Rotate {amounts['Rotate']:g}", "Posterize 1", "Color 1.81", "TranslateX 0.405", "Equalize"} <= set(shown)
    np.testing.assert_allclose(shown["Invert"], 1 - shown["image"], atol=1e-12)
    assert len(np.unique(shown["Posterize 1"])) == 2
    differ = [np.abs(pixels - shown["image"]).mean() for title, pixels in shown.items() if title != "image"]
    assert min(differ) > 0.005


def test_the_recipe_is_shown_with_the_shares_of_the_labels():
    figure, numbers = FIGURES["deit_augmentation"]()
    shown, (shares,) = drawn(figure), numbers.values()
    assert len(shown) == 15
    image, partner = shown["image"], shown["its partner"]
    share = shares["mixup"]
    np.testing.assert_allclose(shown[f"mixup, λ = {share:.2f}"], share * image + (1 - share) * partner, atol=1e-6)
    own = (shown[f"CutMix, λ = {shares['CutMix']:.2f}"] == image).all(axis=-1)
    assert abs(own.mean() - shares["CutMix"]) < 1e-6
    np.testing.assert_array_equal(shown["flipped"], image[:, ::-1])
    assert 0.1 < (shown["erased"] != image).any(axis=-1).mean() < 0.34
    assert len({shown[f"version {i}"].tobytes() for i in range(1, 5)}) == 4
