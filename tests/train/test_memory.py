"""A long run needs no more memory than a short one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """if True:
    import json, resource
    from pathlib import Path

    import numpy as np
    import tinyvit
    from tinyvit.train import AdamW, classification, constant, gradient_of, threaded, training

    rng = np.random.default_rng(0)
    model = tinyvit.create_model("vit_micro", rng=rng, drop_path_rate=0.1)
    batch = rng.normal(size=(32, 32, 32, 3)).astype(np.float32), rng.integers(10, size=32)
    gradient = threaded(gradient_of(classification()), workers=2, chunk=8)
    resident = {}
    for step in training(model, [batch] * 200, gradient, AdamW(model), constant(1e-4), rng=rng):
        if step.number + 1 in (20, 200):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            resident[step.number + 1] = pages * resource.getpagesize() / 1e6
    print(json.dumps(resident))
"""


@pytest.mark.slow
def test_memory_is_flat_over_200_steps():
    """The resident set, in a process of its own: within 2 % of what it was after 20 steps."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("this system does not tell how much memory is resident")
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", RUN], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    early, late = (json.loads(done.stdout)[step] for step in ("20", "200"))
    assert abs(late - early) <= 0.02 * early, f"{early:.1f} MB after 20 steps, {late:.1f} MB after 200"
