"""Exports of a checkpoint: the same model for other programs, or no file and one sentence."""

import json

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file
from tests.support.exported import (
    Counting,
    Demanding,
    FixedBatch,
    Net,
    Pairs,
    Restless,
    TakesDict,
    Tied,
    WithExample,
    WithVocabulary,
    committed,
    outputs,
    spec,
)

from cairn.errors import ConfigError, ModelError
from cairn.export import weights
from cairn.export.model import export
from cairn.lightning.load_model import load_model as load_cairn

DATA = spec(Pairs)
X = torch.linspace(-1, 1, 15).view(5, 3)


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_safetensors_hold_the_weights_under_their_names(tmp_path):
    path = committed(tmp_path / "run", spec(Net), DATA)
    made = export(str(path), tmp_path / "a.safetensors", "safetensors")
    assert made.verified == (
        "its weights, and its outputs for a batch of test_dataloader, are those of the checkpoint in every bit"
    )
    expected = torch.load(path, weights_only=True)["state_dict"]
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        facts = file.metadata()
    assert facts["format"] == "pt"
    assert (facts["cairn.run"], facts["cairn.step"], facts["cairn.commit"]) == ("0a1b2c3d", "0", "abc123+")
    assert "0123456789abcdef" not in json.dumps(facts)
    assert leftovers(tmp_path) == []


def test_views_of_one_tensor_are_written_apart():
    both = torch.arange(6.0)
    tensors, aliases = weights.separated({"a": both[:3], "b": both[3:], "c": both[:3], "d": both[:0], "e": both[:0]})
    assert (list(tensors), aliases) == (["a", "b", "d", "e"], {"c": "a"})
    assert tensors["b"].untyped_storage().nbytes() == 12
    assert torch.equal(tensors["b"], both[3:])


def test_tied_weights_are_written_once_and_stay_tied(tmp_path):
    path = committed(tmp_path / "run", spec(Tied))
    export(str(path), tmp_path / "a.safetensors", "safetensors")
    assert "last.weight" not in load_file(tmp_path / "a.safetensors")
    model = Tied()
    load_model(model, tmp_path / "a.safetensors")  # the function of safetensors itself
    assert torch.equal(model(X)["out"], outputs(path, X)["out"])
    export(str(path), tmp_path / "folder", "folder")
    again = load_cairn(tmp_path / "folder")
    assert again.last.weight is again.first.weight
    assert torch.equal(again(X)["more"][0], outputs(path, X)["more"][0])


@pytest.mark.parametrize(
    ("model", "data"),
    [(spec(Tied), None), (spec(TakesDict), spec(Pairs, kind="dict"))],
    ids=["nested outputs for the example of the model", "inputs by name from a batch of the data"],
)
def test_onnx_computes_what_the_model_computes_for_any_batch_size(tmp_path, model, data):
    reference = pytest.importorskip("onnx.reference")
    path = committed(tmp_path / "run", model, data)
    made = export(str(path), tmp_path / "a.onnx", "onnx")
    assert "batches of 1 to 3 samples" in made.verified
    assert b".py" not in (tmp_path / "a.onnx").read_bytes(), "no lines of code, and no paths of this machine"
    evaluator = reference.ReferenceEvaluator(str(tmp_path / "a.onnx"))
    (name,) = evaluator.input_names
    found = evaluator.run(None, {name: X.numpy()})
    expected = outputs(path, X)
    first = expected["out"] if isinstance(expected, dict) else expected
    np.testing.assert_allclose(found[0], first.numpy(), rtol=1e-5, atol=1e-6)


def test_a_batch_size_can_be_fixed_and_has_to_be_where_the_model_depends_on_it(tmp_path):
    path = committed(tmp_path / "run", spec(FixedBatch))
    with pytest.raises(
        ModelError, match=r"FixedBatch cannot be exported to ONNX for any batch size: .* --batch-size N\.$"
    ):
        export(str(path), tmp_path / "a.onnx", "onnx")
    assert not (tmp_path / "a.onnx").exists()
    made = export(str(path), tmp_path / "a.onnx", "onnx", num_rows=1)
    assert "a batch of 1" in made.verified


def test_onnx_without_a_batch_is_one_sentence(tmp_path):
    path = committed(tmp_path / "run", spec(Net), spec(Pairs, rows=0))
    with pytest.raises(ModelError, match=r"needs an example batch for Net: .*its loader is empty.*example_input_array"):
        export(str(path), tmp_path / "a.onnx", "onnx")


def test_a_folder_has_weights_configuration_and_card(tmp_path):
    folder = tmp_path / "my-model"
    path = committed(tmp_path / "run", spec(Net, width=3), spec(Pairs, password="hunter22"), score=0.25)
    made = export(str(path), folder, "folder")
    assert sorted(item.name for item in made.files) == ["README.md", "config.json", "model.safetensors"]
    assert sorted(item.name for item in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert (config["architectures"], config["model"]) == (["Net"], spec(Net, width=3))
    _, front, body = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["model_name"] == "my-model"
    for text in ("`epoch_000_batch_000001.ckpt`", "`val/loss` | 0.25", "cairn.load_model", "Pairs"):
        assert text in body
    assert "hunter22" not in body
    assert "password: null" in body
    assert torch.equal(outputs(folder, X), outputs(path, X))


def test_a_secret_argument_is_left_out_of_a_folder(tmp_path):
    path = committed(tmp_path / "run", spec(Net, token="hf_0123456789abcdefgh"), DATA)
    export(str(path), tmp_path / "folder", "folder")
    texts = "".join((tmp_path / "folder" / name).read_text() for name in ("config.json", "README.md"))
    assert "0123456789abcdefgh" not in texts
    assert "null in place of values that may be secrets: `token`" in texts


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Counting, r"_extra_state is a dict, and a file of safetensors holds tensors only"),
        (Restless, r"is not kept: forward returns something else each time"),
    ],
)
def test_what_cannot_be_written_or_verified_is_not_kept(tmp_path, kind, why):
    path = committed(tmp_path / "run", spec(kind))
    with pytest.raises(ModelError, match=why):
        export(str(path), tmp_path / "a.safetensors", "safetensors")
    with pytest.raises(ModelError):
        export(str(path), tmp_path / "folder", "folder")
    assert [item.name for item in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (spec(WithVocabulary), "AssertionError: no vocabulary"),
        (spec(Demanding, token="hf_0123456789abcdefgh"), "LookupError: a token is needed"),
    ],
)
def test_a_model_that_needs_more_than_weights_and_configuration_has_no_folder(tmp_path, model, why):
    path = committed(tmp_path / "run", model)
    with pytest.raises(ModelError, match=f"folder could not be verified, and is not kept: {why}"):
        export(str(path), tmp_path / "folder", "folder")
    assert not (tmp_path / "folder").exists()
    assert "in every bit" in export(str(path), tmp_path / "a.safetensors", "safetensors").verified


def test_a_model_that_cannot_be_built_is_one_sentence(tmp_path, monkeypatch):
    path = committed(tmp_path / "run", spec(Demanding, token="x"))
    monkeypatch.setattr(Demanding, "__init__", lambda self, token: 1 / 0)
    with pytest.raises(ModelError, match="cannot be built: ZeroDivisionError: division by zero"):
        export(str(path), tmp_path / "a.safetensors", "safetensors")


def test_a_file_that_differs_from_the_checkpoint_is_not_kept(tmp_path, monkeypatch):
    def damaged(path, state, metadata):
        save_file({name: value * 1.001 for name, value in state.items()}, path)

    path = committed(tmp_path / "run", spec(Net), DATA)
    monkeypatch.setattr(weights, "write", damaged)
    for to, kind in (("a.safetensors", "safetensors"), ("folder", "folder")):
        with pytest.raises(ModelError, match="is not kept: "):
            export(str(path), tmp_path / to, kind)
    assert [item.name for item in tmp_path.iterdir()] == ["run"]


def test_weights_without_a_batch_are_verified_and_the_message_says_what_was_not(tmp_path):
    path = committed(tmp_path / "run", spec(Net))
    made = export(str(path), tmp_path / "a.safetensors", "safetensors")
    assert "no outputs were compared: it has no example_input_array" in made.verified


def test_existing_files_are_replaced_only_if_asked(tmp_path):
    first, second = (committed(tmp_path / "run", spec(WithExample), number=number) for number in range(2))
    for to, kind, file in (("a.safetensors", "safetensors", ""), ("folder", "folder", "README.md")):
        export(str(first), tmp_path / to, kind)
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / "own.txt").write_text("mine")
        before = (tmp_path / to / file).read_bytes()
        with pytest.raises(ConfigError, match="exists already: name another one, or replace it with --overwrite"):
            export(str(second), tmp_path / to, kind)
        assert (tmp_path / to / file).read_bytes() == before
        export(str(second), tmp_path / to, kind, overwrite=True)
        assert (tmp_path / to / file).read_bytes() != before
    assert (tmp_path / "folder" / "own.txt").read_text() == "mine"
    assert torch.equal(outputs(tmp_path / "folder", X), outputs(second, X))


def test_a_missing_package_is_one_sentence(tmp_path, monkeypatch):
    path = committed(tmp_path / "run", spec(WithExample))
    monkeypatch.setattr("cairn.writing.exported.find_spec", lambda name: None)
    for kind, package in (("safetensors", "safetensors"), ("folder", "safetensors"), ("onnx", "onnx")):
        with pytest.raises(ConfigError, match=rf"needs {package}, which is not installed: pip install"):
            export(str(path), tmp_path / "new", kind)


def test_data_that_a_run_directory_may_not_name_are_not_built(tmp_path):
    data = spec(Pairs) | {"extra": {"_target_": "sklearn.linear_model.LogisticRegression"}}
    made = export(str(committed(tmp_path / "run", spec(Net), data)), tmp_path / "a.safetensors", "safetensors")
    assert "no outputs were compared: " in made.verified
    assert "sklearn.linear_model.LogisticRegression is refused: sklearn is not on the list" in made.verified
