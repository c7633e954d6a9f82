"""The replay tool: every reference file we have, and that it notices what is wrong with others."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from reference import DATA
from replay import main, replay

FILES = sorted(DATA.glob("shared-*.npz"))
OTHER_LAYOUTS = {"shared-op-optim", "shared-op-schedule"}  # trajectories and tables, read by tests/train

# What the operator files have and tinyvit has not, yet. A case that is built leaves this list.
NOT_BUILT = {
    "shared-op-act": {"softplus", "elu", "hardswish", "log_sigmoid", "leaky_relu_0.2", "relu6"},
    "shared-op-attention": {"mha_cross", "mha_cross_keypad"},
    "shared-op-conv": {"conv1d", "conv3d_2x4x4", "conv_transpose_k2s2", "conv_transpose_k4s2p1"},
    "shared-op-loss": {
        "cross_entropy_ignore", "cross_entropy_weighted", "nll", "deit_soft_distill_tau1", "deit_repo_soft_tau1",
        "deit_soft_distill_tau3", "deit_repo_soft_tau3", "deit_hard_distill", "bce_with_logits", "l1",
        "smooth_l1_beta0.5", "huber_1", "sigmoid_focal_a.25_g2", "giou_pairs", "iou_pairs",
    },
    "shared-op-norm": {"group_norm", "weight_standardised_conv3x3"},
    "shared-op-pool_resize": {
        "max_k2s2_ceil", "avg_k3s2p1_excl", "avg_k2s2_ceil", "avg_k2s2_ceil_excl", "adaptive_avg_1x1",
        "adaptive_max_1x1", "adaptive_avg_2x3", "adaptive_max_2x3", "adaptive_avg_6x5", "adaptive_max_6x5",
        "adaptive_avg_3x3", "adaptive_max_3x3", "bicubic_scale_factor_1.5", "bicubic_scale_plus_0.1",
        "pixel_shuffle2", "grid_sample",
    },
}  # fmt: skip


@pytest.mark.parametrize("path", [p for p in FILES if p.stem not in OTHER_LAYOUTS], ids=lambda p: p.stem)
def test_every_number_of_a_reference_file(path):
    result = replay(path)
    assert set(result.not_built) == NOT_BUILT.get(path.stem, set())
    limit = 1e-10 if "-op-" in path.stem else 1e-9
    assert result.errors[result.worst] < limit, f"{result.worst}: {result.errors[result.worst]:.1e}"


def test_every_key_of_a_file_is_compared_or_used():
    for path in FILES:
        if "-op-" in path.stem:
            continue
        result = replay(path)
        with np.load(path) as z:
            keys = {k for k in z.files if k.startswith(("output/", "mid/", "grad/", "after/"))}
        assert keys == {k for k in result.errors if "/" in k}


def changed(path, tmp_path, **arrays):
    """A copy of a file with some of its arrays replaced."""
    with np.load(path) as z:
        content = {k: z[k] for k in z.files} | {k.replace("__", "/"): v for k, v in arrays.items()}
    np.savez(tmp_path / "changed.npz", **content)
    return str(tmp_path / "changed.npz")


@pytest.mark.parametrize("key", ["output/logits", "mid/blocks.0.attn.attn_drop", "grad/pos_embed", "grad/input"])
def test_one_wrong_number_is_found(key, tmp_path, capsys):
    source = DATA / "shared-vit-cls.npz"
    with np.load(source) as z:
        array = z[key].copy()
    array.flat[3] += 1e-6
    assert main([changed(source, tmp_path, **{key: array})]) == 1
    assert f"OVER  {key}" in capsys.readouterr().out


def test_a_setting_that_is_not_built_is_named(tmp_path, capsys):
    source = DATA / "shared-vit-cls.npz"
    with np.load(source) as z:
        meta = json.loads(str(z["meta"]))
    meta["config"]["kwargs"]["init_values"] = 1e-5
    assert main([changed(source, tmp_path, meta=np.array(json.dumps(meta)))]) == 1
    assert (
        "not built yet: VisionTransformer of timm 1.0.31 VisionTransformer with init_values" in capsys.readouterr().out
    )


def test_files_that_are_none_end_in_a_line(tmp_path, capsys):
    (tmp_path / "text.npz").write_text("hello")
    with io.BytesIO() as buffer:
        np.savez(buffer, x=np.zeros(2))
        (tmp_path / "other.npz").write_bytes(buffer.getvalue())
    assert main([str(tmp_path / "text.npz"), str(tmp_path / "other.npz"), str(tmp_path / "none.npz")]) == 1
    assert capsys.readouterr().out.count("cannot be replayed") == 3


def test_it_runs_as_a_module():
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "tests.replay", "--quiet", str(DATA / "shared-vit-gap.npz")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok, 11 arrays" in done.stdout
