"""Weights by their name on the hub, which is played by a module of our own: no test needs a network."""

import sys
from types import ModuleType

import numpy as np
import pytest

from tinyvit import cli, create_model, load_weights, save_weights
from tinyvit.nn.hub import on_this_machine

NAME = "hf-hub:somebody/vit.digits-1_a"


@pytest.fixture
def hub(monkeypatch):
    """A huggingface_hub whose download does what the test says, and remembers what it was asked for."""

    def download(**asked):
        module.asked.append(asked)
        return module.answer()

    module = ModuleType("huggingface_hub")
    module.asked, module.hf_hub_download = [], download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


@pytest.mark.parametrize("revision", ["", "@main", "@v1.0", "@refs/pr/1", "@" + "0a" * 20])
def test_a_name_loads_the_file_of_that_revision(revision, hub, rng, tmp_path):
    source = create_model("vit_digits", rng=rng)
    path = save_weights(source, tmp_path / "model.safetensors")
    hub.answer = lambda: str(path)
    for model in (create_model("vit_digits", weights=NAME + revision),
                  load_weights(create_model("vit_digits"), NAME + revision)):  # fmt: skip
        assert np.array_equal(model.head.weight.data, source.head.weight.data)
    asked = {"repo_id": "somebody/vit.digits-1_a", "filename": "model.safetensors", "revision": revision[1:] or None}
    assert hub.asked == [asked, asked]


def test_a_name_can_be_inspected(hub, rng, tmp_path, capsys):
    path = save_weights(create_model("vit_digits", rng=rng), tmp_path / "model.safetensors")
    hub.answer = lambda: str(path)
    assert cli.main(["weights", "inspect", NAME]) == 0
    assert "fits create_model('vit_digits')" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["hf-hub:", "hf-hub:vit", "hf-hub:a/b/c", "hf-hub:a/b@", "hf-hub:a/b c",
                                  "hf-hub:a/b@c@d", "hf-hub:../../a/b", "hf-hub:a/b\n"])  # fmt: skip
def test_a_name_of_another_form_is_refused_unasked(name, hub):
    with pytest.raises(ValueError, match="expected hf-hub:owner/name or hf-hub:owner/name@revision"):
        create_model("vit_digits", weights=name)
    assert hub.asked == []


def test_without_the_library_it_is_said_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(OSError, match=r"this needs huggingface_hub .*pip install 'tinyvit\[hub\]'"):
        create_model("vit_digits", weights=NAME)
    assert cli.main(["weights", "inspect", NAME]) == 1
    assert "pip install 'tinyvit[hub]'" in capsys.readouterr().err


class NotFound(Exception):
    """Like the library's own errors: no OSError, and many lines."""


@pytest.mark.parametrize("error", [NotFound("404 Client Error.\nRepository Not Found"), OSError("offline"),
                                   ValueError("bad"), ConnectionError("no route")], ids=repr)  # fmt: skip
def test_whatever_fails_there_is_one_error_that_says_what_to_do(error, hub, capsys):
    def fail():
        raise error

    hub.answer = fail
    with pytest.raises(OSError, match=r"model\.safetensors cannot be fetched") as caught:
        create_model("vit_digits", weights=NAME)
    assert NAME in str(caught.value)
    assert f"{type(error).__name__}: {str(error).splitlines()[0]}" in str(caught.value)
    assert "pass its path" in str(caught.value)
    assert caught.value.__cause__ is error
    assert cli.main(["weights", "inspect", NAME]) == 1


def test_ctrl_c_while_fetching_is_not_an_error_of_the_hub(hub):
    def interrupted():
        raise KeyboardInterrupt

    hub.answer = interrupted
    with pytest.raises(KeyboardInterrupt):
        create_model("vit_digits", weights=NAME)


def test_a_path_stays_what_it_is(tmp_path):
    assert on_this_machine(tmp_path / "hf-hub:a") == tmp_path / "hf-hub:a"
    assert on_this_machine("somebody/model.safetensors").parts == ("somebody", "model.safetensors")
