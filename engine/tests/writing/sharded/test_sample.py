"""A sample of a state differs between ranks that do not hold the same state."""

from random import Random

import pytest
import torch

from cairn.writing.sharded import sample
from cairn.writing.sharded.sample import take

SAVES = [f"{number:016x}" for number in range(7, 700, 97)]


def state(seed=0):
    """Weights, some of them small, transposed or of another type, and a number of steps."""
    torch.manual_seed(seed)
    return {
        "embedding": torch.randn(2000, 30),
        "transposed": torch.randn(30, 20).t(),
        "channels": torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last),
        "part": torch.randn(40, 40)[:, :20],
        "half": torch.randn(300).bfloat16(),
        "float8": torch.randn(300).to(torch.float8_e4m3fn),
        "flags": torch.arange(100) % 2 == 0,
        "complex": torch.randn(50, dtype=torch.complex64),
        "bias": torch.randn(3),
        "step": torch.tensor(4.0),
        "empty": torch.empty(0, 3),
    }


@pytest.mark.parametrize("save", SAVES)
def test_equal_states_have_equal_samples_wherever_they_lie(save):
    one, other = take(state(), {"lr": "0.1"}, save), take(state(), {"lr": "0.1"}, save)
    assert one.number == other.number
    assert one.checksums() == other.checksums()
    assert 0 <= one.number < 2**62


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("name", [name for name in state() if name != "empty"])
def test_another_tensor_is_noticed_at_every_save_and_named(save, name):
    other = state()
    if name == "flags":
        other[name] = ~other[name]
    else:
        wide = other[name].to(torch.complex64 if name == "complex" else torch.float32)
        other[name] = (wide * 1.5 + 1).to(other[name].dtype)
    one, other = take(state(), {}, save), take(other, {}, save)
    assert one.number != other.number
    mine, theirs = one.checksums(), other.checksums()
    assert [key for key in mine if mine[key] != theirs[key]] == [name]


@pytest.mark.parametrize("other", [{"lr": "0.2"}, {}, {"lr": "0.1", "eps": "0"}])
def test_another_plain_value_is_noticed(other):
    one, other = take(state(), {"lr": "0.1"}, SAVES[0]), take(state(), other, SAVES[0])
    assert one.number != other.number
    assert one.checksums() != other.checksums()


def test_a_tensor_that_only_one_rank_has_is_noticed():
    less = {name: tensor for name, tensor in state().items() if name != "bias"}
    one, other = take(state(), {}, SAVES[0]), take(less, {}, SAVES[0])
    assert one.number != other.number
    assert set(one.checksums()) - set(other.checksums()) == {"bias"}


def test_a_single_row_is_noticed_after_some_saves(monkeypatch):
    monkeypatch.setattr(sample, "NUM_VALUES", 100)  # of 60,000 in the whole table
    other = state()
    other["embedding"][700] += 1
    random, mine = Random(0), state()
    saves = [f"{random.getrandbits(64):016x}" for _ in range(200)]
    noticed = [take(mine, {}, save).number != take(other, {}, save).number for save in saves]
    assert 2 < sum(noticed) < 40, "about 30 of 600 places are in the row"


def test_every_value_is_compared_in_some_save(monkeypatch):
    monkeypatch.setattr(sample, "NUM_VALUES", 10)
    tensor, missed = torch.arange(200.0), set(range(200))
    for number in range(25):
        found = take({"w": tensor}, {}, f"{number:x}").groups["cpu torch.float32 1"]
        missed -= set(torch.frombuffer(bytearray(found.data), dtype=torch.float32).int().tolist())
    assert not missed


def test_of_many_tensors_each_save_takes_others_and_all_single_numbers(monkeypatch):
    monkeypatch.setattr(sample, "NUM_TENSORS", 3)
    tensors = {f"w{number}": torch.zeros(5) for number in range(10)}
    tensors |= {f"step{number}": torch.tensor(1) for number in range(10)}
    seen = set()
    for number in range(4):
        found = set(take(tensors, {}, f"{number:x}").checksums())
        assert found >= {f"step{number}" for number in range(10)}
        assert len(found) <= 13
        seen |= found
    assert seen == set(tensors)


def test_what_is_read_is_bounded():
    found = take({"w": torch.zeros(10**6), "v": torch.zeros(10)}, {}, SAVES[0])
    assert sum(len(group.data) for group in found.groups.values()) <= 4 * (sample.NUM_VALUES + 8)
