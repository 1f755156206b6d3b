"""The resolved configuration of a run is read as plain values, with the same meaning as when it was written."""

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from cairn.run import config_file

VALUES = {
    "checkpoint": {"save_interval": 50, "monitor": None, "triggers": {}},
    "floats": [1e-3, 1e-05, 1e20, 0.1, -2.5e-300, float("inf"), 3.0],
    "numbers": [0, -1, 10**12, True, False],
    "texts": ["", "1e-3", "0x10", "null", "true", "2026-01-01", "12:30:00", "a: b", "[x]", "ä", "1_000", "~"],
    "7": {"lists": [[], [{}], ["a"]]},
}


def test_values_come_back_as_omegaconf_wrote_them(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(VALUES, flags={"readonly": True})))
    assert config_file.read(path) == VALUES == OmegaConf.to_container(OmegaConf.load(path))


def test_a_path_is_read_as_text(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create({"checkpoint": {"dirpath": Path("/a/b")}})))
    assert config_file.read(path) == {"checkpoint": {"dirpath": "/a/b"}}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1E5", 1e5), ("-1.5e+3", -1500.0), ("2026-01-01", "2026-01-01"), ("1e", "1e"), ("0.1", 0.1)],
)
def test_a_value_that_was_edited_by_hand_is_read_as_hydra_reads_it(tmp_path, text, value):
    path = tmp_path / "config.yaml"
    path.write_text(f"checkpoint: {{x: {text}}}\n")
    assert config_file.read(path)["checkpoint"]["x"] == value == OmegaConf.load(path).checkpoint.x


@pytest.mark.parametrize("text", ["", "null", "[]", "a: 1", "checkpoint: null", "checkpoint: [1]", "7"])
def test_a_file_without_checkpoint_settings_is_refused(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match="not the configuration of a run"):
        config_file.read(tmp_path / "config.yaml")


PARTS = ["trainer", "checkpoint", "paths", "missing", "tags", "text"]
WHOLE = """\
paths:
  output_dir: /a/b
tags:
- dev
- 'checkpoint: x'
text: "two lines

  checkpoint: of text"
seed: 1e-3
trainer:
  max_epochs: 3
  options: [1, {a: null}]
checkpoint:
  dirpath: /a/b/checkpoints
"""


def test_parts_of_a_configuration_are_those_of_the_whole(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(WHOLE)
    whole = config_file.read(path)
    found = config_file.read_parts(path, PARTS)
    assert found == {key: whole[key] for key in PARTS if key in whole}
    assert found["text"] == "two lines\ncheckpoint: of text"
    assert config_file._split(WHOLE) is not None, "without parsing the rest"


@pytest.mark.parametrize(
    "change",
    [
        ("paths:", "paths: &anchor"),
        ("paths:", "---\npaths:"),
        ("paths:", "# a comment\npaths:"),
        ("paths:", "'paths':"),
        ("/a/b\n", "/a/b\r\n"),
        ("/a/b\n", '"/a/b\u2028checkpoint: 1"\n'),
        ("seed: 1e-3\n", 'seed: "a\nb: c"\n'),
        ("seed: 1e-3\n", "seed: 'a\nb: c'\n"),
        ("seed: 1e-3\n", "seed: {\nb: c\n}\n"),
        ("seed: 1e-3\n", "seed: [\nb: c]\n"),
        ("seed: 1e-3\n", "? seed\n: 1e-3\n"),
    ],
    ids=repr,
)
def test_a_configuration_that_was_written_by_hand_has_the_same_parts(tmp_path, change):
    path = tmp_path / "config.yaml"
    path.write_text(WHOLE.replace(*change, 1), newline="")
    whole = config_file.read(path)
    assert config_file.read_parts(path, PARTS) == {key: whole[key] for key in PARTS if key in whole}


@pytest.mark.parametrize(
    "own", ["/logs/train/runs/a", "/l", "/logs/m/lr=1,x=[2]", "/lo gs/a", "relative", "/with: this"]
)
def test_parts_hold_the_own_directory_of_their_run_although_they_are_shared(tmp_path, own):
    for name in (own, f"{own}b"):
        values = {
            "paths": {"output_dir": name, "log_dir": "/l"},
            "checkpoint": {"dirpath": f"{name}/checkpoints", "monitor": None},
            "more": {"list": [name, {"x": f"a{name}"}], name: f"it's in {name}, twice: {name}", "other": "/logs/x"},
        }
        path = tmp_path / "config.yaml"
        path.write_text(OmegaConf.to_yaml(OmegaConf.create(values)))
        assert config_file.read_parts(path, list(values)) == config_file.read(path) == values


@pytest.mark.parametrize("text", ["a: 1\n", "checkpoint: null\n", "checkpoint: [1]\n", "", "7", "[]"])
def test_parts_of_a_file_without_checkpoint_settings_are_refused(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match="not the configuration of a run"):
        config_file.read_parts(tmp_path / "config.yaml", ["trainer"])


@pytest.mark.parametrize("text", [OmegaConf.to_yaml(OmegaConf.create(VALUES)), WHOLE, "checkpoint: {x: 2026-01-01}"])
def test_the_parser_in_c_reads_what_the_one_in_python_reads(text):
    class InPython(yaml.SafeLoader):
        pass

    for name in ("yaml_implicit_resolvers", "yaml_constructors"):
        setattr(InPython, name, getattr(config_file._Loader, name))
    assert yaml.load(text, Loader=config_file._Loader) == yaml.load(text, Loader=InPython)


@pytest.mark.parametrize("nested", ["[" * 100_000, "{a: " * 100_000, "- " * 100_000, "? " * 100_000])
def test_a_deeply_nested_file_does_not_overflow_the_stack_of_the_parser_in_c(tmp_path, nested):
    (tmp_path / "config.yaml").write_text(f"checkpoint:\n  {nested}")
    with pytest.raises(ValueError, match="nest"):
        config_file.read(tmp_path / "config.yaml")


def test_python_objects_are_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("checkpoint: {x: !!python/object/apply:os.system ['true']}\n")
    with pytest.raises(Exception, match="could not determine a constructor"):
        config_file.read(path)
