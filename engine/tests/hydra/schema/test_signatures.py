"""Arguments are read from the source of a class, and are those that Python sees."""

import inspect
import sys

import pytest
from tests.support import source_package

from cairn.hydra.schema import definitions, docstrings, json_types, signatures
from cairn.targets import resolve


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    source_package.write(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield
    for cached in (definitions._file, definitions._tree, signatures.of):
        cached.cache_clear()


def schema(target, name):
    parameter = signatures.of(target).parameters[name]
    return json_types.schema(parameter.annotation, parameter.module)


@pytest.mark.parametrize(
    ("target", "names", "required", "is_open"),
    [
        ("shown_source.Net", ["rate", "width", "mode", "sizes", "act"], ["width"], False),
        ("shown_source.parts.alias", ["rate", "hidden"], [], False),
        ("shown_source.Other", ["rate", "hidden"], [], False),
        ("shown_source.parts.Open", ["one"], [], True),
        ("shown_source.parts.Unknown", [], [], True),
        ("shown_source.parts.Settings", ["name", "size", "flag", "items", "precise"], ["name"], False),
        ("shown_source.parts.Settings.Inner", ["deep"], [], False),
        ("shown_source.parts.Attrs", [], [], True),
        ("shown_source.parts.Assigned", [], [], True),
        ("shown_source.parts.Conditional", [], [], True),
        ("shown_source.parts.build", ["path", "count"], ["path"], False),
        ("shown_source.Starred", ["b"], ["b"], False),
    ],
)
def test_the_arguments_of_a_target(target, names, required, is_open):
    found = signatures.of(target)
    assert (list(found.parameters), found.required, found.is_open) == (names, required, is_open)
    assert "shown_source" not in sys.modules


@pytest.mark.parametrize(
    "target", ["shown_source.None", "shown_source", "no_such_package.X", "shown_source.parts.Mode"]
)
def test_what_is_not_a_class_is_not_found(target):
    assert signatures.of(target) is None


@pytest.mark.parametrize(
    ("target", "name", "expected"),
    [
        ("Net", "width", {"type": "integer"}),
        ("Net", "mode", {"enum": ["a", "b"]}),
        ("Net", "sizes", {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}]}),
        ("Net", "act", {}),
        ("Settings", "size", {"anyOf": [{"type": "integer"}, {"enum": ["a", "b"]}]}),
        ("Settings", "flag", {"anyOf": [{"type": "boolean"}, {"type": "null"}]}),
        ("Settings", "items", {"type": "array", "items": {"type": "string"}}),
        ("Holder", "net", {"anyOf": [{"type": "string"}, {"$ref": "#/definitions/node"}]}),
        ("Holder", "kind", {}),
        ("Settings", "precise", {"enum": [16, "32"]}),
    ],
)
def test_the_type_of_an_argument(target, name, expected):
    assert schema(f"shown_source.parts.{target}", name) == expected


def test_descriptions_come_from_the_docstrings():
    found = signatures.of("shown_source.Net")
    assert found.about == "A net. It has more to it, in a second line."
    about = {name: item.about for name, item in found.parameters.items()}
    assert about == {
        **{"width": "Width of a layer, in numbers: any.", "mode": "How.", "rate": "The rate.", "act": ""},
        "sizes": "Some sizes (default: none)",
    }
    assert signatures.of("shown_source.parts.build").parameters["count"].about == "How many."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("X.\n\nArgs:\n    lr (float, Tensor, optional): rate (default: 1e-3)\n    *rest: more", {"lr": 1, "rest": 1}),
        ("X.\n\nArgs:\n\n    a: one\n\n    b: two\n\nExample:\n    c: three", {"a": 1, "b": 1}),
        ("Args:\n    a: one.\nText: is not an argument.", {"a": 1}),
        (None, {}),
    ],
)
def test_the_arguments_of_a_docstring(text, expected):
    assert docstrings.arguments(text).keys() == expected.keys()


TARGETS = [
    *("lightning.pytorch.Trainer", "lightning.pytorch.callbacks.EarlyStopping", "torch.optim.AdamW", "torch.optim.SGD"),
    *("torch.optim.lr_scheduler.ReduceLROnPlateau", "lightning.pytorch.callbacks.RichModelSummary", "cairn.Every"),
    *("lightning.pytorch.loggers.TensorBoardLogger", "cairn.CSVLogger", "cairn.FSDP2Strategy", "cairn.DataModule"),
    *("cairn.wandb.WandbLogger", "cairn.BestValidation", "cairn.Latest", "cairn.WithinBytes", "torch.nn.Linear"),
    *("cairn.Checkpointer", "torch.nn.Sequential", "lightning.pytorch.callbacks.ModelCheckpoint"),
]


@pytest.mark.parametrize("target", TARGETS)
def test_the_source_shows_what_python_sees(target):
    found = signatures.of(target)
    seen = inspect.signature(resolve(target)).parameters.values()
    named = [item for item in seen if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)]
    assert {item.name for item in named} <= found.parameters.keys()
    assert found.is_open or {item.name for item in named} == found.parameters.keys()
    assert {item.name for item in named if item.default is item.empty} == set(found.required)
