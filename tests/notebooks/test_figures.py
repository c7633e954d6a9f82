"""What the figures of the notebooks show, against closed forms and recomputation.

Each test reads a figure's numbers twice: as they were committed, and as the fast mode draws them.
"""

import numpy as np

import tinyvit
from tinyvit.analysis import mean_attention_distance
from tinyvit.data import digits


def softmax(x):
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


# ---- 01 · autodiff from nothing ----------------------------------------------------------------


def test_graph(numbers):
    """x, W, b, matmul, add, tanh, multiply, sum; a sum of six squares of tanh lies in (0, 6)."""
    shown = numbers("01_graph")
    assert shown["nodes"] == 8
    assert 0 < shown["loss"] < 6


def test_finite_differences(numbers):
    """Where truncation rules, the errors are those of Taylor's formula."""
    shown = numbers("01_finite_differences")
    _, second, third = np.abs(shown["derivatives"])
    eps, errors = np.array(shown["eps"]), {name: np.array(error) for name, error in shown["errors"].items()}
    large = (eps < 2e-3) & (eps > 5e-5)
    np.testing.assert_allclose(errors["forward difference"][large], second * eps[large] / 2, rtol=0.02)
    for name in ("central difference", "complex step"):
        np.testing.assert_allclose(errors[name][large], third * eps[large] ** 2 / 6, rtol=0.02)
    tiny = eps < 1e-9
    assert np.all(errors["complex step"][tiny] < 1e-14)
    # u|φ|/ε is what each of the two subtracted numbers may be off by; a rounding may also happen to be nil
    assert np.all(errors["forward difference"][tiny] < 20 * 2.0**-53 * shown["value"] / eps[tiny])
    assert np.median(errors["forward difference"][tiny] * eps[tiny]) > 2.0**-60 * shown["value"]


def test_blind_spots(numbers):
    """Ones accuse a pullback that is not blind to them; a random cotangent accuses every wrong one, no right one."""
    shown = numbers("01_blind_spots")
    caught = dict(zip(shown["suspects"], np.array(shown["shares"]), strict=True))
    ones, random = (shown["tests"].index(name) for name in ("ones", "random"))
    assert {name for name, share in caught.items() if share[random] == 0} == {"softmax: right", "LayerNorm: right"}
    assert all(share[random] in (0, 1) and share[ones] in (0, 1) for share in caught.values())
    seen = {name for name, share in caught.items() if share[ones] == 1}
    assert seen == {"softmax: diagonal of J only", "LayerNorm: mean path forgotten"}


def test_hessian_vector(numbers):
    """A central difference of gradients: second order down to about u^(2/3); the exact ways are exact."""
    shown = numbers("01_hessian_vector")
    eps, errors = np.array(shown["eps"]), np.array(shown["errors"])
    at = np.flatnonzero((eps < 2e-2) & (eps > 5e-4))
    np.testing.assert_allclose(np.diff(np.log10(errors[at])) / np.diff(np.log10(eps[at])), 2, atol=0.05)
    assert 1e-13 < errors.min() < 1e-8
    assert max(shown["exact"].values()) < 1e-14


# ---- 03 · attention as a soft look-up ----------------------------------------------------------


def test_retrieval(numbers):
    shown = numbers("03_retrieval")
    products = np.array(shown["queries"]) @ np.array(shown["keys"]).T
    for beta in (1, 5):
        np.testing.assert_allclose(shown["weights"][f"β = {beta}"], softmax(beta * products), rtol=1e-5)


def test_entropy(numbers):
    """Half a nat below uniform at every width with the scale; without it, less and less, at the end next to none."""
    shown = numbers("03_entropy")
    scaled, unscaled = shown["entropies"]["with 1/√d"], shown["entropies"]["without"]
    np.testing.assert_allclose(shown["uniform"], np.log(shown["keys"]), rtol=1e-5)
    np.testing.assert_allclose(np.subtract(shown["uniform"], scaled), 0.5, atol=0.15)
    assert scaled[0] == unscaled[0]
    assert np.all(np.diff(unscaled) < 0)
    assert unscaled[-1] < 0.3


def test_gradient(numbers):
    shown = numbers("03_gradient")
    scaled, unscaled = shown["through"]["with 1/√d"], shown["through"]["without"]
    np.testing.assert_allclose(scaled, 1 - np.e / shown["keys"], atol=0.025)
    assert np.all(np.diff(unscaled) < 0)
    assert unscaled[-1] < 0.01


def test_heads(numbers):
    """A head is attention on a slice of the features."""
    shown = numbers("03_heads")
    z = np.array(shown["tokens"])
    np.testing.assert_allclose(shown["one"][0], softmax(4 * z @ z.T), rtol=1e-5)
    for head, part in zip(shown["two"], (z[:, :2], z[:, 2:]), strict=True):
        np.testing.assert_allclose(head, softmax(4 * part @ part.T), rtol=1e-5)


def test_it(numbers):
    shown = numbers("03_it")
    weights = np.array(shown["weights"])
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-4)
    assert [shown["words"][i] for i in weights.argmax(axis=1)] == ["animal", "street"]
    assert weights.max(axis=1).min() > 0.95


# ---- 06 · ViT end to end -----------------------------------------------------------------------


def test_patches(numbers):
    shown = numbers("06_patches")
    images, labels = digits(seed=0).train
    assert shown["labels"] == labels[:8].tolist()
    np.testing.assert_allclose(shown["mean_ink"], images[:8].mean(axis=(1, 2, 3)), rtol=1e-5)


def test_schedule(numbers):
    """A line up, half a cosine down."""
    shown = numbers("06_schedule")
    rates, warmup, peak = np.array(shown["rates"]), shown["warmup"], shown["peak"]
    steps = shown["every"] * np.arange(len(rates))
    down = peak * (1 + np.cos(np.pi * (steps - warmup) / (steps[-1] - warmup))) / 2
    np.testing.assert_allclose(rates, np.where(steps < warmup, peak * steps / warmup, down), rtol=1e-5, atol=1e-12)


def test_training(numbers):
    """The first loss is log 10 because the head starts at zero; from there it falls."""
    shown = numbers("06_training")
    assert abs(shown["first_loss"] - np.log(10)) < 1e-5
    (_, losses), (_, accuracies) = shown["loss"], shown["accuracy"]
    assert losses[-1] < losses[0] / 2
    assert accuracies[-1] > (0.9 if len(losses) > 10 else 0.5)


def test_warmup(numbers):
    """Both begin at log 10 and fall; larger first steps are ahead at first."""
    runs = {name: np.array(losses) for name, losses in numbers("06_warmup")["runs"].items()}
    with_warmup, without = runs["with warm-up"], runs["without"]
    assert with_warmup.shape == without.shape
    for losses in runs.values():
        assert np.all(losses[:, 0] < np.log(10) + 0.1)
        assert np.all(losses[:, -1] < losses[:, 0])
    assert without[:, 1].mean() < with_warmup[:, 1].mean()
    if len(without) > 1:  # the claim of the text: at the end, seeds differ more than settings
        between = abs(with_warmup[:, -1].mean() - without[:, -1].mean())
        assert between < max(np.ptp(with_warmup[:, -1]), np.ptp(without[:, -1]))


def test_confusion(numbers):
    """Rows are the true digits of the test set; most lie on the diagonal."""
    confusion = np.array(numbers("06_confusion")["confusion"])
    labels = digits(seed=0).test.labels
    np.testing.assert_array_equal(confusion.sum(axis=1), np.bincount(labels))
    assert np.trace(confusion) > confusion.sum() / 2


def test_attention(numbers):
    """A class token's weights on patches sum to less than one, a head's distance lies within the image."""
    shown = numbers("06_attention")
    assert shown["labels"] == digits(seed=0).test.labels[:6].tolist()
    for weights in shown["maps"].values():
        sums = np.sum(weights, axis=(1, 2))
        assert np.shape(weights) == (6, 4, 4)
        assert np.all((sums > 0) & (sums < 1))
    uniform = mean_attention_distance(np.full((1, 1, 17, 17), 1 / 17), (4, 4), patch=2)[0]
    assert abs(uniform - 4.0160) < 1e-4
    assert np.all(np.abs(np.array(shown["distances"]) - uniform) < 1.5)


def test_ledger(numbers):
    """The pieces add up to the models that the package builds."""
    shown = numbers("06_ledger")
    built = ["vit_base_patch16_224", "vit_large_patch16_224", "vit_huge_patch14_224"]
    totals = np.sum(list(shown["millions"].values()), axis=0)
    np.testing.assert_allclose(totals, [tinyvit.create_model(name).num_parameters() / 1e6 for name in built], rtol=1e-5)
    assert shown["slides"] == [86, 307, 632]
