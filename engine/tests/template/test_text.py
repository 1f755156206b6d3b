"""Samples of text: each byte is an input once, the parts are disjoint, and another text is refused."""

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support.project import example

module = example("data.text")
Text, Windows = module.Text, module.Windows


@pytest.fixture
def text(tmp_path):
    def make(content=bytes(range(200)) * 5, **options):
        (tmp_path / "text.bin").write_bytes(content)
        data = Text(f"{tmp_path}/*.bin", str(tmp_path / "cache"), **{"batch_size": 4, "seq_len": 8, **options})
        data.prepare_data()
        data.setup("fit")
        return data

    return make


def test_the_shapes_of_a_batch(text):
    x, y = next(iter(text().train_dataloader()))
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((4, 8), torch.int64, (4, 8), torch.int64)


@given(st.integers(min_value=0, max_value=60), st.integers(min_value=1, max_value=9))
def test_the_samples_joined_are_the_text(tmp_path_factory, num_bytes, seq_len):
    path = tmp_path_factory.mktemp("text") / "text.bin"
    path.write_bytes(b"??" + bytes(range(num_bytes)) + b"??")
    windows = Windows(path, 2, 2 + num_bytes, seq_len)
    samples = list(windows)
    x = torch.cat([x for x, _ in samples]).tolist() if samples else []
    y = torch.cat([y for _, y in samples]).tolist() if samples else []
    assert x == list(range(len(windows) * seq_len))
    assert y == [number + 1 for number in x]
    assert num_bytes - 1 - len(x) < seq_len, "only an incomplete sample is left out"


def test_the_parts_are_disjoint_and_in_order(text):
    data = text(val_fraction=0.2, test_fraction=0.1)
    parts = [(part.first, part.last) for part in (data.train_set, data.val_set, data.test_set)]
    assert parts == [(0, 700), (700, 900), (900, 1000)]


def test_a_worker_opens_the_file_itself(text):
    windows = text().train_set
    first = windows[0]
    data = pickle.dumps(windows)
    assert len(data) < 1000
    assert torch.equal(pickle.loads(data)[0][0], first[0])


def test_a_text_that_is_too_small_is_refused(text):
    with pytest.raises(ValueError, match="too few for one sample of seq_len=8"):
        text(b"0123456789" * 2)


def test_another_text_is_refused(text):
    state = text().state_dict()
    other = text(bytes(1200), seq_len=16)
    with pytest.raises(ValueError, match=r"text was .* seq_len was 8 and is 16"):
        other.load_state_dict(state)
    assert state["text"] == text().identity()["text"]
