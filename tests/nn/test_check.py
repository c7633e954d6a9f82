"""check_model: it lets right models pass, and names what is wrong with each of these."""

from types import SimpleNamespace

import numpy as np
import pytest

from tinyvit import Buffer, Module, Parameter, Tensor, check_model, constant, equation, exp, mean, relu, reshape
from tinyvit.nn.basic import Linear
from tinyvit.nn.check import LAWS, ModelError
from tinyvit.nn.init import zeros
from tinyvit.primitives.shape import transpose

IMAGES = (8, 4, 4, 2)


class Good(Module):
    """Pixels to classes through one hidden layer."""

    def __init__(self, *, rng):
        self.hidden = Linear(32, 24, rng=rng)
        self.head = Linear(24, 3, rng=rng)

    def forward(self, x):
        return self.head(self.features(reshape(x, shape=(x.shape[0], -1))))

    def features(self, x):
        return relu(self.hidden(x))


def check(model, **options):
    check_model(model, np.random.default_rng(1).normal(size=IMAGES), **options)


def test_a_right_model_passes(rng):
    check(lambda rng: Good(rng=rng))
    check(Good(rng=rng))
    check(lambda rng: Good(rng=rng), rng=rng, output_shape=(8, 3))


def test_the_model_that_is_checked_stays_as_it_is(rng):
    model = Good(rng=rng)
    before = {name: x.copy() for name, x in model.state_dict().items()}
    check(model)
    assert all(np.array_equal(x, before[name]) for name, x in model.state_dict().items())
    assert not model.training


class Pair(Good):
    """Two outputs in training, of different widths."""

    def forward(self, x):
        y = super().forward(x)
        return (y, self.other(y)) if self.training else y

    def other(self, y):
        return y[:, :2] * y[:, 1:]


def test_a_model_may_have_several_outputs(rng):
    check(lambda rng: Pair(rng=rng))


# models with something wrong ----------------------------------------------------------------


class CutGraph(Good):
    def features(self, x):
        return super().features(x).data

    def forward(self, x):
        return super().forward(x).data


class WrongShape(Good):
    def __init__(self, *, rng):
        super().__init__(rng=rng)
        self.config = SimpleNamespace(num_classes=4)


class OneForAll(Good):
    def forward(self, x):
        return mean(super().forward(x), axis=0)


class Overflows(Good):
    def features(self, x):
        return super().features(x) * np.inf


class SameName(Good):
    def __init__(self, *, rng):
        super().__init__(rng=rng)
        setattr(self, "hidden.weight", Parameter(zeros((24, 32), rng=rng)))


class Hidden(Good):
    def __init__(self, *, rng):
        super().__init__(rng=rng)
        secret = Parameter(zeros((24,), rng=rng))
        self.scale = lambda x: x * secret

    def features(self, x):
        return self.scale(super().features(x))


class Unused(Good):
    def __init__(self, *, rng):
        super().__init__(rng=rng)
        self.norm = Linear(24, 24, rng=rng)


class NoGradient(Good):
    def __init__(self, *, rng):
        super().__init__(rng=rng)
        self.temperature = Parameter(zeros((24,), rng=rng))

    def features(self, x):
        return super().features(x) + 0.0 * self.temperature


class OnlyCalledIdle(Good):
    idle = ("head.*",)


class NoisyEvaluation(Good):
    def features(self, x):
        noise = np.random.default_rng().normal(size=24)  # not the module's own
        return super().features(x) + noise.astype(np.real(getattr(x, "data", x)).dtype)


class CountsInEvaluation(Good):
    def __init__(self, *, rng):
        super().__init__(rng=rng)
        self.seen = Buffer(np.zeros((), np.int64))

    def features(self, x):
        self.seen.data = self.seen.data + 1
        return super().features(x)


class MixesImages(Good):
    def forward(self, x):
        return super().forward(reshape(transpose(x, axes=(1, 2, 0, 3)), shape=x.shape))


class OwnNoise(Good):
    def features(self, x):
        y = super().features(x)
        return y * np.random.default_rng().normal(size=24).astype(y.dtype) if self.training else y


class Forgets(Good):
    def __init__(self, *, rng):
        super().__init__(rng=rng)
        self.projection = None if rng is None else rng.normal(size=24).astype(np.float32)

    def features(self, x):
        return super().features(x) * (1.0 if self.projection is None else self.projection.astype(x.dtype))


class Widens(Good):
    def features(self, x):
        return super().features(x) + np.zeros(24)


@equation
def squashed(x):
    return 1 / (1 + exp(-x))


@squashed.kernel
def _(x):
    y = 1 / (1 + np.exp(-x))
    return y, lambda g: (g * y,)  # forgets (1 - y)


class WrongPullback(Good):
    def features(self, x):
        return squashed(self.hidden(x))


@constant
def frozen_sigmoid(x):
    return 1 / (1 + np.exp(-x))


class CutInTraining(Pair):
    def other(self, y):
        return y[:, :2] * y.data[:, 1:]


class WrongSecond(Good):
    """The value and the first derivative are right; the second is missing."""

    def features(self, x):
        return once(self.hidden(x))


@equation
def once(x):
    y = frozen_sigmoid(x)  # as far as the graph knows, a constant
    return x * y


@once.kernel(analytic=True)
def _(x):
    y = 1 / (1 + np.exp(-x))
    return x * y, lambda g: (g * (y + x * y * (1 - y)),)


class NoBlueprint(Good):
    def __init__(self, *, rng):
        super().__init__(rng=rng)
        self.shift = Parameter(rng.normal(size=24).astype(np.float32))

    def features(self, x):
        return super().features(x) + self.shift


class OtherBlueprint(Good):
    def __init__(self, *, rng):
        super().__init__(rng=rng)
        if rng is None:
            self.head = Linear(24, 5, rng=rng)


class CannotLearn(Good):
    """One number per image is all that reaches the head, and it hardly differs."""

    def features(self, x):
        return super().features(x) * 1e-6


WRONG = {
    CutGraph: "forward returned a ndarray, not a Tensor",
    WrongShape: r"the output has shape \(8, 3\), expected \(8, 4\)",
    OneForAll: r"8 images gave an output of shape \(3,\)",
    Overflows: "the output has numbers that are not finite",
    SameName: "two parameters are both called hidden.weight",
    Hidden: r"depends on 1 parameter\(s\) that no name leads to, of shape \[\(24,\)\]",
    Unused: "forward never uses norm.weight, norm.bias",
    NoGradient: "the gradient is zero in every entry of temperature",
    OnlyCalledIdle: "head.weight, head.bias: the model calls it idle, but a gradient reaches it",
    NoisyEvaluation: "two evaluations of the same images differ",
    CountsInEvaluation: "evaluation changed seen",
    MixesImages: "an image's output depends on the other images",
    OwnNoise: "two training passes with equal generators differ",
    Forgets: "a fresh model with the same state computes something else",
    Widens: "float32 images gave float64 in evaluation",
    WrongPullback: "the gradient of hidden.weight, hidden.bias, images is not the derivative .*evaluation mode",
    CutInTraining: "the gradient of .* is not the derivative .*training mode",
    WrongSecond: "two ways to the second derivative disagree at .*hidden.weight",
    NoBlueprint: "rng=None must make a blueprint that runs on shapes; it raised AttributeError",
    OtherBlueprint: "the blueprint differs from the model in head.bias, head.weight",
    CannotLearn: "the model does not learn to tell images apart",
}


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # infinity times zero, in Overflows
@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_named(kind):
    with pytest.raises(ModelError, match=WRONG[kind]):
        check(lambda rng: kind(rng=rng))


def test_every_law_has_a_model_that_breaks_it():
    """The last frame but one of the error is the law."""
    broken = set()
    for kind in WRONG:
        with np.errstate(invalid="ignore"), pytest.raises(ModelError) as caught:
            check(lambda rng, kind=kind: kind(rng=rng))
        broken |= {entry.name for entry in caught.traceback} & {law.__name__ for law in LAWS}
    assert broken == {law.__name__ for law in LAWS}


def test_a_parameter_that_is_idle_may_be_called_so(rng):
    class Idle(NoGradient):
        idle = ("temperature",)

    check(Idle(rng=rng))


def test_a_model_is_built_again_from_its_config(rng):
    class Configured(Good):
        def __init__(self, config, *, rng):
            super().__init__(rng=rng)
            self.config = config

    check(Configured(SimpleNamespace(num_classes=3), rng=rng))


def test_one_image_is_too_few(rng):
    with pytest.raises(ValueError, match="pass at least two"):
        check_model(Good(rng=rng), np.zeros((1, 4, 4, 2)))


def test_images_are_not_written_to(rng):
    class Writes(Good):
        def forward(self, x):
            (x.data if isinstance(x, Tensor) else x)[0] = 0
            return super().forward(x)

    with pytest.raises(ValueError, match="read-only"):
        check(Writes(rng=rng))
