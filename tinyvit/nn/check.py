"""The laws of a model, checked one after the other on a few images.

    check_model(lambda rng: MyModel(MyConfig(), rng=rng), images)      # silent, or ModelError says what is wrong

Each law is a function below; its docstring is the law. All but the last work on a model whose parameters were moved
away from their initial values, since zeros and ones hide mistakes.
"""

from __future__ import annotations

import math
from collections import Counter
from copy import deepcopy
from fnmatch import fnmatchcase

import numpy as np

from tinyvit.autodiff.backward import gradients
from tinyvit.autodiff.tensor import Tensor, raw
from tinyvit.autodiff.watch import no_grad
from tinyvit.blueprint import Blueprint
from tinyvit.nn.module import Module, swapped
from tinyvit.primitives.reduce import mean
from tinyvit.primitives.shape import concatenate, reshape

STEP = 1e-20  # of the complex step: nothing is subtracted, so nothing is lost


class ModelError(AssertionError):
    """A model breaks one of the laws; the message says which and what usually causes it."""


def check_model(model, images, *, rng=None, output_shape=None, tolerance=1e-10) -> None:
    """Check every law of a model, or raise ModelError for the first that it breaks; ``LAWS`` lists them.

    model         a function ``rng -> Module`` that also makes a blueprint of ``None``; or a Module, which is left as it
                  is: another is made with ``type(model)(model.config, rng=...)``, or copied if it has no config
    images        floating-point images (B, H, W, C), at least two; random ones will do. Or tokens, integers (B, N), or
                  a tuple of several inputs, if the model says its ``example_inputs``; of these all outputs are checked
    output_shape  what the model returns for them; (B, config.num_classes) if left out and the config says so
    tolerance     relative, for derivatives in float64 computed in two ways
    """
    trial = Trial(_factory(model), images, rng or np.random.default_rng(0), output_shape, tolerance)
    for law in LAWS:
        law(trial)


class Trial:
    """The model on trial, its images, and what the laws need of both."""

    def __init__(self, create, images, rng, output_shape, tolerance):
        several = images if isinstance(images, tuple) else (images,)
        self.images = np.concatenate([_rows(x) for x in several], axis=1) if len(several) > 1 else np.asarray(images)
        if len(self.images) < 2:
            raise ValueError("images: pass at least two; with one, mixing up images goes unnoticed")
        self.rng, self.tolerance, self.output_shape = rng, tolerance, output_shape
        shapes = [np.shape(x)[1:] for x in several] if len(several) > 1 else []
        self.create = lambda rng: _OneToOne.around(create(rng), shapes)

    def model(self, dtype=np.float64) -> Module:
        """A model with every parameter moved at random, and running statistics of one batch."""
        model = self.create(self.rng).astype(dtype)
        for p in model.parameters():
            p.data = p.data + self.rng.normal(0, 0.1, p.shape).astype(dtype)
        with no_grad():
            _training(model)(self.pixels(dtype))
        return model.eval()

    def pixels(self, dtype=np.float64):
        """The images in some precision, as an array that cannot be written to."""
        pixels = self.images.astype(dtype if self.images.dtype.kind == "f" else self.images.dtype)
        pixels.setflags(write=False)
        return pixels


# the laws ------------------------------------------------------------------------------------


def returns_what_it_should(t: Trial):
    """A Tensor of the right shape comes out, one row per image, all numbers finite."""
    model = t.model()
    for y in _several(model(t.pixels())):
        _expect(isinstance(y, Tensor), f"forward returned a {type(y).__name__}, not a Tensor: a .data on the way cuts "
                "the graph, and nothing before it can learn")  # fmt: skip
    y = _run(model, t.pixels())
    wanted = t.output_shape
    if wanted is None and getattr(getattr(model, "config", None), "num_classes", 0):
        wanted = (len(t.images), model.config.num_classes)
    _expect(wanted is None or y.shape == tuple(wanted), f"the output has shape {y.shape}, expected {wanted}")
    _expect(y.shape[:1] == (len(t.images),), f"{len(t.images)} images gave an output of shape {y.shape}: its first "
            "axis must be the images")  # fmt: skip
    _expect(np.isfinite(y.data).all(), "the output has numbers that are not finite")


def names_each_once(t: Trial):
    """No two parameters or buffers have the same name, and none that takes part is hidden from the walk."""
    model = t.model()
    twice = [name for name, n in Counter(name for name, _ in model.named_state()).items() if n > 1]
    _expect(not twice, f"two parameters are both called {', '.join(twice)}: one would overwrite the other in a file")
    known = {id(p) for p in model.parameters()}
    hidden = [leaf.shape for leaf in _leaves(_run(model, t.pixels())) if id(leaf) not in known]
    _expect(not hidden, f"the output depends on {len(hidden)} parameter(s) that no name leads to, of shape "
            f"{hidden[:1]}: keep parameters in attributes, lists, tuples or dicts of a Module")  # fmt: skip


def reaches_every_parameter(t: Trial):
    """Every parameter receives a gradient, but for those that the model itself says are idle."""
    model = t.model()
    y = _run(model, t.pixels())
    met = {id(leaf) for leaf in _leaves(y)}
    idle = [name for name, p in model.named_parameters() if id(p) not in met]
    _expect(not idle, f"forward never uses {', '.join(idle)}: no gradient reaches there")
    found = gradients(y, model.parameters(), [t.rng.normal(size=y.shape)])
    reached = {name: g.any() for (name, _), g in zip(model.named_parameters(), found, strict=True)}
    called_idle = {name for name in reached if any(fnmatchcase(name, pattern) for pattern in model.idle)}
    zero = [name for name in reached if not reached[name] and name not in called_idle]
    _expect(not zero, f"the gradient is zero in every entry of {', '.join(zero)}")
    busy = [name for name in reached if reached[name] and name in called_idle]
    _expect(not busy, f"{', '.join(busy)}: the model calls it idle, but a gradient reaches it")


def keeps_to_itself(t: Trial):
    """Evaluation draws no noise, changes nothing in the model, and gives an image the same output in any company."""
    model = t.model()
    before = {name: value.data.copy() for name, value in model.named_state()}
    x = t.pixels()
    with no_grad():
        y, again, alone = (_run(model, part).data for part in (x, x, x[:1]))
    _expect(np.array_equal(y, again), "two evaluations of the same images differ: in evaluation mode (self.rng is "
            "None) there must be no noise")  # fmt: skip
    changed = [name for name, value in model.named_state() if not np.array_equal(value.data, before[name])]
    _expect(not changed, f"evaluation changed {', '.join(changed)}: only training mode may, and only buffers")
    _expect(_differ(y[:1], alone) < 1e-9, "an image's output depends on the other images of the batch: look for a "
            "reshape where a transpose is meant, or a mean over axis 0")  # fmt: skip


def repeats_itself(t: Trial):
    """In training mode the same generator gives the same output, and parameters stay as they are."""
    model = t.model()
    before = [p.data.copy() for p in model.parameters()]
    with no_grad():
        y, again = (_run(_training(model), t.pixels()).data for _ in range(2))
    _expect(np.array_equal(y, again), "two training passes with equal generators differ: draw all noise from self.rng")
    changed = [name for (name, p), old in zip(model.named_parameters(), before, strict=True) if (p.data != old).any()]
    _expect(not changed, f"a forward pass changed {', '.join(changed)}: parameters change in training steps alone")


def survives_saving(t: Trial):
    """A fresh model that loads the state computes the same."""
    model, fresh = t.model(np.float32), t.create(t.rng).eval()
    fresh.load_state_dict(model.state_dict())
    with no_grad():
        y, same = (_run(m, t.pixels(np.float32)).data for m in (model, fresh))
    _expect(np.array_equal(y, same), "a fresh model with the same state computes something else: some of what it "
            "computes with is neither Parameter nor Buffer")  # fmt: skip


def keeps_its_precision(t: Trial):
    """Float32 images and parameters give float32 outputs, gradients and buffers."""
    model, x = t.model(np.float32), t.pixels(np.float32)
    for mode, ready in (("evaluation", model.eval), ("training", lambda: _training(model))):
        y = _run(ready(), x)
        _expect(y.dtype == np.float32, f"float32 images gave {y.dtype} in {mode}: look for an array made without a "
                "dtype, or a NumPy number in a product")  # fmt: skip
        for (name, _), g in zip(model.named_parameters(), gradients(y, model.parameters(), [y.data]), strict=True):
            _expect(g.dtype == np.float32, f"the gradient of {name} is {g.dtype}, the parameter float32")
    wide = [name for name, value in model.named_state() if value.dtype == np.float64]
    _expect(not wide, f"{', '.join(wide)} became float64 in a training pass")


def derives_truly(t: Trial):
    """The gradient, projected on a random direction of all parameters and the images, equals the complex step's."""
    model, x = t.model(), t.pixels()
    for mode in (Module.eval, _training):
        y = _run(mode(model), x)
        u = t.rng.normal(size=y.shape)
        leaves = dict(model.named_parameters())
        if x.dtype.kind == "f":  # tokens have no derivative
            leaves["images"] = Tensor(x, requires_grad=True)
        output = _run(mode(model), leaves.get("images", x))
        found = dict(zip(leaves, gradients(output, list(leaves.values()), [u]), strict=True))
        direction = {name: t.rng.normal(size=leaf.shape) for name, leaf in leaves.items()}

        def stepped(names, mode=mode, u=u, leaves=leaves, direction=direction):
            return np.sum(_at(model, mode, x, leaves, direction, names).imag * u) / STEP

        size = np.sqrt(np.sum([np.vdot(g, g) for g in found.values()]))
        products = {name: np.vdot(found[name], direction[name]) for name in found}
        if abs(np.sum(list(products.values())) - stepped(list(found))) > t.tolerance * size:
            wrong = [n for n in found if abs(products[n] - stepped([n])) > t.tolerance * size]
            raise ModelError(f"the gradient of {', '.join(wrong)} is not the derivative of the output "
                             f"({_mode(model)} mode): a pullback is wrong, or something decides by more than a real "
                             "part; check_op finds the op")  # fmt: skip


def derives_twice(t: Trial):
    """Hessian–vector products by two reverse sweeps, and by the complex step of one, agree."""
    model, x = t.model(), t.pixels()
    names, leaves = zip(*model.named_parameters(), strict=True)
    direction = [t.rng.normal(size=p.shape) for p in leaves]
    for mode in (Module.eval, _training):
        y = _run(mode(model), x)
        u = t.rng.normal(size=y.shape)
        first = gradients(y, leaves, [u], differentiable=True)
        linked = [(g, v) for g, v in zip(first, direction, strict=True) if g.requires_grad]
        twice = gradients([g for g, _ in linked], leaves, [v for _, v in linked])
        with swapped(model, {n: p.data + 1j * STEP * v for n, p, v in zip(names, leaves, direction, strict=True)}):
            stepped = [g.imag / STEP for g in gradients(_run(mode(model), x), leaves, [u])]
        size = np.max([np.abs(h).max() for h in stepped])
        wrong = [n for n, a, b in zip(names, twice, stepped, strict=True) if np.abs(a - b).max() > t.tolerance * size]
        _expect(not wrong, f"two ways to the second derivative disagree at {', '.join(wrong)} ({_mode(model)} mode): a "
                "pullback is right in value but not written in ops")  # fmt: skip


def has_a_blueprint(t: Trial):
    """Made without a generator, the model has the same names, shapes and number of parameters, and can be run."""
    try:
        blueprint = t.create(None)
        y = _run(blueprint, Blueprint(t.images.shape, t.images.dtype))
    except Exception as error:
        raise ModelError(f"rng=None must make a blueprint that runs on shapes; it raised {error!r}") from error
    shapes, own = ({name: value.shape for name, value in m.named_state()} for m in (t.model(), blueprint))
    odd = sorted(name for name in shapes.keys() | own.keys() if shapes.get(name) != own.get(name))
    _expect(not odd, f"the blueprint differs from the model in {', '.join(odd)}")
    wanted = _run(t.model(), t.pixels()).shape
    _expect(y.shape == wanted, f"the blueprint's output has shape {y.shape}, the model's {wanted}")


def learns(t: Trial, steps: int = 30, rate: float = 0.01):
    """Thirty plain gradient steps on eight images beat every answer that ignores the images.

    The step is as long in every parameter: rate times the gradient over its own root mean square.
    """
    model, x = t.create(t.rng).astype(np.float32), t.pixels(np.float32)[:8]
    shape = _run(_training(model), x).shape
    target = t.rng.normal(size=shape)
    if isinstance(model, _OneToOne):  # hundreds of outputs: they learn one number per sample, and take longer
        target, steps = target[:, :1] * np.sign(t.rng.normal(size=(1, *shape[1:]))), 3 * steps
    target = target.astype(np.float32)
    for i in range(steps):
        loss = _squared_error(_run(_training(model), x), target)
        for p, g in zip(model.parameters(), gradients(loss, model.parameters()), strict=True):
            length = np.float32(rate * (1 - i / steps) / (np.sqrt(np.mean(g * g)) + 1e-12))
            p.data = p.data - length * g
    reached = _squared_error(_run(_training(model), x), target).item()
    blind = _squared_error(np.mean(target, axis=0, keepdims=True), target).item()  # the best constant answer
    _expect(reached < 0.8 * blind, f"{steps} gradient steps on {len(x)} images reach a squared error of {reached:.3g}; "
            f"a constant answer has {blind:.3g}: the model does not learn to tell images apart")  # fmt: skip


LAWS = (
    returns_what_it_should,
    names_each_once,
    reaches_every_parameter,
    keeps_to_itself,
    repeats_itself,
    survives_saving,
    keeps_its_precision,
    derives_truly,
    derives_twice,
    has_a_blueprint,
    learns,
)

# their tools ---------------------------------------------------------------------------------


def _expect(holds, message: str):
    if not holds:
        raise ModelError(message)


def _run(model: Module, images):
    """What the model returns; several outputs side by side as one, (B, K₁ + K₂ + …)."""
    outputs = _several(model(images))
    if len(outputs) == 1:
        return outputs[0]
    return concatenate(*map(_rows, outputs), axis=1)


def _several(y) -> tuple:
    """One output, or several, as several."""
    return tuple(y) if isinstance(y, tuple | list) else (y,)


def _factory(model):
    """A function ``rng -> Module``, made of a Module if need be."""
    if not isinstance(model, Module):
        return model
    if hasattr(model, "config"):
        return lambda rng: type(model)(model.config, rng=rng)
    return lambda rng: deepcopy(model)


class _OneToOne(Module):
    """A model of several inputs as one of a single array: they stand side by side in it, flattened."""

    def __init__(self, model: Module, shapes):
        self.model, self.shapes = model, tuple(shapes)

    @staticmethod
    def around(model: Module, shapes) -> Module:
        """The model itself, unless it takes several inputs or says of its own what it takes."""
        return _OneToOne(model, shapes) if shapes or hasattr(model, "example_inputs") else model

    def forward(self, x):
        return self.model(*self.apart(x))

    def apart(self, x):
        """The inputs that were put side by side."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes]).tolist()
        cuts = zip([0, *ends], ends, self.shapes, strict=False)
        return [reshape(x[:, a:b], shape=(len(x), *shape)) for a, b, shape in cuts] or [x]


def _rows(x):
    """One row per sample.   (B, …) -> (B, n)"""
    return reshape(x, shape=(x.shape[0], math.prod(x.shape[1:])))


def _training(model: Module) -> Module:
    """The model in training mode with a generator that is the same every time."""
    return model.train(np.random.default_rng(0))


def _mode(model: Module) -> str:
    return "training" if model.training else "evaluation"


def _leaves(y: Tensor) -> list:
    """The Tensors at the start of ``y``'s graph that derivatives flow to."""
    seen, stack, leaves = set(), [y], []
    while stack:
        node = stack.pop()
        if id(node) in seen or not node.requires_grad:
            continue
        seen.add(id(node))
        leaves += [node] if node.op is None else []
        stack.extend(x for x in node.inputs if isinstance(x, Tensor))
    return leaves


def _at(model: Module, mode, x, leaves: dict, direction: dict, names):
    """The output one complex step along ``direction`` in the named parameters (and the images, if named)."""
    stepped = {name: leaves[name].data + 1j * STEP * direction[name] for name in names}
    images = stepped.pop("images", x)
    with swapped(model, stepped), no_grad():
        return raw(_run(mode(model), images))


def _differ(x, y) -> float:
    """The largest difference, relative to the largest number."""
    return np.max(np.abs(x - y)) / max(np.max(np.abs(x)), np.finfo(float).tiny)


def _squared_error(y, target):
    error = y - target
    return mean(error * error) if isinstance(error, Tensor) else np.mean(error * error)
