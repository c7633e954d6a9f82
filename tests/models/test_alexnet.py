"""AlexNet: the network in loops, torchvision's names, pooling that overlaps, any size of image, settings."""

import numpy as np
import pytest
from by_hand import shaken

from tinyvit import create_model
from tinyvit.models.alexnet import AlexNet, AlexNetConfig, Convolution

LAYERS = (Convolution(4, 5, stride=2, padding=1, pooled=True), Convolution(6, pooled=True))
TINY = AlexNetConfig(img_size=33, in_chans=2, num_classes=3, layers=LAYERS, pool_size=2, hidden=(7, 5))


def correlated(conv, x):
    """One image through a convolution, one place of the output at a time."""
    k, s, p = conv.weight.shape[-1], conv.options["stride"], conv.options["padding"]
    x = np.pad(x, ((p, p), (p, p), (0, 0)))
    rows, columns = ((n - k) // s + 1 for n in x.shape[:2])
    y = np.empty((rows, columns, len(conv.weight)))
    for i, j in np.ndindex(rows, columns):
        window = x[i * s : i * s + k, j * s : j * s + k]
        y[i, j] = np.einsum("abc,ocab->o", window, conv.weight.data) + conv.bias.data
    return y


def largest(x, k=3, s=2):
    """The largest number of every window."""
    rows, columns = ((n - k) // s + 1 for n in x.shape[:2])
    return np.array(
        [[x[i * s : i * s + k, j * s : j * s + k].max((0, 1)) for j in range(columns)] for i in range(rows)]
    )


@pytest.mark.parametrize("size", [(33, 25), (26, 41)])
def test_the_network_is_its_layers(size, rng):
    model, images = shaken(AlexNet(TINY, rng=rng), rng), rng.normal(size=(2, *size, 2))
    for image, logits in zip(images, model(images).data, strict=True):
        x = image
        for conv in (getattr(model.features, "0"), getattr(model.features, "3")):
            x = largest(np.maximum(correlated(conv, x), 0))
        H, W, C = x.shape
        half = [[(0, -(-n // 2)), (n // 2, n)] for n in (H, W)]  # parts overlap where a length is odd
        y = np.array([x[a:b, c:d, channel].mean() for channel in range(C) for a, b in half[0] for c, d in half[1]])
        layers = [getattr(model.classifier, name) for name in ("1", "4", "6")]
        for layer in layers:
            y = layer.weight.data @ (y if layer is layers[0] else np.maximum(y, 0)) + layer.bias.data
        np.testing.assert_allclose(logits, y, rtol=1e-11, atol=1e-13)


def test_names_and_shapes_are_those_of_torchvision():
    shapes = {name: p.shape for name, p in create_model("alexnet").named_parameters() if name.endswith("weight")}
    assert shapes == {
        "features.0.weight": (64, 3, 11, 11),
        "features.3.weight": (192, 64, 5, 5),
        "features.6.weight": (384, 192, 3, 3),
        "features.8.weight": (256, 384, 3, 3),
        "features.10.weight": (256, 256, 3, 3),
        "classifier.1.weight": (4096, 9216),
        "classifier.4.weight": (4096, 4096),
        "classifier.6.weight": (1000, 4096),
    }


def test_the_stages_are_the_maps_that_pooling_leaves(rng):
    model, images = shaken(AlexNet(TINY, rng=rng), rng), rng.normal(size=(1, 33, 25, 2))
    maps = model.stages(images)
    assert [m.shape for m in maps] == [(1, 7, 5, 4), (1, 3, 2, 6)]
    assert np.array_equal(maps[-1].data, model.features(images).data)


def test_dropout_stands_before_the_hidden_layers(rng):
    model, images = create_model("alexnet_digits", rng=rng), rng.random((4, 8, 8, 1), dtype=np.float32)
    quiet = model(images).data
    model.train(rng)
    assert not np.allclose(model(images).data, quiet)
    for name in ("0", "3"):
        getattr(model.classifier, name).p = 0.0
    assert np.array_equal(model(images).data, quiet)


def test_without_classes_it_gives_the_last_hidden_layer(rng):
    model = create_model("alexnet_digits", num_classes=0, hidden=(9, 5), rng=rng)
    assert model(rng.random((2, 8, 8, 1))).shape == (2, 5)


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="layers: expected the last to be pooled"):
        create_model("alexnet_digits", layers=(Convolution(4),))
    with pytest.raises(ValueError, match="dropout: expected a probability"):
        create_model("alexnet_digits", dropout=1.0)
