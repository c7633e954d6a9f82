"""check_op lets right ops pass and catches wrong ones, in words; the mutants are the mistakes that students make."""

import math

import numpy as np
import pytest

from tinyvit import OpError, Tensor, check_op, equation, exp, primitive, softmax, tanh, tap
from tinyvit import sum as total
from tinyvit.autodiff.op import REGISTRY


def kernel_of(equation_, value_and_pullback):
    """A new op with this equation and this kernel."""
    op = equation(equation_)
    op.kernel(value_and_pullback, analytic=True)
    return op


def layer_norm(x, weight, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred * ((centred * centred).mean(-1, keepdims=True) + 1e-6) ** -0.5 * weight + bias


def layer_norm_kernel(mean=True, variance=True, biased=True, gain=True, gain_twice=False, summed=True):
    """LayerNorm by hand; every argument is a step that students forget."""

    def kernel(x, weight, bias):
        normal = x - x.mean(-1, keepdims=True)
        scale = 1 / np.sqrt((normal * normal).mean(-1, keepdims=True) + 1e-6)
        normal = normal * scale

        def pullback(g):
            h = g * weight if gain else g
            n = x.shape[-1] if biased else x.shape[-1] - 1
            dx = h - (h.mean(-1, keepdims=True) if mean else 0)
            dx = dx - (normal * (h * normal).sum(-1, keepdims=True) / n if variance else 0)
            dweight = g * normal * (weight if gain_twice else 1)
            return dx * scale, dweight, g if summed else g[0]

        return normal * weight + bias, pullback

    return kernel_of(layer_norm, kernel)


def softmax_kernel(answer):
    def my_softmax(x):
        e = exp(x)
        return e / e.sum(-1, keepdims=True)

    def kernel(x):
        e = np.exp(x)
        y = e / e.sum(-1, keepdims=True)
        return y, lambda g: (answer(g, y),)

    return kernel_of(my_softmax, kernel)


def attention_kernel(scaled=True, jacobian="full", pairs=True):
    def attention(q, k, v):
        return softmax(q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])) @ v

    def kernel(q, k, v):
        s = 1 / math.sqrt(q.shape[-1])
        a = softmax(q @ k.swapaxes(-1, -2) * s)

        def pullback(g):
            da = g @ v.swapaxes(-1, -2)
            ds = a * (da - (a * da).sum(-1, keepdims=True)) if jacobian == "full" else a * (1 - a) * da
            ds = ds * (s if scaled else 1)
            dv = a.swapaxes(-1, -2) @ g if pairs else a.mean(-2)[..., None] * g.sum(-2, keepdims=True)
            return ds @ k, ds.swapaxes(-1, -2) @ q, dv

        return a @ v, pullback

    return kernel_of(attention, kernel)


def gelu_kernel(density=True, tanh_form=False):
    def my_gelu(x):
        return 0.5 * x * (1 + REGISTRY["erf"](x / math.sqrt(2)))

    def kernel(x):
        from scipy.special import erf

        cdf = 0.5 * (1 + erf(x / math.sqrt(2)))

        def pullback(g):
            if tanh_form:
                inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
                t, slope = np.tanh(inner), math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
                return (g * 0.5 * (1 + t + x * (1 - t * t) * slope),)
            return (g * (cdf + (x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi) if density else 0)),)

        return x * cdf, pullback

    return kernel_of(my_gelu, kernel)


INDEX = np.array([[0, 3, 1], [2, 3, 0]])


def gather(scatter):
    """A table looked up at INDEX, as a primitive: its pullback must add where an entry is named twice."""

    @primitive
    def lookup(table):
        return table[INDEX]

    @lookup.pullback
    def _(g, out, table):
        d = np.zeros_like(table)
        scatter(d, g)
        return (d,)

    return lookup


def overwritten(d, g):
    d[INDEX] = g


def added_once(d, g):
    d[INDEX] += g


def transposed(d, g):
    np.add.at(d, INDEX.T.reshape(2, 3), g)


def bias_add(answer):
    @primitive
    def add_bias(x, bias):
        return x + bias

    @add_bias.pullback
    def _(g, out, x, bias):
        return g, answer(g)

    return add_bias


def normal(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


NORM = normal(2, 3, 5), normal(5), normal(5)
SOFTMAX = (normal(2, 3, 5),)
ATTENTION = normal(2, 4, 3), normal(2, 6, 3), normal(2, 6, 5)
TABLE = (normal(4, 2),)
BIAS = normal(2, 3, 5), normal(5)

RIGHT = {
    "layer_norm": (layer_norm_kernel(), NORM),
    "softmax": (softmax_kernel(lambda g, y: y * (g - (g * y).sum(-1, keepdims=True))), SOFTMAX),
    "attention": (attention_kernel(), ATTENTION),
    "gelu": (gelu_kernel(), SOFTMAX),
    "bias, undone by the engine": (bias_add(lambda g: g), BIAS),
    "bias, summed": (bias_add(lambda g: total(g, axis=(0, 1))), BIAS),
}

WRONG = {
    "softmax: zeros": (softmax_kernel(lambda g, y: 0 * g), SOFTMAX, 'argument 1 ("x")'),
    "softmax: three times": (
        softmax_kernel(lambda g, y: 3 * y * (g - (g * y).sum(-1, keepdims=True))),
        SOFTMAX,
        'argument 1 ("x")',
    ),
    "softmax: outer factor forgotten": (
        softmax_kernel(lambda g, y: g - (g * y).sum(-1, keepdims=True)),
        SOFTMAX,
        'argument 1 ("x")',
    ),
    "softmax: diagonal only": (softmax_kernel(lambda g, y: g * y * (1 - y)), SOFTMAX, 'argument 1 ("x")'),
    "softmax: sum over the wrong axis": (
        softmax_kernel(lambda g, y: y * (g - (g * y).sum(1, keepdims=True))),
        SOFTMAX,
        'argument 1 ("x")',
    ),
    "norm: mean path forgotten": (layer_norm_kernel(mean=False), NORM, 'argument 1 ("x")'),
    "norm: variance path forgotten": (layer_norm_kernel(variance=False), NORM, 'argument 1 ("x")'),
    "norm: divided by n - 1": (layer_norm_kernel(biased=False), NORM, 'argument 1 ("x")'),
    "norm: gain forgotten": (layer_norm_kernel(gain=False), NORM, 'argument 1 ("x")'),
    "norm: gain twice": (layer_norm_kernel(gain_twice=True), NORM, 'argument 2 ("weight")'),
    "norm: one batch of the bias": (layer_norm_kernel(summed=False), NORM, 'argument 3 ("bias")'),
    "attention: 1/√d forgotten": (attention_kernel(scaled=False), ATTENTION, 'argument 1 ("q")'),
    "attention: diagonal Jacobian": (attention_kernel(jacobian="diagonal"), ATTENTION, 'argument 1 ("q")'),
    "attention: means multiplied, not pairs": (attention_kernel(pairs=False), ATTENTION, 'argument 3 ("v")'),
    "gelu: density forgotten": (gelu_kernel(density=False), SOFTMAX, 'argument 1 ("x")'),
    "gelu: the other one's derivative": (gelu_kernel(tanh_form=True), SOFTMAX, 'argument 1 ("x")'),
    "table: overwritten": (gather(overwritten), TABLE, 'argument 1 ("table")'),
    "table: added once": (gather(added_once), TABLE, 'argument 1 ("table")'),
    "table: index transposed": (gather(transposed), TABLE, 'argument 1 ("table")'),
    "bias: mean for sum": (bias_add(lambda g: g.mean((0, 1))), BIAS, 'argument 2 ("bias")'),
    "bias: one axis only": (bias_add(lambda g: g[0]), BIAS, 'argument 2 ("bias")'),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_pass(name, rng):
    op, inputs = RIGHT[name]
    check_op(op, *inputs)
    check_op(op, *inputs, rng=rng)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_pullbacks_are_caught_whatever_the_random_numbers(name):
    op, inputs, argument = WRONG[name]
    for seed in range(10):
        with pytest.raises(OpError) as told:
            check_op(op, *inputs, rng=np.random.default_rng(seed))
        text = str(told.value)
        assert text.startswith(f"{op.name}: pullback wrong for {argument}: expected ")
        assert ", got " in text
        assert " at [" in text
        assert "relative " in text


def test_the_worst_element_is_named():
    @primitive
    def double(x):
        return 2 * x

    @double.pullback
    def _(g, out, x):
        d = 2 * g
        d[1, 2] *= 1.001
        return (d,)

    with pytest.raises(OpError, match=r'double: pullback wrong for argument 1 \("x"\): .* at \[1, 2\]; relative 0'):
        check_op(double, normal(2, 3))


# the forward first ------------------------------------------------------------------------------


def test_a_wrong_value_is_told_before_a_wrong_gradient():
    op = kernel_of(lambda x: x * x, lambda x: (x * x + (x > 1), lambda g: (g,)))
    with pytest.raises(OpError, match="value wrong: the kernel's differs from the equation's: expected"):
        check_op(op, np.array([0.5, 2.0]))


def test_values_of_the_wrong_shape_or_of_no_shape():
    op = kernel_of(lambda x: x.sum(-1), lambda x: (x.sum(-1, keepdims=True), lambda g: (g,)))
    with pytest.raises(OpError, match=r"value wrong.*expected shape \(2,\), got \(2, 1\)"):
        check_op(op, normal(2, 3))
    with pytest.raises(OpError, match="returned a tuple; an op returns one array"):
        check_op(lambda x: (x, x), normal(2, 3))


# manners ----------------------------------------------------------------------------------------


def test_writing_into_an_input():
    def scaled(x):
        x *= 2
        return x

    with pytest.raises(OpError, match="scaled: wrote into its input"):
        check_op(scaled, normal(2, 3))


def test_writing_into_the_cotangent_or_into_what_was_kept():
    def greedy(g):
        g *= 2
        return (g,)

    with pytest.raises(OpError, match="its pullback wrote into an array that is not its own"):
        check_op(kernel_of(lambda x: 2 * x, lambda x: (2 * x, greedy)), normal(2, 3))

    def kernel(x):
        kept = 2 * x

        def pullback(g):
            np.multiply(kept, g, out=kept)
            return (kept,)

        return x * x, pullback

    with pytest.raises(OpError, match=r'pullback called twice gives two answers for argument 1 \("x"\)'):
        check_op(kernel_of(lambda x: x * x, kernel), normal(2, 3))


def test_noise_inside_an_op():
    rng = np.random.default_rng(0)
    with pytest.raises(OpError, match="two values for the same arguments; noise must come in as an argument"):
        check_op(lambda x: x * (rng.random(x.shape) > 0.5), normal(4, 5))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda g: 2 * g, "must return a tuple"),
        (lambda g: (), "gave 0 cotangents for 1 arguments"),
        (lambda g: (g[0],), r"argument 1 \(\"x\"\): its shape is \(2, 3\), the cotangent's is \(3,\)"),
        (lambda g: (None,), 'pullback wrong for argument 1'),
    ],
)  # fmt: skip
def test_answers_of_the_wrong_form(answer, words):
    with pytest.raises(OpError, match=words):
        check_op(kernel_of(lambda x: 2 * x, lambda x: (2 * x, answer)), normal(2, 3))


def test_float32_that_becomes_float64():
    with pytest.raises(OpError, match="float32 became float64 in the value"):
        check_op(lambda x: x * np.float64(2), normal(2, 3))
    op = kernel_of(lambda x: x / math.sqrt(2), lambda x: (x / math.sqrt(2), lambda g: (g / np.sqrt(2),)))
    with pytest.raises(OpError, match=r'float32 became float64 in the pullback of argument 1 \("x"\)'):
        check_op(op, normal(2, 3))


def test_leaving_the_device():
    @primitive
    def copied(x):
        return np.array(np.asarray(x))

    @copied.pullback
    def _(g, out, x):
        return (g,)

    with pytest.raises(OpError, match=r"copied: left the device: .* copied to the host"):
        check_op(copied, normal(2, 3))
    table = normal(3).astype(np.float32)
    with pytest.raises(OpError, match=r"left the device: .*a host array \(3,\) float32 met a device array"):
        check_op(lambda x: x * table, normal(2, 3))

    @primitive
    def counted(x):
        return np.exp(x * float(x.sum()) * 0 + x)

    @counted.pullback
    def _(g, out, x):
        return (g * out,)

    with pytest.raises(OpError, match=r"left the device: .*float\(x\)"):
        check_op(counted, normal(2, 3))


# complex numbers and higher orders ---------------------------------------------------------------


def test_an_op_that_refuses_complex_numbers_is_checked_by_differences():
    from scipy.special import expit

    def logistic(slope):
        @primitive
        def op(x):
            return expit(x)

        @op.pullback
        def _(g, y, x):
            return (g * y * (1 - y) * slope,)

        return op

    check_op(logistic(1.0), normal(2, 3))
    with pytest.raises(OpError, match="pullback wrong for argument 1"):
        check_op(logistic(1.001), normal(2, 3))


def test_an_op_that_is_not_analytic_is_told_so():
    @primitive
    def size(x):
        return np.abs(x)

    @size.pullback
    def _(g, out, x):
        return (g * np.sign(x),)

    with pytest.raises(OpError, match=r'size: not analytic in argument 1 \("x"\).*np.abs'):
        check_op(size, normal(2, 3))


def test_a_pullback_on_raw_arrays_has_no_second_derivative():
    """Written in np.* instead of ops, a rule computes the first derivative and forgets the way back."""

    @primitive
    def cube(x):
        return x * x * x

    @cube.pullback
    def _(g, out, x):
        frozen = getattr(x, "data", x) if isinstance(x, Tensor) else x
        return (g * (3 * frozen * frozen),)

    with pytest.raises(OpError, match=r'second derivative wrong for argument 1 \("x"\): expected'):
        check_op(cube, normal(2, 3))


def test_a_pullback_that_is_not_linear_in_its_cotangent():
    @primitive
    def twice(x):
        return 2 * x

    @twice.pullback
    def _(g, out, x):
        return (2 * g + 0 * g * g + (1e-3 * (g * g) if isinstance(g, Tensor) else 0),)

    with pytest.raises(OpError, match=r"differentiable pullback wrong|not linear"):
        check_op(twice, normal(2, 3))


# what may be checked ------------------------------------------------------------------------------


def test_plain_functions_equations_constants_options_and_numbers():
    check_op(lambda x, w: tanh(x @ w).sum(), normal(3, 4), normal(4, 2))
    check_op(lambda *xs: xs[0] * xs[1], normal(3), normal(2, 1))

    @equation(taps=("gate",))
    def swish(x, beta, *, shift=0.0):
        return x * tap("gate", 1 / (1 + exp(-beta * x + shift)))

    check_op(swish, normal(3, 4), normal(), shift=0.3)
    check_op(swish, normal(3, 4), 1.5)
    check_op(swish, normal(3, 4).astype(np.float32), 2)
    check_op(lambda x, i: x[:, 0] * (i > 1), normal(3, 4), np.array([0, 1, 2]))  # integers are constants
    check_op(swish, normal(4, 3).T[::-1], normal(0, 3, 4))
    check_op(lambda x, where: x * where, normal(2, 3), np.array([True, False, True]))
    assert "swish" not in REGISTRY


def test_the_given_tolerance_is_used():
    op = kernel_of(lambda x: x * x, lambda x: (x * x, lambda g: (g * (2 + 1e-9) * x,)))
    with pytest.raises(OpError):
        check_op(op, normal(2, 3))
    check_op(op, normal(2, 3), tolerance=1e-7)


def test_large_arguments_are_told_of_by_projection():
    @primitive
    def double(x):
        return 2 * x

    @double.pullback
    def _(g, out, x):
        return (2.01 * g,)

    with pytest.raises(OpError, match="along a random direction expected"):
        check_op(double, normal(50, 60))
