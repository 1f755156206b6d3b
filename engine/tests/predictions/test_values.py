"""What `predict_step` returns comes back for all samples in the same form, or is one sentence."""

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from cairn.errors import CheckpointError, ConfigError, MissingFileError, ModelError
from cairn.predictions import plan as plans
from cairn.predictions.parts import Parts
from cairn.predictions.reading import load_predictions
from cairn.predictions.values import encode


@dataclass
class Output:
    logits: torch.Tensor
    words: list


Pair = namedtuple("Pair", "left right")
ROWS = torch.arange(12.0).view(6, 2)
NAMES = ["a", "b", "c", "d", "e", "f"]
BATCHES = [[0, 1], [2, 3], [4, 5]]


def written(folder, outputs, batches=BATCHES, per_part=2):
    """Write outputs for these batches, two batches in a part."""
    parts = Parts(folder)
    number = -(-len(batches) // per_part)
    parts.begin(plans.Plan(plans.FORMAT, len(batches), per_part, "x", 0, {}, number))
    for part in range(number):
        own = range(part * per_part, min(len(batches), (part + 1) * per_part))
        columns = [encode(outputs[at], len(batches[at])) for at in own]
        parts.write(part, own[0], columns, [index for at in own for index in batches[at]])
    return parts


def split(make):
    return [make(slice(first, first + 2)) for first in (0, 2, 4)]


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return one == other


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (split(lambda at: ROWS[at]), ROWS),
        (split(lambda at: ROWS[at].bfloat16()), ROWS.bfloat16()),
        (split(lambda at: ROWS[at].t().contiguous().t()), ROWS),
        (split(lambda at: np.arange(6)[at]), torch.arange(6)),
        (split(lambda at: NAMES[at]), NAMES),
        (split(lambda at: (ROWS[at], NAMES[at])), (ROWS, NAMES)),
        (split(lambda at: {"x/y": ROWS[at], "x": {"y": NAMES[at]}}), {"x/y": ROWS, "x": {"y": NAMES}}),
        (split(lambda at: Output(ROWS[at], NAMES[at])), {"logits": ROWS, "words": NAMES}),
        (split(lambda at: Pair(ROWS[at], ROWS[at] + 1)), {"left": ROWS, "right": ROWS + 1}),
        (
            split(lambda at: [{"boxes": row[None], "score": 0.5, "tags": ["x", None]} for row in ROWS[at]]),
            [{"boxes": row[None], "score": 0.5, "tags": ["x", None]} for row in ROWS],
        ),
        (split(lambda at: [np.int64(1), float("inf")]), [1, float("inf")] * 3),
        ([ROWS[:2], ROWS[2:4], ROWS[4:, :1]], [*ROWS[:4], *ROWS[4:, :1]]),
    ],
    ids=[
        *("tensor", "bfloat16", "strided", "numpy", "texts", "tuple", "dict", "dataclass", "named tuple", "boxes"),
        *("numbers", "ragged"),
    ],
)
def test_outputs_come_back_for_all_samples(tmp_path, outputs, expected):
    written(tmp_path, outputs)
    assert equal(load_predictions(tmp_path), expected)


def test_samples_are_in_the_order_of_the_data(tmp_path):
    order = [[4, 1], [5, 0], [3, 2]]
    output = [(torch.tensor(batch), [str(index) for index in batch]) for batch in order]
    written(tmp_path, output, order)
    indices, (numbers, names) = load_predictions(tmp_path, with_indices=True)
    assert (indices, numbers.tolist(), names) == (list(range(6)), list(range(6)), list("012345"))


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (torch.tensor(1.0), r"a tensor of shape \(\) for a batch of 2 samples: return one row per sample"),
        (torch.ones(3, 2), r"a tensor of shape \(3, 2\)"),
        ({"a": torch.ones(2), "b": torch.ones(1)}, r"a tensor of shape \(1,\) at /b"),
        ([1, 2, 3], "a list of 3 for a batch of 2"),
        ([torch.ones(2, 5), torch.ones(2)], "return a tuple if these are 2 outputs, or torch.stack"),
        (None, "a NoneType for a batch"),
        ("text", "a str for a batch"),
        ({1: torch.ones(2)}, "with the key 1: use texts as keys"),
        ([object(), 1], "returned a object: return tensors, texts, numbers"),
        ([{"__tensor__": 1}, 1], "which is reserved"),
    ],
)
def test_what_is_not_one_value_per_sample_is_refused(output, why):
    with pytest.raises(ModelError, match=why):
        encode(output, 2)


def test_what_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(MissingFileError, match="does not hold the predictions of one checkpoint"):
        load_predictions(tmp_path)
    parts = written(tmp_path / "predictions" / "one", split(lambda at: (ROWS[at], NAMES[at])))
    assert equal(load_predictions(tmp_path), (ROWS, NAMES)), "the only ones of a run"
    folder = parts.directory
    record = (folder / "part_000001.json").read_bytes()
    (folder / "part_000001.json").unlink()
    with pytest.raises(CheckpointError, match=r"is not complete: 1 of 2 parts are there\. Repeat the command"):
        load_predictions(folder)
    (folder / "part_000001.json").write_bytes(record)
    for name in ("part_000001.safetensors", "part_000001.jsonl"):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(before[:-3] + b"xxx")
        assert parts.there() == [0, 1], "its size is right"
        with pytest.raises(CheckpointError, match=f"{name} is damaged: delete it"):
            load_predictions(folder)
        (folder / name).write_bytes(before[:-1])
        assert parts.there() == [0]
        (folder / name).write_bytes(before)
    written(tmp_path / "predictions" / "two", split(lambda at: ROWS[at]))
    with pytest.raises(MissingFileError, match="name one of one, two in"):
        load_predictions(tmp_path)


def test_predictions_of_something_else_are_not_mixed(tmp_path):
    parts = Parts(tmp_path)
    plan = plans.make(BATCHES, 1, 0, {"checkpoint": "a"})
    assert parts.begin(plan) == parts.begin(plans.make(BATCHES, 4, 0, {"checkpoint": "a"})) == plan
    with pytest.raises(ConfigError, match=r"holds predictions of something else: checkpoint differed\. Delete"):
        parts.begin(plans.make(BATCHES, 1, 0, {"checkpoint": "b"}))


def test_outputs_of_several_forms_cannot_be_joined(tmp_path):
    written(tmp_path, [ROWS[:2], ROWS[2:4], NAMES[4:]])
    with pytest.raises(CheckpointError, match="returned outputs of several forms"):
        load_predictions(tmp_path)


def test_a_record_that_does_not_fit_its_files_is_named(tmp_path):
    written(tmp_path, split(lambda at: (ROWS[at], NAMES[at])))
    path = tmp_path / "part_000001.json"
    for old, new in (
        ('"kind": "tuple"', '"kind": "odd"'),
        ('"first_batch": 2', '"first_batch": 9'),
        ('"items"', '"x"'),
    ):
        before = path.read_text()
        for number in range(2):
            part = tmp_path / f"part_{number:06d}.json"
            part.write_text(part.read_text().replace(old, new))
        with pytest.raises(CheckpointError, match="do not fit"):
            load_predictions(tmp_path)
        for number in range(2):
            part = tmp_path / f"part_{number:06d}.json"
            part.write_text(part.read_text().replace(new, old))
        assert path.read_text() == before
