"""Arrays that nobody thought of: no axes, no elements, borrowed memory, strides of every kind."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

shapes = array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
full_shapes = array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4)
sizes = st.integers(1, 4)


def kinked(rng, shape):
    """Numbers all different and none near zero: away from the kinks of max, relu, |x|."""
    n = int(np.prod(shape))
    return (rng.permutation(np.arange(1, n + 1) * 0.02) * rng.choice([-1.0, 1.0], n)).reshape(shape)


def normal(rng, shape):
    return rng.normal(size=shape)


def positive(rng, shape):
    return rng.uniform(0.5, 2.0, shape)


def plain(make, shape):
    return make(shape)


def transposed(make, shape):
    """In Fortran's order."""
    return make(shape[::-1]).T


def backwards(make, shape):
    """Every stride negative."""
    return make(shape)[(slice(None, None, -1),) * len(shape)]


def strided(make, shape):
    """Every other element of something larger."""
    return make(tuple(2 * n for n in shape))[(slice(None, None, 2),) * len(shape)]


def inner(make, shape):
    """The middle of something larger, its axes swapped in memory."""
    view = make(tuple(n + 2 for n in shape[::-1])).T
    return view[(slice(1, -1),) * len(shape)]


@st.composite
def arrays(draw, shape=shapes, values=normal):
    """An array of the shape (or of one drawn from ``shape``), of any memory layout."""
    shape = draw(shape) if isinstance(shape, st.SearchStrategy) else shape
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    layout = draw(st.sampled_from([plain, transposed, backwards, strided, inner]))
    array = np.asarray(layout(lambda s: values(rng, s), tuple(shape)))
    assert array.shape == tuple(shape)
    return array
