"""A snapshot holds the state of the moment at which it was taken, whatever training does meanwhile."""

import io
import threading

import pytest
import torch
from tests.support.equality import assert_same
from torch import nn

from cairn.errors import SaveError
from cairn.store.file_format import sealed
from cairn.writing import copying as module
from cairn.writing.buffers import Buffer, BufferPool
from cairn.writing.copying import Copier, optimizer_tensors
from cairn.writing.encode import encode

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]


class Training:
    """A net with parameters and statistics, and an optimizer with moments."""

    def __init__(self, device="cpu", width=16):
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 4)).to(device)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=0.1)
        self.data = torch.randn(8, 4, device=device)

    def backward(self):
        self.optimizer.zero_grad()
        self.net(self.data).square().sum().backward()

    def step(self):
        self.backward()
        self.optimizer.step()

    def state(self):
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(), "rng": torch.get_rng_state()}

    def optimizer_tensors(self):
        return optimizer_tensors([self.optimizer])


@pytest.fixture
def buffer():
    buffer = Buffer()
    yield buffer
    buffer.close()


@pytest.fixture
def copier():
    copier = Copier()
    yield copier
    copier.close()


@pytest.fixture
def training():
    training = Training()
    training.step()
    return training


@pytest.fixture
def held(monkeypatch):
    """An event; a deferred copy waits until it is set."""
    copy, go, main = module._copy, threading.Event(), threading.get_ident()

    def held_copy(pairs, **options):
        if threading.get_ident() != main:
            go.wait()
        copy(pairs, **options)

    monkeypatch.setattr(module, "_copy", held_copy)
    yield go
    go.set()


@pytest.fixture
def overlapping(held):
    """A copier whose deferred copies wait until `finish` is called or `held` is set."""
    copier = Copier(overlap=True)
    finish = copier.finish

    def let_go_and_finish():
        if copier._pending is not None:
            held.set()
        finish()

    copier.finish = let_go_and_finish
    yield copier
    held.set()
    copier.close()


def read(buffer):
    """Content of the file, which is complete only after `wait`."""
    return torch.load(io.BytesIO(b"".join(sealed(buffer.view[: buffer.num_bytes], 2**20))), weights_only=True)


def copy_of(value):
    """A copy of a state on the CPU."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True, map_location="cpu")


# What a copy holds


def test_a_snapshot_does_not_change_while_training_continues(copier, buffer, training):
    for _ in range(3):
        expected = copy_of(training.state())
        copier.copy(encode(training.state()), buffer)
        for _ in range(2):
            training.step()
        buffer.wait()
        assert_same(read(buffer), expected)


def test_two_buffers_hold_two_states(copier, training):
    pool = BufferPool(2)
    expected = []
    for buffer in pool.buffers:
        expected.append(copy_of(training.state()))
        copier.copy(encode(training.state()), buffer)
        training.step()
    assert [read(buffer)["net"]["0.weight"].tolist() for buffer in pool.buffers] == [
        state["net"]["0.weight"].tolist() for state in expected
    ]
    for buffer, state in zip(pool.buffers, expected, strict=True):
        assert_same(read(buffer), state)
    pool.close()


def test_tied_strided_and_empty_tensors_are_read_back_unchanged(copier, buffer):
    base = torch.arange(60.0).reshape(6, 10)
    state = {
        "tied": [base, base],
        "transposed": base.t(),
        "columns": base[:, 2:5],
        "one of many": torch.arange(3.0).as_strided((1, 3), (100, 1)),
        "empty": [torch.empty(0), torch.empty(3, 0, dtype=torch.int64)],
        "number": torch.tensor(1.5, dtype=torch.complex128),
        "odd": torch.arange(7, dtype=torch.uint8),
    }
    for _ in range(2):
        copier.copy(encode(state), buffer)
        found = read(buffer)
        assert_same(found, state)
        assert found["transposed"].stride() == (1, 10)
        assert found["tied"][0].data_ptr() == found["tied"][1].data_ptr() == found["transposed"].data_ptr()
        base += 1


# What is reused


def test_a_layout_is_reused_when_only_values_change(copier, buffer):
    held = []
    for number in range(3):
        state = {"weight": torch.full((5,), float(number)), "epoch": 10**number}
        copier.copy(encode(state), buffer)
        assert_same(read(buffer), state)
        held.append(buffer.held)
    assert held[0] is held[1] is held[2]


CHANGES = {
    "another type of the same size": (torch.tensor([1.0, -0.5]), torch.tensor([1, 2], dtype=torch.int32)),
    "another shape of the same size": (torch.arange(6.0).reshape(2, 3), torch.arange(6.0).reshape(3, 2)),
    "other strides": (torch.arange(6.0).reshape(2, 3), torch.arange(6.0).reshape(3, 2).t()),
    "larger": (torch.arange(6.0), torch.arange(600.0)),
    "smaller": (torch.arange(600.0), torch.arange(6.0)),
    "so large that the buffer grows": (torch.arange(6.0), torch.arange(200_000.0)),
}


@pytest.mark.parametrize(("one", "other"), CHANGES.values(), ids=CHANGES)
def test_a_new_layout_is_made_when_the_tensors_change(copier, buffer, one, other):
    for tensor in (one, other, one):
        copier.copy(encode([tensor, torch.tensor(7)]), buffer)
        assert_same(read(buffer), [tensor, torch.tensor(7)])


def test_buffers_with_layouts_of_different_states_are_not_mixed_up(copier):
    pool = BufferPool(2)
    states = [[torch.arange(6.0)], [torch.arange(3.0), torch.arange(4)], [torch.arange(6)], [torch.arange(12.0)]]
    for turn, state in enumerate(states * 2):
        copier.copy(encode(state), pool.buffers[turn % 2])
        assert_same(read(pool.buffers[turn % 2]), state)
        copier.copy(encode(state), pool.buffers[0])
        assert_same(read(pool.buffers[0]), state)
    pool.close()


def test_too_little_memory_is_an_error_and_the_next_copy_works(copier, buffer, training, monkeypatch):
    monkeypatch.setattr(buffer, "allocate", lambda num_bytes: (_ for _ in ()).throw(MemoryError("none")))
    with pytest.raises(MemoryError, match="none"):
        copier.copy(encode(training.state()), buffer)
    monkeypatch.undo()
    copier.copy(encode(training.state()), buffer)
    assert_same(read(buffer), training.state())


# Overlap


def test_the_tensors_of_an_optimizer_are_those_that_only_its_step_changes():
    training = Training()
    training.step()
    found = {tensor.data_ptr() for tensor in training.optimizer_tensors()}
    moments = [value for state in training.optimizer.state.values() for value in state.values()]
    assert found == {tensor.data_ptr() for tensor in [*training.net.parameters(), *moments]}
    assert not found & {buffer.data_ptr() for buffer in training.net.buffers()}


def test_with_overlap_statistics_are_copied_at_once_and_parameters_later(overlapping, held, buffer, training):
    before = copy_of(training.state())
    overlapping.copy(encode(before), buffer)  # what was in the buffer before: other numbers
    for tensor in buffer.held.tensors:
        tensor.zero_()
    held.clear()
    overlapping.copy(encode(training.state()), buffer, training.optimizer_tensors())
    found = read(buffer)
    late = {"0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"}
    for name, tensor in found["net"].items():
        assert bool(tensor.count_nonzero()) == (name not in late), name
    assert not any(state["exp_avg_sq"].count_nonzero() for state in found["optimizer"]["state"].values())
    assert not held.is_set()
    overlapping.finish()
    assert_same(read(buffer), before)


def test_with_overlap_forward_and_backward_continue_and_the_next_step_waits(overlapping, held, buffer, training):
    training.optimizer.register_step_pre_hook(lambda *_: overlapping.finish())
    for _ in range(3):
        before = copy_of(training.state())
        held.clear()
        overlapping.copy(encode(training.state()), buffer, training.optimizer_tensors())
        training.backward()
        assert not held.is_set()  # the statistics changed; what is still to be copied did not
        training.optimizer.step()
        buffer.wait()
        assert_same(read(buffer), before)


def test_the_file_is_complete_when_its_wait_returns(overlapping, held, buffer, training):
    before = copy_of(training.state())
    overlapping.copy(encode(training.state()), buffer, training.optimizer_tensors())
    threading.Thread(target=held.set).start()
    buffer.wait()
    assert_same(read(buffer), before)


def test_a_second_copy_waits_for_the_first(overlapping, held, training):
    pool = BufferPool(2)
    before = copy_of(training.state())
    overlapping.copy(encode(training.state()), pool.buffers[0], training.optimizer_tensors())
    overlapping.copy(encode(training.state()), pool.buffers[1], training.optimizer_tensors())
    assert held.is_set()
    overlapping.finish()
    for buffer in pool.buffers:
        assert_same(read(buffer), before)
    pool.close()


def test_without_overlap_everything_is_copied_at_once(buffer, training, monkeypatch):
    monkeypatch.setattr(module, "ThreadPoolExecutor", None)
    copier = Copier(overlap=False)
    copier.copy(encode(training.state()), buffer, training.optimizer_tensors())
    assert_same(read(buffer), training.state())
    copier.finish()
    copier.close()


def test_a_failed_copy_fails_the_save_and_does_not_stop_training(buffer, training, monkeypatch):
    copy, main = module._copy, threading.get_ident()

    def failing(pairs, **options):
        if threading.get_ident() != main:
            raise RuntimeError("no copy")
        copy(pairs, **options)

    monkeypatch.setattr(module, "_copy", failing)
    copier = Copier(overlap=True)
    copier.copy(encode(training.state()), buffer, training.optimizer_tensors())
    copier.finish()
    with pytest.raises(RuntimeError, match="no copy"):
        buffer.wait()
    copier.copy(encode(training.state()), buffer, training.optimizer_tensors())
    copier.close()  # as at the end of a run, perhaps after another error


def test_a_closed_copier_leaves_no_thread(buffer, training):
    before = threading.active_count()
    copier = Copier(overlap=True)
    copier.copy(encode(training.state()), buffer, training.optimizer_tensors())
    assert threading.active_count() == before + 1
    copier.close()
    copier.close()
    assert threading.active_count() == before


# With a GPU


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("device", DEVICES)
def test_under_load_a_snapshot_equals_a_synchronous_copy_of_the_same_step(device, overlap):
    training, pool, copier = Training(device, width=256), BufferPool(2), Copier(overlap)

    def finish(*_):
        assert copier.finish() >= 0.0

    training.optimizer.register_step_pre_hook(finish)
    for turn in range(6):
        training.step()
        expected = copy_of(training.state())
        buffer = pool.buffers[turn % 2]
        copier.copy(encode(training.state()), buffer, training.optimizer_tensors())
        for _ in range(3):
            training.step()
        buffer.wait()
        assert_same(read(buffer), expected)
        assert (buffer.device_s > 0.0) == (device == "cuda")
    copier.close()
    pool.close()


@needs_cuda
def test_memory_that_a_gpu_writes_to_is_pinned_until_it_is_released(copier):
    buffer = Buffer()
    copier.copy(encode([torch.arange(1000, device="cuda")]), buffer)
    seen = torch.frombuffer(buffer.view, dtype=torch.uint8)
    assert seen.is_pinned()
    copier.copy(encode([torch.arange(10**6, device="cuda")]), buffer)  # it grows
    buffer.wait()
    assert torch.frombuffer(buffer.view, dtype=torch.uint8).is_pinned()
    assert_same(read(buffer), [torch.arange(10**6)])
    buffer.close()
    assert not seen.is_pinned()


class Flat(nn.Module):
    """Two parameters that are views of one storage; torch counts the changes of each."""

    def __init__(self):
        super().__init__()
        flat = torch.randn(12)
        self.one, self.two = nn.Parameter(flat[:4]), nn.Parameter(flat[4:])


def channels_last():
    return nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)


CHANGES = {
    "a renormalized embedding": (lambda: nn.Embedding(9, 4, max_norm=0.1), lambda net: net(torch.arange(9))),
    "clamped, channels last": (channels_last, lambda net: net.weight.detach().clamp_(-0.01, 0.01)),
    "the second of a storage": (Flat, lambda net: net.two.detach().mul_(2)),
}


@pytest.mark.parametrize(("make", "change"), CHANGES.values(), ids=CHANGES)
def test_weights_that_change_while_they_are_copied_fail_the_save_and_not_the_training(
    overlapping, held, buffer, make, change
):
    torch.manual_seed(0)
    net = make()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    held.clear()
    overlapping.copy(encode(net.state_dict()), buffer, optimizer_tensors([optimizer]))
    change(net)
    overlapping.finish()
    with pytest.raises(SaveError, match=r"changed outside of an optimizer's step .*overlap=false"):
        buffer.wait()


def test_weights_without_an_optimizer_are_copied_at_once(overlapping, held, buffer, training):
    """An averaged teacher follows the weights in forward; torch does not count its changes."""
    teacher = nn.Linear(4, 4)
    before = copy_of(teacher.state_dict())
    held.clear()
    overlapping.copy(
        encode({"net": training.net.state_dict(), "teacher": teacher.state_dict()}),
        buffer,
        training.optimizer_tensors(),
    )
    for parameter in teacher.parameters():
        parameter.data.mul_(0.5)
    assert_same(read(buffer)["teacher"], before)
    overlapping.finish()
    buffer.wait()
    assert_same(read(buffer)["teacher"], before)
