"""Figures show the numbers they were given, and are saved whole with those numbers beside them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tinyvit import plots

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def figure(rng):
    return plots.training_curves(records(rng))


def records(rng):
    def curve(points):
        return np.arange(points), rng.uniform(0.1, 1.0, size=points)

    return {name: {"loss": curve(20), "accuracy": curve(4)} for name in ("ViT", "ResNet")}


def shown(axes):
    """The numbers of the image in some axes, without the gaps between its tiles."""
    values = np.ma.filled(axes.images[0].get_array().astype(float), np.nan)
    return values[np.isfinite(values)]


# ---- what the figures show -----------------------------------------------------------------------


def test_digit_patches_shows_every_pixel_twice(rng):
    images = rng.uniform(size=(3, 8, 12, 1))
    figure = plots.digit_patches(images, [7, 0, 9], 4)
    above, below = np.reshape(figure.axes, (2, 3))
    assert [axes.get_title() for axes in above] == ["7", "0", "9"]
    for axes, apart, image in zip(above, below, images[..., 0], strict=True):
        np.testing.assert_array_equal(shown(axes), image.ravel())
        assert apart.images[0].get_array().shape == (8 + 1, 12 + 2)  # a gap between two patches
        np.testing.assert_array_equal(np.sort(shown(apart)), np.sort(image.ravel()))


def test_digit_patches_keeps_patches_together():
    image = np.arange(16.0).reshape(1, 4, 4)
    below = plots.digit_patches(image, [0], 2).axes[1]
    np.testing.assert_array_equal(
        np.ma.filled(below.images[0].get_array(), np.nan),
        [
            [0, 1, np.nan, 2, 3],
            [4, 5, np.nan, 6, 7],
            [np.nan] * 5,
            [8, 9, np.nan, 10, 11],
            [12, 13, np.nan, 14, 15],
        ],
    )


def test_digit_patches_refuses_patches_that_do_not_fit(rng):
    with pytest.raises(ValueError, match="patch: expected a divisor of 8 and 8, got 3"):
        plots.digit_patches(rng.uniform(size=(1, 8, 8)), [0], 3)
    with pytest.raises(ValueError, match="images: expected shape"):
        plots.digit_patches(rng.uniform(size=(8, 8)), [0], 2)


def test_position_similarity_grid_has_a_map_for_each_patch(rng):
    similarity = rng.uniform(-1, 1, size=(2, 3, 2, 3))
    figure = plots.position_similarity_grid(similarity)
    picture = np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)
    np.testing.assert_array_equal(picture[3:5, 8:11], similarity[1, 2])
    assert figure.axes[0].images[0].get_clim() == (-1, 1)


def test_attention_overlay_shows_the_maps(rng):
    images = rng.uniform(size=(2, 8, 8))
    maps = [rng.uniform(size=(2, 4, 4)), rng.uniform(size=(2, 2, 2))]
    figure = plots.attention_overlay(images, maps, ["layer 1", "rollout"])
    axes = np.reshape(figure.axes[:6], (2, 3))  # the last axes hold the colour bar
    assert [a.get_title() for a in axes[0]] == ["image", "layer 1", "rollout"]
    for n in range(2):
        np.testing.assert_array_equal(shown(axes[n, 0]), images[n].ravel())
        for m in range(2):
            np.testing.assert_array_equal(shown(axes[n, 1 + m]), maps[m][n].ravel())


def test_attention_overlay_lays_a_photo_over_the_map(rng):
    images, maps = rng.uniform(size=(2, 8, 8, 3)), [rng.uniform(size=(2, 4, 4))]
    axes = plots.attention_overlay(images, maps, ["rollout"]).axes
    for row in range(2):
        image, both = axes[2 * row], axes[2 * row + 1]
        np.testing.assert_array_equal(image.images[0].get_array(), images[row])
        np.testing.assert_array_equal(both.images[0].get_array(), maps[0][row])
        np.testing.assert_array_equal(both.images[1].get_array(), images[row])
        assert both.images[1].get_alpha() < 1


def test_filters_are_drawn_each_on_its_own_scale(rng):
    ours, others = rng.normal(size=(9, 2, 3, 1)), rng.normal(size=(2, 3, 3, 3))
    left, right = plots.filters({"ours": ours, "others": others}, columns=4).axes
    assert (left.get_title(), right.get_title()) == ("ours", "others")
    picture = np.ma.filled(left.images[0].get_array(), np.nan)
    assert picture.shape == (3 * 3 - 1, 4 * 4 - 1)
    np.testing.assert_allclose(picture[3:5, 4:7], ours[5, ..., 0] / np.abs(ours[5]).max())
    assert np.isnan(picture[6:, 4:]).all(), "something is drawn where there is no filter"
    colours = right.images[0].get_array()
    np.testing.assert_allclose(colours[:3, 4:7], 0.5 + others[1] / np.abs(others[1]).max() / 2)
    assert np.all(colours[4:] == 1)


def test_receptive_fields_share_a_logarithmic_scale(rng):
    rows = {"trained": [rng.uniform(size=(4, 6)) for _ in range(3)], "at first": [np.zeros((4, 6)) for _ in range(3)]}
    figure = plots.receptive_fields(rows, ["a", "b", "c"])
    axes = np.reshape(figure.axes[:6], (2, 3))
    assert [axis.get_title() for axis in axes[0]] == ["a", "b", "c"]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["trained", "at first"]
    np.testing.assert_array_equal(shown(axes[0, 1]), np.maximum(rows["trained"][1], 1e-3).ravel())
    assert np.all(shown(axes[1, 2]) == 1e-3)
    assert all(axis.images[0].get_clim() == (1e-3, 1) for axis in axes.flat)


def test_head_paths_go_from_rings_to_dots(rng):
    paths = {"narrow": rng.normal(size=(5, 3, 2)), "wide": rng.normal(size=(4, 2, 2))}
    left, right = plots.head_paths(paths, [(-1, 0), (1, 2)]).axes
    assert (left.get_title(), right.get_title()) == ("narrow", "wide")
    assert (len(left.lines), len(right.lines)) == (9, 6)
    path, ring, dot = left.lines[3:6]
    np.testing.assert_allclose(path.get_xydata(), paths["narrow"][:, 1, ::-1])
    np.testing.assert_allclose(ring.get_xydata(), paths["narrow"][:1, 1, ::-1])
    np.testing.assert_allclose(dot.get_xydata(), paths["narrow"][-1:, 1, ::-1])
    assert [patch.get_xy() for patch in left.patches] == [(-0.5, -1.5), (1.5, 0.5)]
    assert left.get_ylim() == (3, -3), "rows go down"


def test_heads_by_depth_has_a_point_for_each_head(rng):
    heads = [[1.0, 2.0], [3.0, 4.0, 8.0]]
    (axes,) = plots.heads_by_depth(heads, y="distance (px)", marks={"uniform": 9.0}).axes
    points, more, mean, mark = axes.lines
    np.testing.assert_array_equal(points.get_xydata(), [[1, 1], [1, 2]])
    np.testing.assert_array_equal(more.get_xydata(), [[2, 3], [2, 4], [2, 8]])
    np.testing.assert_array_equal(mean.get_xydata(), [[1, 1.5], [2, 5]])
    assert mark.get_ydata()[0] == 9
    assert axes.get_ylim()[1] > 9, "the mark is cut off"
    assert axes.get_ylabel() == "distance (px)"


def test_pictures_show_images_in_colour_and_as_ink(rng):
    images = {"photo": rng.random((4, 5, 3)), "digit": rng.random((3, 3, 1)), "another": rng.random((2, 2, 3))}
    axes = plots.pictures(images, columns=2).axes
    assert [a.get_title() for a in axes] == ["photo", "digit", "another", ""]
    for a, image in zip(axes, images.values(), strict=False):
        np.testing.assert_array_equal(a.images[0].get_array().data, image.squeeze())
    assert axes[1].images[0].get_clim() == (0, 1)
    assert not axes[3].images


def test_hessian_spectrum_shows_the_curves_and_marks_the_largest():
    grid = np.linspace(-1, 60, 50)
    curves = {"ViT": (grid, np.exp(-np.abs(grid))), "ResNet": (grid, np.exp(-(grid**2) / 100))}
    figure = plots.hessian_spectrum(curves, {"ViT": 50.0, "ResNet": 12.345})
    lines = figure.axes[0].lines
    for (x, y), line in zip(curves.values(), lines[::2], strict=True):
        np.testing.assert_array_equal(line.get_xdata(), x)
        np.testing.assert_array_equal(line.get_ydata(), y)
    assert [line.get_xdata()[0] for line in lines[1::2]] == [50.0, 12.345]
    assert "12.3" in figure.axes[0].get_legend().get_texts()[1].get_text()


def test_hessian_spectrum_with_an_eigenvalue_that_the_density_missed(tmp_path):
    grid = np.linspace(-1, 60, 50)
    figure = plots.hessian_spectrum({"ViT": (grid, np.exp(-(grid**2)))}, {"ViT": 50.0})
    assert figure.axes[0].get_ylim()[0] > 0
    plots.save(figure, tmp_path / "f.png", {})


def test_hessian_spectra_are_drawn_panel_by_panel():
    grid = np.linspace(-1, 60, 50)
    panels = {
        "before": {"ViT": ((grid, np.exp(-np.abs(grid))), 5.0)},
        "after": {"ViT": ((grid, 2 / (1 + grid**2)), 50.0)},
    }
    figure = plots.hessian_spectra(panels, linear=0.5)
    for axes, (title, models) in zip(figure.axes, panels.items(), strict=True):
        (x, y), largest = models["ViT"]
        curve, mark = axes.lines
        np.testing.assert_array_equal(curve.get_xdata(), x)
        np.testing.assert_array_equal(curve.get_ydata(), y)
        assert mark.get_xdata()[0] == largest
        assert axes.get_legend().get_title().get_text() == title
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()


def test_training_curves_show_the_records(rng):
    data = records(rng)
    loss, accuracy = plots.training_curves(data).axes
    for record, line, shares in zip(data.values(), loss.lines, accuracy.lines, strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.transpose(record["loss"]))
        np.testing.assert_allclose(shares.get_ydata(), 100 * record["accuracy"][1])


def test_loss_contours_show_the_plane_and_the_path(rng):
    a, b = np.linspace(-1, 1, 7), np.linspace(0, 4, 5)
    losses = 0.5 + a[:, None] ** 2 + 0.1 * b**2
    path = np.array([[0.9, 3.0], [0.5, 1.0], [0.0, 0.0]])
    figure = plots.loss_contours(losses, [a, b], path=path, labels=["α (units)", "β (units)"], levels=9)
    axes, bar = figure.axes
    filled, white = axes.collections
    np.testing.assert_allclose(filled.levels, np.geomspace(0.5, losses.max(), 9))
    np.testing.assert_array_equal(white.levels, filled.levels)
    assert filled.get_cmap().name == "viridis"  # can be told apart by the colour-blind, and in grey
    lowest = filled.get_paths()[0].vertices  # the region under the second level: around a = b = 0
    assert np.all(0.5 + lowest[:, 0] ** 2 + 0.1 * lowest[:, 1] ** 2 <= filled.levels[1] + 0.1)
    assert lowest[:, 1].min() == 0
    np.testing.assert_array_equal(axes.lines[1].get_xydata(), path)
    np.testing.assert_array_equal(axes.lines[2].get_xydata(), path[:1])
    np.testing.assert_array_equal(axes.lines[3].get_xydata(), [[0, 0]])
    assert (axes.get_xlabel(), axes.get_ylabel(), bar.get_ylabel()) == (
        "α (units)",
        "β (units)",
        "loss (nats, logarithmic)",
    )
    assert [text.get_text() for text in bar.get_yticklabels()] == ["0.5", "1.24", "3.1"]


def test_loss_contours_leave_holes_and_stand_a_plain(tmp_path):
    losses = np.ones((4, 3))
    plots.save(plots.loss_contours(losses, [range(4), range(3)]), tmp_path / "flat.png", {})
    losses[1, 1], losses[0, 0], losses[3] = np.nan, np.inf, -2.0
    axes = plots.loss_contours(losses, [range(4), range(3)]).axes[0]
    np.testing.assert_allclose(axes.collections[0].levels, np.linspace(-2, 1, 12))  # no logarithm of these


def test_loss_planes_share_one_scale_and_stand_in_perspective_below(rng):
    a, b = np.linspace(-1, 1, 6), np.linspace(0, 4, 5)
    path = np.array([[0.9, 3.0], [0.0, 0.0]])
    planes = {
        "one": plots.Plane(rng.uniform(1, 2, (6, 5)), [a, b], path),
        "two": plots.Plane(rng.uniform(0.1, 10, (6, 5)), [a, b]),
    }
    figure = plots.loss_planes(planes, labels=("α", "β"), surfaces=True, levels=7)
    one, under_one, two, under_two, bar = figure.axes
    every = np.concatenate([plane.losses.ravel() for plane in planes.values()])
    for axes, below, (title, plane) in zip((one, two), (under_one, under_two), planes.items(), strict=True):
        assert axes.get_title() == title
        assert axes.get_xlabel() == "α"
        np.testing.assert_allclose(axes.collections[0].levels, np.geomspace(every.min(), every.max(), 7))
        faces = below.collections[0]
        z = np.array(faces._faces)[..., 2] if hasattr(faces, "_faces") else np.reshape(faces._vec[2], (-1, 4))
        np.testing.assert_allclose((z.min(), z.max()), np.log10([plane.losses.min(), plane.losses.max()]))
        np.testing.assert_allclose(below.get_zlim(), np.log10([every.min(), every.max()]), rtol=0.1)
    np.testing.assert_array_equal(one.lines[1].get_xydata(), path)
    assert len(two.lines) == 1, "only the cross"
    assert bar.get_ylabel() == "loss (nats, logarithmic)"


def test_loss_planes_in_rows(rng):
    planes = {str(i): plots.Plane(rng.uniform(1, 2, (3, 3)), [range(3), range(3)]) for i in range(3)}
    first, second, third, _ = plots.loss_planes(planes, columns=2).axes
    assert first.get_position().y0 == second.get_position().y0 > third.get_position().y0


def test_loss_surface_shows_the_heights_up_to_a_limit(rng):
    a, b = np.linspace(-1, 1, 6), np.linspace(0, 4, 5)
    losses = rng.uniform(1, 3, (6, 5))
    axes = plots.loss_surface(losses, [a, b], labels=["α (m)", "β (s)"], limit=2.5).axes[0]
    corners = axes.collections[0]._vec if hasattr(axes.collections[0], "_vec") else None
    faces = np.array(axes.collections[0]._faces) if corners is None else np.reshape(corners[:3].T, (-1, 4, 3))
    assert len(faces) == 5 * 4
    for x, y, z in faces.reshape(-1, 3):
        i, j = np.argmin(np.abs(a - x)), np.argmin(np.abs(b - y))
        assert (x, y) == (a[i], b[j])
        assert z == min(losses[i, j], 2.5)
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_zlabel()) == ("α\n(m)", "β\n(s)", "loss (nats)")


def test_convolution_heads_shows_heads_outputs_and_difference(rng):
    attention = rng.uniform(size=(9, 5, 5))
    convolution = rng.normal(size=(4, 4))
    output = convolution + 1e-3
    left, *right, _, _ = plots.convolution_heads(attention, 3, convolution, output).axes
    picture = np.ma.filled(left.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(picture[6:11, 12:17], attention[5])  # row 1, column 2
    assert left.patches[0].get_xy() == (1.5, 1.5)  # the outline of the centre pixel (2, 2)
    for axes, values in zip(right, [convolution, output, output - convolution], strict=True):
        np.testing.assert_array_equal(shown(axes), values.ravel())
    assert right[2].get_title() == "difference ≤ 0.001"
    with pytest.raises(ValueError, match="attention: expected 25 heads, got 9"):
        plots.convolution_heads(attention, 5, convolution, output)


def test_figures_can_be_drawn_into_given_axes(rng):
    figure = Figure()
    first, second, third = figure.subplots(1, 3)
    grid = np.linspace(0, 2, 5)
    curves = {"ViT": (grid, 1 + grid)}
    assert plots.hessian_spectrum(curves, {"ViT": 1.0}, axes=first) is figure
    assert plots.training_curves(records(rng), axes=(second, third)) is figure
    assert first.lines
    assert second.lines
    assert third.lines


def test_token_maps_show_groups_texts_and_frames():
    groups, texts = np.array([[0, -1, 2], [1, 1, 5]]), np.array([["a", "b", ""], [1, 2, 3]])
    panels = {"one": plots.Tokens(groups, texts, [(0, 1, 2, 2)]), "two": plots.Tokens(np.zeros((4, 4), int))}
    first, second, told, empty = plots.token_maps(panels, columns=2, legend=["x", "y"]).axes
    assert (first.get_title("left"), second.get_title("left")) == ("one", "two")
    (squares,) = first.collections
    assert np.array_equal(np.ma.filled(squares.get_array(), -1), groups)
    assert [(*text.get_position(), text.get_text()) for text in first.texts] == [
        (column, row, texts[row, column]) for row, column in np.ndindex(2, 3)
    ]
    assert [(f.get_xy(), f.get_height(), f.get_width()) for f in first.patches] == [((0.5, -0.5), 2, 2)]
    assert [*second.texts, *second.patches, *empty.collections] == []
    handles = told.get_legend().legend_handles
    assert [text.get_text() for text in told.get_legend().texts] == ["x", "y"]
    colour = squares.get_cmap()(squares.norm([0, 1]))
    np.testing.assert_allclose([handle.get_facecolor() for handle in handles], colour, atol=1 / 255)


# ---- manners -------------------------------------------------------------------------------------


def test_settings_and_windows_of_the_user_are_left_alone(rng):
    with matplotlib.rc_context({"font.size": 31, "image.cmap": "hot"}):
        before = dict(matplotlib.rcParams)
        figure = plots.position_similarity_grid(rng.uniform(size=(2, 2, 2, 2)))
        assert dict(matplotlib.rcParams) == before
    axes = figure.axes[0]
    assert axes.xaxis.label.get_fontsize() == plots.STYLE["axes.labelsize"]
    assert axes.images[0].get_cmap().name == "viridis"
    assert type(figure.canvas) is FigureCanvasAgg


def test_importing_does_not_load_matplotlib_or_scipy():
    program = (
        "import sys, tinyvit.plots, tinyvit.analysis.spectrum;"
        "print([m for m in ('matplotlib', 'scipy') if m in sys.modules])"
    )
    root = Path(__file__).parent.parent
    result = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# ---- saving --------------------------------------------------------------------------------------


def test_save_writes_the_figure_and_its_numbers(figure, tmp_path, rng):
    numbers = {
        "labels": np.array([3, 1]),
        "curve": {"steps": range(0, 3, 2), "loss": rng.normal(size=3)},
        "accuracy": np.float32(0.5),
        "name": "ViT",
        "missing": None,
    }
    numbers["curve"]["steps"] = list(numbers["curve"]["steps"])
    path = plots.save(figure, tmp_path / "new" / "folder" / "curves.png", numbers)
    assert path == tmp_path / "new" / "folder" / "curves.png"
    assert path.read_bytes().startswith(PNG)
    beside = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    np.testing.assert_allclose(beside["curve"].pop("loss"), numbers["curve"]["loss"], rtol=5e-6)
    assert beside == {
        "labels": [3, 1],
        "curve": {"steps": [0, 2]},
        "accuracy": 0.5,
        "name": "ViT",
        "missing": None,
    }
    assert sorted(p.name for p in path.parent.iterdir()) == ["curves.json", "curves.png"]


def test_numbers_have_six_digits_and_what_is_none_is_null(figure, tmp_path):
    numbers = {"pi": np.pi, "small": 1.23456789e-15, "not": np.array([np.nan, np.inf])}
    path = plots.save(figure, tmp_path / "f.png", numbers).with_suffix(".json")
    assert json.loads(path.read_text()) == {
        "pi": 3.14159,
        "small": 1.23457e-15,
        "not": [None, None],
    }


def test_equal_figures_are_equal_files(tmp_path):
    for name in ("one", "two"):
        figure = plots.training_curves(records(np.random.default_rng(0)))
        plots.save(figure, tmp_path / f"{name}.png", {})
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_a_folder_that_cannot_be_written_into_is_named(figure, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"cannot write into the folder .*file"):
            plots.save(figure, folder / "f.png", {})


def test_numbers_that_json_cannot_hold_leave_no_files(figure, tmp_path):
    with pytest.raises(TypeError):
        plots.save(figure, tmp_path / "f.png", {"what": object()})
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_save_leaves_the_old_files(figure, tmp_path, monkeypatch):
    path = plots.save(figure, tmp_path / "f.png", {"n": 1})
    before = path.read_bytes()

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plots.save(Figure(), path, {"n": 2})
    assert path.read_bytes() == before
    assert json.loads(path.with_suffix(".json").read_text()) == {"n": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.json", "f.png"]


def test_the_same_figure_in_other_kinds(figure, tmp_path):
    assert plots.save(figure, tmp_path / "f.png", {}, also=("svg", "pdf")) == tmp_path / "f.png"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.json", "f.pdf", "f.png", "f.svg"]


def test_only_png_is_written(figure, tmp_path):
    with pytest.raises(ValueError, match=r"path: expected a name that ends in .png, got 'f.pdf'"):
        plots.save(figure, tmp_path / "f.pdf", {})


# ---- figures of the notebooks --------------------------------------------------------------------


def test_lines_draws_measurements_and_theory():
    xs, ys = np.arange(1.0, 6), np.arange(1.0, 6) ** 2
    figure = plots.lines({"measured": (xs, ys)}, theory={"x²": (xs, ys)}, x="width", y="cost", log="xy")
    (axes,) = figure.axes
    for line in axes.lines:
        np.testing.assert_array_equal(line.get_xydata(), np.stack([xs, ys], axis=1))
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--"]
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_xlabel()) == ("log", "log", "width")
    assert [text.get_text() for text in axes.get_legend().texts] == ["measured", "x²"]


def test_lines_without_a_name_have_no_legend():
    (axes,) = plots.lines({"": ([0, 1], [0, 1])}, x="x", y="y").axes
    assert axes.get_legend() is None


def test_run_lines_shows_every_run_and_the_means(rng):
    values = rng.uniform(size=(3, 4))
    (axes,) = plots.run_lines({"one": ([1, 10, 100], values)}, x="images", y="%", log="x").axes
    mean, *runs = axes.lines
    np.testing.assert_allclose(mean.get_ydata(), values.mean(axis=1))
    np.testing.assert_array_equal([run.get_ydata() for run in runs], values.T)
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "10", "100"]


def test_run_panels_show_several_numbers_of_the_same_runs(rng):
    values = {y: {"ViT": ([0, 1], rng.uniform(1, 2, (2, 3))), "ResNet": ([0, 1], rng.uniform(1, 2, (2, 3)))}
              for y in ("λmax", "loss (nats)")}  # fmt: skip
    figure = plots.run_panels(values, x="ρ", log="y")
    for axes, (y, curves) in zip(figure.axes, values.items(), strict=True):
        assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == ("ρ", y, "log")
        for i, (_, runs) in enumerate(curves.values()):
            mean, *dots = axes.lines[4 * i : 4 * i + 4]
            np.testing.assert_allclose(mean.get_ydata(), runs.mean(axis=1))
            np.testing.assert_array_equal([dot.get_ydata() for dot in dots], runs.T)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["ViT", "ResNet"]


def test_run_dots_shows_every_run_in_its_row_and_colour():
    rows = {"above": {"a": [1.0, 3.0], "b": [5.0]}, "below": {"b": [7.0, 8.0]}}
    (axes,) = plots.run_dots(rows, x="%").axes
    dots_a, mean_a, dots_b, mean_b = axes.lines
    np.testing.assert_array_equal(dots_a.get_xdata(), [1, 3])
    np.testing.assert_array_equal(dots_b.get_xdata(), [5, 7, 8])
    np.testing.assert_array_equal(np.round(dots_b.get_ydata()), [0, 1, 1])
    np.testing.assert_array_equal([*mean_a.get_xdata(), *mean_b.get_xdata()], [2, 5, 7.5])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["above", "below"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first row stands on top"
    assert axes.get_xscale() == "linear"
    assert plots.run_dots(rows, x="λ", log=True).axes[0].get_xscale() == "log"


def test_heat_maps_share_rows_and_colours(rng):
    panels = {"before": rng.uniform(size=(2, 3)), "after": 2 * rng.uniform(size=(2, 3))}
    figure = plots.heat_maps(panels, ["a", "b"], ["x", "y", "z"], written=".2f", label="share")
    first, second, bar = figure.axes
    for axes, (title, values) in zip((first, second), panels.items(), strict=True):
        assert axes.get_title() == title
        np.testing.assert_array_equal(axes.images[0].get_array(), values)
        assert axes.images[0].get_clim() == (0, max(map(np.max, panels.values())))
        assert [text.get_text() for text in axes.texts] == [f"{value:.2f}" for value in values.ravel()]
    assert [tick.get_text() for tick in first.get_yticklabels()] == ["a", "b"]
    assert bar.get_ylabel() == "share"


def test_heat_maps_may_leave_zeros_out():
    values = np.array([[0.0, 0.004], [0.25, -1.0]])
    (axes,) = plots.heat_maps({"": values}, "ab", "xy", written=".2f", zeros=False, limits=(-1, 1)).axes
    assert [text.get_text() for text in axes.texts] == ["0.25", "−1.00"]


def test_heat_maps_write_in_a_colour_that_can_be_read():
    (axes,) = plots.heat_maps({"": np.array([[0, 1]])}, "a", "xy", written="d").axes
    assert [text.get_color() for text in axes.texts] == ["white", "black"]  # on dark purple, on yellow


def test_stacked_bars_stand_on_each_other():
    parts = {"tokens": [1.0, 2.0], "MLP": [3.0, 5.0]}
    (axes,) = plots.stacked_bars(parts, ["B", "L"], y="millions", marks={"slides": [4, 8]}).axes
    assert [(bar.get_y(), bar.get_height()) for bar in axes.patches] == [(0, 1), (0, 2), (1, 3), (2, 5)]
    assert [text.get_text() for text in axes.texts] == ["4.0", "7.0"]
    np.testing.assert_array_equal(
        [[y for _, y in line] for line in axes.collections[0].get_segments()], [[4, 4], [8, 8]]
    )


def test_a_notebook_shows_a_figure_without_pyplot(figure):
    """IPython asks for `_repr_png_`; the picture is as wide on the screen as in print."""
    picture, size = figure._repr_png_()
    assert picture.startswith(PNG)
    assert size["width"] == round(int.from_bytes(picture[16:20]) * 96 / 150)
    assert size["height"] == round(int.from_bytes(picture[20:24]) * 96 / 150)


def test_save_writes_a_drawing_too(tmp_path):
    path = plots.save("<svg/>", tmp_path / "graph.svg", {"nodes": 3})
    assert path.read_text() == "<svg/>"
    assert json.loads(path.with_suffix(".json").read_text()) == {"nodes": 3}
    with pytest.raises(ValueError, match=r"expected a name that ends in \.svg, got 'graph\.png'"):
        plots.save("<svg/>", tmp_path / "graph.png", {})
