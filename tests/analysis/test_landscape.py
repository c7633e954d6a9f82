"""Loss landscapes: closed forms on quadratics, lengths and invariances of directions, walks that are interrupted."""

import json

import numpy as np
import pytest
from losses import NO_DATA, LinearNet, Net244, Weights, half_squares, quadratic

import tinyvit as tv
from tinyvit.analysis import (
    between,
    direction_of,
    landscape,
    leading_eigenvalue,
    path_plane,
    random_direction,
)
from tinyvit.train import classification

DOUBLE = {"dtype": np.float64}


@pytest.fixture
def digits_batch(rng):
    return rng.random((6, 8, 8, 1), dtype=np.float32), rng.integers(0, 10, 6)


# directions --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit_digits", "resnet_digits", "swin_digits"])
@pytest.mark.parametrize("norm", ["filter", "input", "neuron"])
def test_a_random_direction_is_as_long_as_the_weights(name, norm, rng):
    model = tv.create_model(name, rng=rng)
    direction = random_direction(model, norm=norm, rng=rng)
    assert list(direction) == [n for n, p in model.named_parameters() if p.ndim > 1]

    def lengths(x):
        first = x if norm != "input" else np.moveaxis(x, 0, -1)
        rows = x.shape[0] if norm == "filter" else -1
        if norm == "neuron":
            rows = x.shape[1] if x.ndim == 3 and x.shape[0] == 1 else x.shape[0]
        if norm == "input":
            return np.linalg.norm(first, axis=-1)
        return np.linalg.norm(x.reshape(rows, -1), axis=1)

    for key, d in direction.items():
        np.testing.assert_allclose(lengths(d), lengths(model.state_dict()[key].astype(float)), rtol=1e-6, err_msg=key)
        assert d.std() > 0 or not np.any(model.state_dict()[key])


def test_every_position_has_a_length_of_its_own(rng):
    model = Weights(pos_embed=rng.normal(size=(1, 5, 4)) * np.arange(1, 6)[:, None], w=rng.normal(size=(3, 2)))
    by_token = random_direction(model, rng=rng)["pos_embed"]
    as_one = random_direction(model, norm="filter", rng=rng)["pos_embed"]
    rows, whole = np.linalg.norm(model.pos_embed.data, axis=-1), np.linalg.norm(model.pos_embed.data)
    np.testing.assert_allclose(np.linalg.norm(by_token, axis=-1), rows, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(as_one), whole, rtol=1e-9)
    assert np.abs(np.linalg.norm(as_one, axis=-1) / rows - 1).max() > 0.05


class ReluNet(LinearNet):
    def forward(self, x):
        return tv.relu(x @ self.W[0].T) @ self.W[1].T


def test_nets_that_compute_the_same_with_other_scales_look_the_same(rng):
    """ReLU without biases: (c W₁, W₂/c) is the same net; its slice is too, and without the lengths it is not."""
    W1, W2, data = rng.normal(size=(5, 4)), rng.normal(size=(3, 5)), (rng.normal(size=(9, 4)), rng.integers(0, 3, 9))
    steps, found, raw = np.linspace(-1, 1, 5), [], []
    for c in (1.0, 10.0):
        net = ReluNet(c * W1, W2 / c)
        directions = [random_direction(net, norm="filter", rng=np.random.default_rng(seed)) for seed in (1, 2)]
        found.append(landscape(classification(), net, data, directions, [steps, steps], **DOUBLE))
        raw.append(landscape(classification(), net, data, [{"W.0": np.ones((5, 4))}], [steps], **DOUBLE))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-8)
    assert np.abs(raw[0] - raw[1]).max() > 0.1


def test_along_an_eigenvector_the_curvature_is_its_eigenvalue(rng):
    model, data = Net244(rng), (rng.normal(size=(20, 8)), rng.integers(0, 4, 20))
    for names in ("*", "fc2.*"):
        found = leading_eigenvalue(classification(), model, data, names=names, tol=1e-9, rng=rng)
        direction = direction_of(found.vector, model, names=names)
        h = 1e-3
        low, mid, high = landscape(classification(), model, data, [direction], [[-h, 0, h]], **DOUBLE)
        assert (low + high - 2 * mid) / h**2 == pytest.approx(found.value, rel=1e-4)
    with pytest.raises(ValueError, match=r"vector: expected shape \(244,\), got \(68,\)"):
        direction_of(found.vector, model)


# slices ------------------------------------------------------------------------------------


def test_a_box_through_a_quadratic():
    model = Weights(w=[1.0, 2.0, 3.0])
    directions = [{"w": row} for row in np.eye(3)]
    axes = [np.array([-1.0, 0, 2]), np.array([0.5, 1]), np.array([-3.0, 0, 1, 4])]
    found = landscape(quadratic([1, 10, 100]), model, NO_DATA, directions, axes, **DOUBLE)
    a, b, c = np.meshgrid(*axes, indexing="ij")
    np.testing.assert_allclose(found, 0.5 * ((1 + a) ** 2 + 10 * (2 + b) ** 2 + 100 * (3 + c) ** 2), rtol=1e-12)


@pytest.mark.parametrize("name", ["vit_digits", "resnet_digits", "swin_digits"])
def test_at_zero_is_the_loss_and_the_model_is_left_as_it_was(name, digits_batch, rng):
    model = tv.create_model(name, rng=rng)
    list(model.named_parameters())[-2][1].data += 0.1  # a ViT's head begins at zero, and its slice would be flat
    before = {key: (x, x.copy()) for key, x in model.state_dict().items()}
    directions = [random_direction(model, rng=rng) for _ in range(2)]
    found = landscape(classification(), model, digits_batch, directions, [[-1, 0, 1], [0, 1]], progress="points")
    assert found.shape == (3, 2)
    assert found[1, 0] == pytest.approx(classification()(model, digits_batch).item(), rel=1e-6)
    assert len(np.unique(found)) == 6
    assert all(x is before[key][0] and np.array_equal(x, before[key][1]) for key, x in model.state_dict().items())
    parts = landscape(classification(), model, digits_batch, directions, [[-1, 0, 1], [0, 1]], chunk=4, **DOUBLE)
    np.testing.assert_allclose(parts, found, rtol=1e-3)


def test_from_one_model_to_another_with_its_running_statistics(digits_batch, rng):
    one, other = (tv.create_model("resnet_digits", rng=rng) for _ in range(2))
    classification()(other.train(rng), digits_batch)
    other.eval()
    found = landscape(classification(), one, digits_batch, [between(one, other)], [[0, 0.5, 1]], **DOUBLE)
    ends = [classification()(model, digits_batch).item() for model in (one, other)]
    np.testing.assert_allclose(found[[0, 2]], ends, rtol=1e-5)
    assert abs(found[1] - np.mean(ends)) > 1e-3
    with pytest.raises(ValueError, match="other: expected a model with the same names"):
        between(one, tv.create_model("vit_digits", rng=rng))


def test_a_path_s_plane_shows_the_path(rng):
    X, Y = rng.normal(size=(12, 4)), rng.normal(size=(12, 2))
    model = LinearNet(rng.normal(size=(4, 2)))
    plane, _ = np.linalg.qr(rng.normal(size=(8, 2)))
    steps = np.array([[3.0, 1], [2, 0.8], [1, -0.2], [0.3, 0.1], [0, 0]])
    end = model.W[0].data.copy()
    states = [{"W.0": end + (plane @ step).reshape(4, 2)} for step in steps]
    found = path_plane(model, states)
    assert found.explained.sum() == pytest.approx(1)
    assert found.explained[0] > found.explained[1]
    lengths = np.linalg.norm(found.coordinates, axis=1)
    np.testing.assert_allclose(lengths, np.linalg.norm(steps, axis=1), atol=1e-12)
    assert np.all(found.coordinates[0] >= 0)
    for state, place in zip(states, found.coordinates, strict=True):
        at = landscape(half_squares, model, (X, Y), found.directions, place[:, None], **DOUBLE)
        assert at[0, 0] == pytest.approx(0.5 / 12 * np.sum((X @ state["W.0"] - Y) ** 2), rel=1e-10)
    with pytest.raises(ValueError, match="k: expected 1 <= k < 2"):
        path_plane(model, states[-2:])


def test_a_loss_that_overflows_is_a_hole_not_an_error():
    found = landscape(quadratic([1.0]), Weights(w=[1.0]), NO_DATA, [{"w": np.array([1e200])}], [[0, 1]], **DOUBLE)
    assert found[0] == 0.5
    assert np.isinf(found[1])


def test_noise_is_the_same_at_every_point(digits_batch, rng):
    model = tv.create_model("vit_digits", rng=rng, drop_rate=0.3).train(rng)
    still = {"head.bias": np.zeros(10)}
    found = landscape(classification(), model, digits_batch, [still], [[0, 1, 2]])
    assert found[0] == found[1] == found[2]


# walks that are interrupted ----------------------------------------------------------------


class Interrupted(Exception):
    """Somebody pulled the plug."""


def test_a_walk_goes_on_where_it_was_interrupted(tmp_path):
    calls, file = [], tmp_path / "walk.json"

    def objective(model, batch):
        calls.append(1)
        if len(calls) == 6:
            raise Interrupted
        return quadratic([1.0, 10.0])(model, batch)

    model, directions = Weights(w=[1.0, 1.0]), [{"w": row} for row in np.eye(2)]
    axes = [[-1e5, 0, 1], [0, 1, 2]]
    walk = {"file": file, **DOUBLE}
    with pytest.raises(Interrupted):
        landscape(objective, model, NO_DATA, directions, axes, **walk)
    assert sum(x is not None for x in json.loads(file.read_text())["losses"]) == 5
    found = landscape(objective, model, NO_DATA, directions, axes, **walk)
    assert len(calls) == 6 + 4
    np.testing.assert_array_equal(found, landscape(objective, model, NO_DATA, directions, axes, **DOUBLE))
    calls.clear()
    np.testing.assert_array_equal(landscape(objective, model, NO_DATA, directions, axes, **walk), found)
    assert not calls
    assert [path.name for path in tmp_path.iterdir()] == ["walk.json"]


def test_a_hole_is_a_finished_point(tmp_path):
    walk = {"file": tmp_path / "walk.json", **DOUBLE}
    for _ in range(2):
        found = landscape(quadratic([1.0]), Weights(w=[1.0]), NO_DATA, [{"w": np.array([1e200])}], [[0, 1]], **walk)
        assert np.isinf(found[1])
    assert None not in json.loads(walk["file"].read_text())["losses"]


def test_the_points_of_another_walk_are_refused(tmp_path):
    file, model = tmp_path / "walk.json", Weights(w=[1.0])
    landscape(quadratic([1.0]), model, NO_DATA, [{"w": np.ones(1)}], [[0, 1]], file=file)
    for changed in ({"w": np.full(1, 2.0)}, {"w": np.ones(1)}):
        with pytest.raises(ValueError, match=r"walk\.json: the points of another landscape"):
            landscape(quadratic([1.0]), model, NO_DATA, [changed], [[0, 2]], file=file)
    for damaged in (b"", b"\x00\xff", b"[]", b'{"walk": 1}', b'{"walk": "x", "losses": [{}]}', b"[" * 100_000):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"walk\.json: "):
            landscape(quadratic([1.0]), model, NO_DATA, [{"w": np.ones(1)}], [[0, 1]], file=file)


@pytest.mark.parametrize(
    ("directions", "axes", "what"),
    [
        ([{"v": np.ones(1)}], [[0]], "directions: v has shape .* no such name"),
        ([{"w": np.ones(2)}], [[0]], r"directions: w has shape \(2,\), in the model \(1,\)"),
        ([{"w": np.ones(1)}], [[0], [1]], "coordinates: expected a list of numbers for each of 1"),
        ([], [], "coordinates"),
        ([{"w": np.ones(1)}], [[]], "coordinates"),
    ],
)
def test_what_does_not_fit_is_refused(directions, axes, what):
    with pytest.raises(ValueError, match=what):
        landscape(quadratic([1.0]), Weights(w=[1.0]), NO_DATA, directions, axes)


def test_an_unknown_norm_is_named(rng):
    with pytest.raises(ValueError, match=r"norm: expected one of .*'filter', 'input', 'neuron'"):
        random_direction(Weights(w=[1.0]), norm="layer", rng=rng)
