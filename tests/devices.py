"""What must hold on a device, as plain functions: test_gpu.py runs them under pytest, gpu_report.py without it.

Every check does the same work on the host and at a Place. It returns the worst difference it met, relative to the
largest number of what was compared, and raises AssertionError for one too large and for what left the device.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from examples import ROWS

import tinyvit as tv
from tinyvit import Tensor, capture, create_model, gradients
from tinyvit.analysis import attention_maps, curvature, gauss_newton, landscape, random_direction
from tinyvit.analysis.attention_as_convolution import AttentionConv
from tinyvit.autodiff.check import Case
from tinyvit.autodiff.op import REGISTRY
from tinyvit.autodiff.standin import DeviceArray
from tinyvit.autodiff.tensor import raw
from tinyvit.backend import is_array, to_device, to_numpy
from tinyvit.models.catalogue import PAPERS
from tinyvit.nn.describe import input_shape
from tinyvit.train import (
    SGD,
    Adam,
    AdamW,
    Average,
    RMSprop,
    accumulated,
    adaptive_sharpness_aware,
    clipped,
    constant,
    evaluate,
    gradient_of,
    layer_decay,
    predict,
    sharpness_aware,
    threaded,
    training,
)

# Those that are given images: the checks make their own. Models of tokens are built of the same layers and operators.
SMALL = sorted(name for paper in PAPERS for name in paper.SMALL if not hasattr(create_model(name), "example_inputs"))
NOISE = {"drop_rate": 0.1, "attn_drop_rate": 0.1, "drop_path_rate": 0.2}


@dataclass(frozen=True)
class Place:
    """A device: how an array gets there, and which type it then has."""

    name: str
    array: Callable

    def holds(self, x) -> bool:
        return isinstance(x, type(self.array(np.zeros(1))))

    def model(self, model):
        return model.to("cuda") if self.name == "cuda" else model._convert(self.array)


PLACES = {
    "stand-in": Place("stand-in", DeviceArray),
    "cuda": Place("cuda", lambda x: to_device(x, "cuda")),
}


class Compared:
    """Differences between what a device and the host computed; ``worst`` is the largest."""

    def __init__(self, place: Place, tolerance: float):
        self.place, self.tolerance, self.worst = place, tolerance, 0.0

    def arrays(self, found: dict, expected: dict, size=1.0, dtype=None) -> None:
        """Compare arrays by name, relative to the largest number of each, or to ``size`` if that is larger."""
        assert found.keys() == expected.keys(), f"{sorted(found.keys() ^ expected.keys())} only on one side"
        for what, x in found.items():
            assert self.place.holds(x), f"{what} left the device: it is a {type(x).__name__}"
            wanted = np.asarray(expected[what])
            assert x.shape == wanted.shape, f"{what} has shape {x.shape} on the device, {wanted.shape} on the host"
            assert x.dtype == (dtype or wanted.dtype), f"{what} is {x.dtype} on the device, {wanted.dtype} on the host"
            self.numbers(what, to_numpy(x), wanted, size)

    def numbers(self, what: str, x, wanted, size=1.0) -> None:
        x, wanted = np.asarray(x), np.asarray(wanted)
        with np.errstate(invalid="ignore"):
            apart = np.where((x == wanted) | (np.isnan(x) & np.isnan(wanted)), 0.0, abs(x - wanted * 1.0))
        finite = abs(wanted[np.isfinite(wanted)])
        error = float(np.max(apart, initial=0.0) / max(size, finite.max(initial=0)))
        assert error <= self.tolerance, f"{what} differs by {error:.1e}, more than {self.tolerance:.0e}"
        self.worst = max(self.worst, error)


# ops ----------------------------------------------------------------------------------------


def op_differs(place: Place, name: str, example, *, by: str = "kernel", dtype=np.float64) -> float:
    """One row of examples.py: value, gradients, and their gradients' product with a direction.

    by  "kernel", or "equation": without the kernel in front
    In float32 the host computes in float64 from the same numbers, and there is no second derivative.
    """
    op, rng = REGISTRY[name], np.random.default_rng(list(f"{name} {example}".encode()))
    inputs = [x.astype(dtype) if _real(x) else x for x in example.inputs(rng)]
    exact = [x.astype(np.float64) if _real(x) else x for x in inputs]
    host = Case(op, tuple(exact), example.options, 0.0, seed=0)
    away = replace(host, inputs=tuple(place.array(x) if is_array(x) else x for x in inputs))
    u, directions = host.cotangent.astype(dtype), [v.astype(dtype) for v in host.directions]
    twice = dtype == np.float64
    expected = _derivatives(host, op.function if by == "equation" else op, u.astype(np.float64), directions, twice)
    found = _derivatives(away, op.function if by == "equation" else op, place.array(u), map(place.array, directions),
                         twice)  # fmt: skip
    compared = Compared(place, 1e-10 if dtype == np.float64 else 1e-3)
    compared.arrays(found, expected, dtype=None if "dtype" in example.options else dtype)
    return compared.worst


def _derivatives(case: Case, op, u, directions, twice: bool) -> dict:
    """Value, gradients and Hessian product by name."""
    out, leaves = case.traced(case.arrays, op)
    found = {"value": out.data}
    if not leaves:
        return found
    names = [case.argument(i) for i in case.variables]
    found |= {f"gradient of {name}": g for name, g in zip(names, gradients(out, leaves, [u]), strict=True)}
    if twice:
        first = gradients(out, leaves, [u], differentiable=True)
        linked = [(g, v) for g, v in zip(first, directions, strict=True) if g.requires_grad]
        second = gradients([g for g, _ in linked], leaves, [v for _, v in linked]) if linked else []
        found |= {f"second derivative of {name}": h for name, h in zip(names, second, strict=False)}
    return found


def _real(x) -> bool:
    return is_array(x) and x.dtype.kind == "f"


# models -------------------------------------------------------------------------------------


def twins(place: Place, name: str, dtype=np.float64):
    """The same model on the host and on the device, with noise where its config has any, and a batch for both."""
    known = {field.name for field in fields(create_model(name).config)}
    rng = np.random.default_rng(0)
    settings = {key: rate for key, rate in NOISE.items() if key in known}
    host, away = (create_model(name, rng=np.random.default_rng(1), **settings).astype(dtype) for _ in range(2))
    for p, q in zip(host.parameters(), away.parameters(), strict=True):  # zeros and ones hide mistakes
        p.data = q.data = (p.data + rng.normal(0, 0.1, p.shape)).astype(dtype)
    images = rng.random(input_shape(host, 6)).astype(dtype)
    outputs = outputs_of(host, images)
    if len(outputs) == 1 and outputs[0].ndim == 2:
        targets = [rng.integers(outputs[0].shape[1], size=len(images))]
    else:
        targets = [rng.normal(size=y.shape).astype(dtype) for y in outputs]
    return host.eval(), place.model(away.eval()), (images, *targets)


def objective(model, batch):
    """Cross-entropy where the model classifies, the squared error of all outputs where it does not."""
    images, *targets = batch
    outputs = outputs_of(model, images)
    if targets[0].dtype.kind == "i":
        return tv.cross_entropy(outputs[0], targets[0])
    return sum(tv.mse(y, t) for y, t in zip(outputs, targets, strict=True))


def outputs_of(model, images) -> list:
    y = model(images)
    return list(y.values()) if isinstance(y, dict) else list(y) if isinstance(y, tuple | list) else [y]


def noise():
    return np.random.default_rng(5)


def forward_differs(place: Place, name: str) -> float:
    """Outputs in evaluation and, with noise from the same generator, in training; in float64 and in float32."""
    worst = []
    for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 1e-3)):
        host, away, (images, *_) = twins(place, name, dtype)
        compared = Compared(place, tolerance)
        for _ in range(2):
            found, expected = outputs_of(away, place.array(images)), outputs_of(host, images)
            compared.arrays(_numbered(found), _numbered(expected))
            host.train(noise()), away.train(noise())
        worst.append(compared.worst)
    return worst[0]


def gradient_differs(place: Place, name: str) -> float:
    """Loss and the gradient of every parameter in training mode; what the forward pass left in the buffers."""
    host, away, batch = twins(place, name)
    host.train(noise()), away.train(noise())
    (expected_loss, expected), (loss, found) = (gradient_of(objective)(model, batch) for model in (host, away))
    compared = Compared(place, 1e-10)
    compared.numbers("the loss", loss, expected_loss)
    compared.arrays(found, expected, size=max(np.max(np.abs(g), initial=0) for g in expected.values()))
    compared.arrays(away.state_dict(), host.state_dict())
    return compared.worst


def training_differs(place: Place, name: str) -> float:
    """Three updates of AdamW on batches that lie on the host.

    Some gradients are zero in truth (a bias before a BatchNorm) and rounding in fact; with eps this large AdamW does
    not divide rounding by itself.
    """
    host, away, batch = twins(place, name)
    compared = Compared(place, 1e-8)
    steps = (training(model, [batch] * 3, gradient_of(objective), AdamW(model, eps=1e-5), constant(1e-3), rng=noise())
             for model in (away, host))  # fmt: skip
    for found, expected in zip(*steps, strict=True):
        compared.numbers(f"the loss of step {found.number}", found.loss, expected.loss)
        compared.numbers(f"the gradient's norm of step {found.number}", found.gradient_norm, expected.gradient_norm)
    compared.arrays(away.state_dict(), host.state_dict())
    return compared.worst


def capture_differs(place: Place, name: str) -> float:
    """Everything that has a name, attention weights too: kernels that hide one run as their equations."""
    host, away, (images, *_) = twins(place, name)
    with capture(host, "*") as expected:
        host(images)
    with capture(away, "*") as found:
        away(place.array(images))
    compared = Compared(place, 1e-10)
    tensors = {key: value for key, value in expected.items() if isinstance(value, Tensor)}
    compared.arrays({key: raw(found[key]) for key in tensors}, {key: raw(x) for key, x in tensors.items()})
    if any(key.endswith("attn.weights") for key in found):
        maps = attention_maps(away, images)
        for key, expected_map in attention_maps(host, images).items():
            assert isinstance(maps[key], np.ndarray), "attention_maps gives arrays of the host"
            compared.numbers(key, maps[key], expected_map)
    return compared.worst


def state_differs(place: Place, name: str) -> float:
    """There and back, into a file and out of it: the same bits; a state goes where the model is."""
    host, away, (images, *_) = twins(place, name, np.float32)
    same = Compared(place, 0.0)
    same.arrays(away.state_dict(), host.state_dict())
    away.load_state_dict(host.state_dict())
    same.arrays(away.state_dict(), host.state_dict())
    _refuses(lambda: host.load_state_dict(away.state_dict()), "a state of the device for a model on the host")
    _refuses(lambda: away(images), "images of the host for a model on the device")
    with tempfile.TemporaryDirectory() as folder:
        files = [tv.save_weights(model, Path(folder) / f"{i}.safetensors") for i, model in enumerate((host, away))]
        assert files[0].read_bytes() == files[1].read_bytes(), "the device's weights make another file"
        tv.load_weights(away, files[0])
    same.arrays(away.state_dict(), host.state_dict())
    assert tv.describe(away) == tv.describe(host)
    for key, x in away.to("cpu").state_dict().items():
        assert isinstance(x, np.ndarray | np.generic), f"{key} stayed on the device"
        same.numbers(key, x, host.state_dict()[key])
    return same.worst


def helpers_differ(place: Place, name: str) -> float:
    """``predict``, ``threaded``, ``evaluate`` and the Hessian, for images of the host and workers that have no use."""
    host, away, (images, *targets) = twins(place, name)
    compared = Compared(place, 1e-10)
    whole = gradient_of(objective)
    (expected_loss, expected), (loss, found) = (
        threaded(whole, workers=3, chunk=2)(model, (images, *targets)) for model in (host, away)
    )
    compared.numbers("the loss", loss, expected_loss)
    compared.arrays(found, expected, size=max(np.max(np.abs(g), initial=0) for g in expected.values()))
    if targets[0].dtype.kind != "i":
        return compared.worst
    found = predict(away, images, chunk=2, workers=3)
    compared.arrays({"predictions": found}, {"predictions": predict(host, images, chunk=2, workers=3)})
    scores = [evaluate(model, (images, targets[0]), batch_size=4) for model in (away, host)]
    compared.numbers("the score", scores[0], scores[1])
    v = np.random.default_rng(6).normal(size=sum(p.size for p in host.parameters()))
    expected, found = (curvature(objective, model, (images, targets[0])).matvec(v) for model in (host, away))
    assert isinstance(found, np.ndarray), "the curvature's products are arrays of the host"
    compared.numbers("the Hessian's product", found, expected)
    if isinstance(raw(host(images)), np.ndarray):  # not a pair of outputs
        expected, found = (gauss_newton(objective, model, (images, targets[0])) @ v for model in (host, away))
        compared.numbers("the Gauss–Newton product", found, expected)
    along = random_direction(host, rng=np.random.default_rng(7))
    expected, found = (landscape(objective, model, (images, targets[0]), [along], [[0, 0.1]], dtype=np.float64)
                       for model in (host, away))  # fmt: skip
    compared.numbers("the landscape", found, expected)
    return compared.worst


def _numbered(outputs) -> dict:
    return {f"output {i}": raw(y) for i, y in enumerate(outputs)}


def _refuses(call, what: str) -> None:
    try:
        call()
    except TypeError:
        return
    raise AssertionError(f"moved without being asked: {what}")


MODEL_CHECKS = {
    "forward": forward_differs,
    "gradient": gradient_differs,
    "training": training_differs,
    "capture": capture_differs,
    "state": state_differs,
    "helpers": helpers_differ,
}


# everything else ----------------------------------------------------------------------------


def functions_differ(place: Place) -> float:
    """``grad``, ``value_and_grad``, ``vjp``, ``jvp``, ``hvp``, ``hessian`` of arrays on the device."""
    rng = np.random.default_rng(7)
    x, v = rng.normal(size=(2, 2, 3, 4))

    def f(x):
        return tv.softmax(x @ tv.swapaxes(x, axis1=-1, axis2=-2)).sum() + (tv.gelu(x) ** 2).sum()

    def everything(x, v):
        tangent = tv.jvp(lambda x: tv.tanh(x) * x, [x], [v])
        return {
            "grad": tv.grad(f)(x),
            "value": tv.value_and_grad(f)(x)[0],
            "third": tv.grad(lambda x: tv.grad(lambda x: tv.grad(f)(x).sum())(x).sum())(x),
            "vjp": tv.vjp(tv.gelu, x)[1](v)[0],
            "jvp": tangent[1],
            "hvp": tv.hvp(f, x, v),
            "hessian": tv.hessian(f, x),
        }

    compared = Compared(place, 1e-10)
    compared.arrays(everything(place.array(x), place.array(v)), everything(x, v))
    return compared.worst


OPTIMISERS = {
    "SGD": lambda model: SGD(model, momentum=0.9, nesterov=True, weight_decay=0.1),
    "RMSprop": lambda model: RMSprop(model, weight_decay=0.1),
    "Adam": lambda model: Adam(model, weight_decay=0.1, amsgrad=True),
    "AdamW": lambda model: AdamW(model, groups=layer_decay(model, 0.5)),
}


def recipes_differ(place: Place) -> float:
    """SAM of both kinds, of parts and clipped; every optimiser, from its saved state in between; averaged weights."""
    compared = Compared(place, 1e-8)
    for i, make in enumerate(OPTIMISERS.values()):
        host, away, batch = twins(place, "resnet_digits" if i % 2 else "vit_digits")
        wrap = adaptive_sharpness_aware if i // 2 else sharpness_aware
        gradient = clipped(accumulated(wrap(gradient_of(objective)), parts=2), norm=1.0)
        for model in (host, away):
            optimizer, average = make(model), Average(model, 0.5)
            for _ in training(model, [batch] * 2, gradient, optimizer, constant(1e-3), rng=noise()):
                average.update()
                state, optimizer = optimizer.state(), make(model)
                assert all(isinstance(x, np.ndarray | int) for x in state.values()), "a state is of the host"
                optimizer.restore(state)
            average.restore(average.state())
            optimizer.step(gradient(model, batch)[1], 1e-3)
            if model is host:
                expected = average.arrays, optimizer._arrays()
        for found, wanted in zip((average.arrays, optimizer._arrays(), away.state_dict()),
                                 (*expected, host.state_dict()), strict=True):  # fmt: skip
            compared.arrays(found, wanted)
    return compared.worst


def attention_conv_differs(place: Place) -> float:
    """Attention that is a convolution, with the derivative of its positions."""
    rng = np.random.default_rng(8)
    kernel, images = rng.normal(size=(3, 2, 3, 3)), rng.normal(size=(2, 5, 4, 2))
    host, away = (AttentionConv.from_kernel(kernel) for _ in range(2))
    place.model(away)
    y, z = host(images), away(place.array(images))
    u = rng.normal(size=y.shape)
    compared = Compared(place, 1e-10)
    compared.arrays({"output": z.data}, {"output": y.data})
    names = [name for name, _ in host.named_parameters()]
    expected = dict(zip(names, gradients(y, host.parameters(), [u]), strict=True))
    compared.arrays(dict(zip(names, gradients(z, away.parameters(), [place.array(u)]), strict=True)), expected)
    return compared.worst


def boxes_differ(place: Place) -> float:
    """Non-maximum suppression: the same boxes kept, as numbers on the device."""
    rng = np.random.default_rng(9)
    corner, size = rng.uniform(0, 5, (20, 2)), rng.uniform(1, 4, (20, 2))
    boxes, scores = np.concatenate([corner, corner + size], 1), rng.random(20)
    found = tv.nms(place.array(boxes), place.array(scores), threshold=0.3)
    compared = Compared(place, 0.0)
    compared.arrays({"kept": found}, {"kept": tv.nms(boxes, scores, threshold=0.3)})
    return compared.worst


def text_differs(place: Place) -> float:
    """A Tensor prints its numbers wherever they are."""
    x = np.arange(6.0).reshape(2, 3)
    assert repr(Tensor(place.array(x))) == repr(Tensor(x))
    assert Tensor(place.array(x[0, :1])).item() == 0.0
    return 0.0


OTHER_CHECKS = {
    "functions": functions_differ,
    "recipes": recipes_differ,
    "attention as convolution": attention_conv_differs,
    "boxes": boxes_differ,
    "text": text_differs,
}

# in which ways every row of examples.py is tried
WAYS = {
    "kernel": {"by": "kernel"},
    "equation": {"by": "equation"},
    "float32": {"dtype": np.float32},
}


def rows_of(name: str, way: str) -> list:
    """The rows of one op that a way applies to: where there is no kernel, "kernel" is the equation already."""
    if way == "equation" and REGISTRY[name].fast is None:
        return []
    return [row for op, row in ROWS if op == name and (way != "float32" or "dtype" not in row.options)]
