"""With shards, a run of several processes is the same run as with single files, whatever fails on one of its ranks."""

import errno
import logging
import multiprocessing
import os
import re
import signal

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from tests.lightning.test_elastic import assert_close, assert_same
from tests.support.elastic_fit import start

from cairn.store import names, shard, sharded_commit
from cairn.store.catalog import Catalog, verify
from cairn.store.commit import SaveError
from cairn.writing.copying import Copier
from cairn.writing.load import load

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="forks processes"),
]
SHARDED, SINGLE = {"sharded": True}, {"sharded": False}
VOLATILE = ("clock", "run")
"""What differs between two equal runs."""


def committed(folder):
    return Catalog(folder / "checkpoints").committed()


def is_tidy(folder):
    """Whether nothing is in the directory except whole checkpoints, links and the claim."""
    kept = committed(folder)
    for item in kept:
        verify(folder / "checkpoints" / item.name, item)
    expected = {name for item in kept for name in (item.name, names.manifest_name(item.name))}
    found = {path.name for path in (folder / "checkpoints").iterdir()}
    return found == expected | {names.LAST, names.BEST, names.CLAIM, names.LOCK}


def flat(value, path=""):
    """Every leaf of a state with its path."""
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in flat(item, f"{path}/{key}")]
    if isinstance(value, list | tuple):
        return [leaf for number, item in enumerate(value) for leaf in flat(item, f"{path}/{number}")]
    return [(path, value.tolist() if hasattr(value, "tolist") else value)]


def state(folder, name):
    contents = load(folder / "checkpoints" / name)
    for key in VOLATILE:
        contents["cairn"].pop(key)
    return repr(flat(contents))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run of two processes with single files."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, start(folder, 2, writing=SINGLE)


@pytest.mark.parametrize("how", [{}, {"writer": "process", "overlap": True}, {"writer": "sync", "buffers": 1}])
def test_shards_hold_what_a_single_file_would(whole, tmp_path, how):
    folder, expected = whole
    assert start(tmp_path, 2, writing=SHARDED | how) == expected
    assert is_tidy(tmp_path)
    for item in committed(tmp_path):
        assert len(item.shards) == 2
        assert state(tmp_path, item.name) == state(folder, item.name)
    assert not any(item.shards for item in committed(folder))


MOVES = [
    [(2, SHARDED, 3), (1, SHARDED, 5), (3, SHARDED, 7), (2, SINGLE, -1)],
    [(2, SINGLE, 4), (2, SHARDED, -1)],
]
"""Numbers of processes, how they write, and the step up to which they train."""


@pytest.mark.parametrize("moves", MOVES)
def test_a_run_goes_on_from_either_form_at_any_number_of_processes(whole, tmp_path, moves):
    attempts = [
        start(tmp_path, number, writing=SHARDED if sharded else SINGLE, max_steps=steps)
        for number, sharded, steps in moves
    ]
    last = attempts[-1]
    regular = {name for name, *_ in whole[1].checkpoints}  # a stop at max_steps is saved as well
    last.scores = [score for (name, *_), score in zip(last.checkpoints, last.scores, strict=True) if name in regular]
    last.checkpoints = [one for one in last.checkpoints if one[0] in regular]
    assert_same(last, whole[1], attempts)
    assert is_tidy(tmp_path)


class StopAt(Callback):
    """One rank gets SIGTERM at a step."""

    def __init__(self, rank, step):
        self.rank, self.step = rank, step

    def on_train_batch_end(self, trainer, *arguments):
        if trainer.global_rank == self.rank and trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_to_any_rank_stops_all_with_a_sharded_checkpoint(whole, tmp_path):
    with pytest.raises(RuntimeError, match="SIGTERM"):
        start(tmp_path, 2, writing=SHARDED, callbacks=[StopAt(1, 3)])
    stopped = committed(tmp_path)[-1]
    assert (stopped.position.step, len(stopped.shards)) == (3, 2)
    assert is_tidy(tmp_path)
    found = start(tmp_path, 2, writing=SHARDED)
    assert_close(found.weights, whole[1].weights)


FAULTS = {0: (1, "memory"), 1: (1, "disk"), 3: (0, "disk"), 4: (0, "memory")}
"""Rank and kind of a fault, by the number of the save."""


def test_what_fails_on_one_rank_fails_the_save_and_training_goes_on(whole, tmp_path, monkeypatch):
    write, copy = shard.write, Copier.copy
    saves = [name for name, _ in whole[1].checkpoints]
    copies = []

    def failing_write(plan, *given):
        if FAULTS.get(saves.index(plan.name)) == (plan.rank, "disk"):
            why = f"The checkpoint could not be written: {os.strerror(errno.ENOSPC)}."
            shard.report_failure(plan, why)
            raise SaveError(why)
        return write(plan, *given)

    def failing_copy(self, encoded, *given):
        copies.append(None)
        if FAULTS.get(len(copies) - 1) == (int(os.environ["LOCAL_RANK"]), "memory"):
            raise MemoryError("No memory for a checkpoint.")
        copy(self, encoded, *given)

    monkeypatch.setattr(shard, "write", failing_write)
    monkeypatch.setattr(Copier, "copy", failing_copy)
    found = start(tmp_path, 2, writing=SHARDED)
    assert found.train == whole[1].train
    assert_close(found.weights, whole[1].weights)
    assert [name for name, _ in found.checkpoints] == [saves[number] for number in (2, 5, 6)]
    assert is_tidy(tmp_path)


def test_too_many_failed_saves_of_a_rank_stop_all_ranks(tmp_path, monkeypatch):
    def fail(plan, view, beat=None):
        why = f"rank {plan.rank} has no disk."
        shard.report_failure(plan, why)
        raise SaveError(why)

    write = shard.write
    monkeypatch.setattr(shard, "write", lambda plan, *given: (fail if plan.rank else write)(plan, *given))
    with pytest.raises(RuntimeError, match=r"SaveError: Rank 1: rank 1 has no disk\. Failed save 3 of 3 in a row"):
        start(tmp_path, 2, writing=SHARDED)
    assert committed(tmp_path) == []


class Diverge(Callback):
    """The weights of one rank change after the comparisons at the first two saves."""

    def __init__(self, step, said):
        self.step, self.said = step, said

    def on_fit_start(self, *arguments):
        logging.getLogger("cairn.lightning.sharding").addHandler(logging.FileHandler(self.said))

    def on_train_batch_end(self, trainer, module, *arguments):
        if trainer.global_rank == 1 and trainer.global_step == self.step:
            with torch.no_grad():
                next(module.parameters()).add_(1e-6)


@pytest.mark.parametrize("how", [{}, {"writer": "process", "overlap": True}])
def test_ranks_that_diverge_late_are_named_and_rank_0_saves_alone_from_then_on(whole, tmp_path, how):
    step = committed(whole[0])[2].position.step
    start(tmp_path, 2, writing=SHARDED | how, callbacks=[Diverge(step, tmp_path / "said")])
    found = committed(tmp_path)
    assert [item.name for item in found] == [name for name, _ in whole[1].checkpoints], "none is lost"
    assert [len(item.shards) for item in found] == [2, 2, *[0] * (len(found) - 2)]
    assert is_tidy(tmp_path)
    (said,) = (tmp_path / "said").read_text().splitlines()
    assert re.match(r"state_dict/layer.weight .*of rank 1 differ.* from rank 0, so shards would be a mix", said)


def test_a_rank_that_dies_in_its_write_costs_the_save_and_the_next_start_goes_on(whole, tmp_path, monkeypatch):
    """A thread writes, so that its writer dies with it, as when a node is lost."""
    write = shard.write

    def die(plan, *given):
        if plan.name == "epoch_001_batch_000001.ckpt":
            if plan.rank == 1:
                os._exit(1)
            sharded_commit.SILENCE_S = 0.2  # on rank 0, in the only save whose other shard does not come
        return write(plan, *given)

    with monkeypatch.context() as patch:
        patch.setattr(shard, "write", die)
        patch.setattr(sharded_commit, "SILENCE_AFTER_END_S", 0.2)
        with pytest.raises(RuntimeError):
            start(tmp_path, 2, writing=SHARDED)
    assert [item.name for item in committed(tmp_path)] == [name for name, _ in whole[1].checkpoints[:2]]
    found = start(tmp_path, 2, writing=SHARDED)
    assert found.checkpoints == whole[1].checkpoints
    assert_close(found.weights, whole[1].weights)
    assert is_tidy(tmp_path)


def test_a_value_that_cannot_be_saved_on_one_rank_ends_the_run_on_all(tmp_path):
    class Odd(Callback):
        num_batches = 0

        def on_train_batch_end(self, *arguments):
            self.num_batches += 1

        def state_dict(self):  # after the trial before the first batch
            return {"odd": object()} if self.num_batches > 5 and os.environ["LOCAL_RANK"] == "1" else {"odd": None}

    with pytest.raises(RuntimeError, match=r"ConfigError: The state of another rank could not be saved; the message"):
        start(tmp_path, 2, writing=SHARDED, callbacks=[Odd()])
    assert is_tidy(tmp_path)
