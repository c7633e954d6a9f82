"""One published member of every family, the smallest, run at its full size: time and memory, as a table."""

import json
import subprocess
import sys

import pytest

from tinyvit import create_model
from tinyvit.models.catalogue import PAPERS

RUN = """
import json, resource, sys, time
import numpy as np
from tinyvit import create_model, no_grad
from tinyvit.nn.describe import example_inputs

rng = np.random.default_rng(0)
model = create_model(sys.argv[1], rng=rng)
drawn = lambda x: (rng.normal(size=x.shape) if x.dtype.kind == "f" else rng.integers(0, 2, x.shape)).astype(x.dtype)
inputs = [drawn(x) for x in example_inputs(model)]
start = time.perf_counter()
with no_grad():
    value = model(*inputs)
seconds = time.perf_counter() - start
value = next(iter(value.values())) if isinstance(value, dict) else value
value = value[0] if isinstance(value, tuple | list) else value
print(json.dumps({"seconds": seconds, "finite": bool(np.isfinite(value.data).all()),
                  "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))
"""


@pytest.fixture(scope="module")
def table():
    """Rows are printed together, after all tests of this file (shown with -s)."""
    rows = []
    yield rows
    print(f"\n{'model':42} {'parameters':>13} {'seconds':>8} {'peak GiB':>9}", *rows, sep="\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    "paper", [paper for paper in PAPERS if paper.PUBLISHED], ids=lambda p: p.__name__.rpartition(".")[2]
)
def test_a_member_of_every_family_runs_in_16_gib(paper, table):
    """ru_maxrss counts in KiB on Linux."""
    sizes = {name: create_model(name).num_parameters() for name in paper.PUBLISHED}
    name = min(sizes, key=sizes.get)
    done = subprocess.run([sys.executable, "-c", RUN, name], text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{name}: {done.stderr}"
    result = json.loads(done.stdout)
    table.append(f"{name:42} {sizes[name]:13,} {result['seconds']:8.2f} {result['gib']:9.2f}")
    assert result["finite"], f"{name}: not all of its output is finite"
    assert result["gib"] < 16, f"{name} took {result['gib']:.1f} GiB"
