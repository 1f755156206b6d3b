"""Shuffle buffers of iterable datasets: known ones are named, and others are found by what reading fills."""

import pytest
import torch

from cairn.data.shuffle_buffers import containers, known_shuffle, lost


class Chain:
    def __init__(self, inner):
        self._ex_iterable = inner


def _stage(module, name, **attributes):
    return type(name, (), {"__module__": module})(), attributes


def _of(module, name, **attributes):
    stage, values = _stage(module, name, **attributes)
    stage.__dict__.update(values)
    return stage


@pytest.mark.parametrize(
    ("stage", "found"),
    [
        (
            _of("datasets.iterable_dataset", "BufferShuffledExamplesIterable", buffer_size=8),
            "BufferShuffledExamplesIterable(buffer_size=8)",
        ),
        (_of("webdataset.filters", "detshuffle", bufsize=1000), "detshuffle(bufsize=1000)"),
        (
            _of("torch.utils.data.datapipes", "ShufflerIterDataPipe", buffer_size=4),
            "ShufflerIterDataPipe(buffer_size=4)",
        ),
        (
            _of("datasets.iterable_dataset", "BufferShuffledExamplesIterable", buffer_size=1),  # it reads one ahead
            "BufferShuffledExamplesIterable(buffer_size=1)",
        ),
        (_of("torch.utils.data.datapipes", "ShufflerIterDataPipe", buffer_size=1), ""),
        (_of("datasets.iterable_dataset", "ShuffledDataSourcesArrowExamplesIterable"), ""),
        (_of("project.data", "Shuffled", buffer_size=8), ""),
    ],
)
def test_a_shuffle_of_a_library_is_named(stage, found):
    assert known_shuffle(Chain(Chain(stage))) == found


class Reader:
    def __init__(self):
        self.buffer, self.files = [], ["a", "b"]


def test_a_buffer_that_reading_fills_and_the_state_lacks_is_found():
    reader = Reader()
    before = containers(reader)
    reader.buffer += ["x", "y", "z"]
    after = containers(reader)
    assert lost(before, after, {"position": 3}) == "Reader.buffer"
    assert lost(before, after, {"position": 3, "waiting": ["x", "y", "z"]}) == ""
    assert lost(before, after, {"waiting": torch.zeros(3, 2)}) == ""
    assert lost(after, after, {"position": 3}) == ""


def test_a_local_variable_of_a_generator_is_a_buffer_too():
    def shuffled():
        buffer = [1, 2, 3]
        yield from buffer

    samples = shuffled()
    next(samples)
    assert lost({}, containers(Reader(), samples), {}) == "iter.buffer"
