"""The replay tool: every reference file we have, and that it notices what is wrong with others."""

import io
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from reference import DATA
from replay import NotBuilt, main, replay

from tinyvit.autodiff.watch import Listener, listening

FILES = sorted([*DATA.glob("shared-*.npz"), *DATA.glob("replay-*.npz")])
OTHER_LAYOUTS = {"shared-op-optim", "shared-op-schedule"}  # trajectories and tables, read by tests/train

replayed = cache(replay)  # two tests look at the same result


@pytest.mark.parametrize("path", [p for p in FILES if p.stem not in OTHER_LAYOUTS], ids=lambda p: p.stem)
def test_every_number_of_a_reference_file(path):
    result = replayed(path)
    assert result.not_built == []
    limit = 1e-10 if "-op-" in path.stem else 1e-9
    assert result.errors[result.worst] < limit, f"{result.worst}: {result.errors[result.worst]:.1e}"


class Open(Listener):
    """Opens every equation: no kernel runs."""

    def opens(self, op):
        return True


@pytest.mark.parametrize("path", sorted(DATA.glob("shared-op-*.npz")), ids=lambda p: p.stem)
def test_the_equations_alone_give_the_same_numbers(path):
    if path.stem in OTHER_LAYOUTS:
        return
    with listening(Open()):
        result = replay(path)
    assert result.errors[result.worst] < 1e-10, f"{result.worst}: {result.errors[result.worst]:.1e}"


COMPARED = {  # what a file holds to compare; all else is what it is computed from
    "model": r"(output|mid|grad|after)/.*",
    "op": r".*/(out\d+|grad/.*|after_.*|table)",
    "shared-op-posembed": r".*_\d+x\d+|swin_table_resized_\d+",
    "shared-vp-mpp-loss": r"(output|mid|grad)/.*",
    "shared-op-roi": r".*/(out|grad_x|encoded|decoded)|nms_[\d.]+",
}


@pytest.mark.parametrize("path", [p for p in FILES if p.stem not in OTHER_LAYOUTS], ids=lambda p: p.stem)
def test_every_key_of_a_file_is_compared_or_used(path):
    pattern = COMPARED.get(path.stem) or COMPARED["op" if "-op-" in path.stem else "model"]
    with np.load(path) as z:
        keys = {k for k in z.files if re.fullmatch(pattern, k)}
    assert keys == replayed(path).errors.keys() - {"parameters", "loss"}


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


def with_settings(path, tmp_path, beside=None, **kwargs):
    """A copy of a file whose model has other settings."""
    with np.load(path) as z:
        meta = json.loads(str(z["meta"]))
    meta["config"]["kwargs"] |= kwargs
    meta["config"] |= beside or {}
    return changed(path, tmp_path, meta=np.array(json.dumps(meta)))


def test_noise_is_off_in_evaluation(tmp_path):
    source = DATA / "shared-deit-distilled.npz"
    assert replay(with_settings(source, tmp_path, pos_drop_rate=0.5, drop_path_rate=0.1)).passed
    with pytest.raises(NotBuilt, match="with pos_drop_rate"):
        replay(with_settings(DATA / "shared-resnet-train.npz", tmp_path, pos_drop_rate=0.5))


def test_a_setting_of_which_we_have_one_value(tmp_path):
    source = DATA / "shared-deepvit-official.npz"
    assert replay(with_settings(source, tmp_path, re_atten=True)).passed
    with pytest.raises(NotBuilt, match="re_atten False where ours is True"):
        replay(with_settings(source, tmp_path, re_atten=False))
    with pytest.raises(NotBuilt, match="ln_eps 1e-05 where ours is 1e-06"):
        replay(with_settings(source, tmp_path, beside={"ln_eps": 1e-5}))


@pytest.mark.parametrize("row", ["ir_r1_k3_s1_e1_c8_se0.25", "ir_r1_k3_s1_e4_c8_se0.25_noskip", "er_r1_k3_s1_e4_c8"])
def test_a_stage_that_we_have_no_words_for(row, tmp_path):
    source = DATA / "shared-efficientnet.npz"
    with pytest.raises(NotBuilt, match=row):
        replay(with_settings(source, tmp_path, arch=[[row]]))


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
