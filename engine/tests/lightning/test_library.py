"""`cairn.Checkpointer` in a plain Lightning project: its arguments, its answers, and the sentences about misuse."""

import copy
import json
import math
import pickle
import signal
import subprocess
import sys
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer, callbacks, seed_everything
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import CombinedLoader
from tests.support.runs import Scored
from torch.utils.data import TensorDataset

import cairn
from cairn.errors import ConfigError, ResumeError, SaveError
from cairn.lightning import capture
from cairn.policy.when import EveryNSeconds
from cairn.store import claim, names
from cairn.store.catalog import Catalog
from cairn.store.listener import Listener


def points(num_samples=16):
    return TensorDataset(torch.arange(num_samples, dtype=torch.float32).reshape(-1, 1))


def loader(**options):
    return cairn.DataLoader(points(), **{"batch_size": 2, "shuffle": True, **options})


def trainer(checkpoints, tmp_path, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    limits = {"max_epochs": 2, "num_sanity_val_steps": 1}
    ours = {"callbacks": [checkpoints]}
    return Trainer(default_root_dir=tmp_path, **{**quiet, **limits, **ours, **options})


def made(tmp_path, every=3, **options):
    return cairn.Checkpointer(str(tmp_path / "checkpoints"), every, **{"writing": cairn.Writing("sync"), **options})


def fit(checkpoints, tmp_path, module=None, data=None, ckpt_path=None, **options):
    seed_everything(0, verbose=False)
    module = module or Scored()
    made = trainer(checkpoints, tmp_path, **options)
    made.fit(module, loader() if data is None else data, cairn.DataLoader(points(4), 2), ckpt_path=ckpt_path)
    return made


def files(tmp_path):
    folder = tmp_path / "checkpoints"
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.is_symlink()}


def test_what_a_run_saves_and_keeps(tmp_path):
    checkpoints = made(tmp_path, monitor="val/weight", mode="max")
    assert checkpoints.resume() is None
    assert (checkpoints.saved, checkpoints.newest, checkpoints.best) == ([], None, None)
    done = fit(checkpoints, tmp_path)
    assert [(item.name, item.reasons) for item in checkpoints.saved] == [
        ("epoch_001_batch_000007.ckpt", ("interval",)),
        ("epoch_001_batch_000008.ckpt", ("best", "end")),
    ]
    assert checkpoints.newest == checkpoints.best == checkpoints.saved[-1]
    assert checkpoints.best_model_path == str(tmp_path / "checkpoints" / "epoch_001_batch_000008.ckpt")
    assert checkpoints.best_model_score == 16
    (scores,) = done.test(Scored(), cairn.DataLoader(points(4), 2), ckpt_path="best", verbose=False)
    assert scores == {"test/weight": 16.0}


def test_another_process_finds_the_same_checkpoints(tmp_path):
    first = made(tmp_path, monitor="val/weight", mode="max")
    fit(first, tmp_path)
    other = made(tmp_path, monitor="val/weight", mode="max")
    assert (other.saved, other.best) == (first.saved, first.best)
    assert other.resume() == first.last_model_path


def without_names_of_metrics(folder):
    """Make the manifests those of an earlier version."""
    for path in folder.glob("*.json"):
        fields = json.loads(path.read_text())
        assert fields.pop("monitor") == ("val/weight" if fields["score"] is not None else None)
        del fields["checksum"]
        path.write_text(json.dumps(fields))


class TwoMetrics(Scored):
    def on_validation_epoch_end(self):
        super().on_validation_epoch_end()
        self.log("val/distance", 100.0 - self.trainer.global_step)


@pytest.mark.parametrize("is_old", [False, True])
def test_a_resume_with_another_monitor_is_refused_and_changes_nothing(tmp_path, is_old):
    fit(made(tmp_path, monitor="val/weight", mode="max"), tmp_path, TwoMetrics())
    if is_old:
        without_names_of_metrics(tmp_path / "checkpoints")
    before = files(tmp_path)
    other = made(tmp_path, monitor="val/distance")
    words = r"^monitor='val/distance' cannot rank .* a value of 'val/weight'\. Keep 'val/weight', or start a new run in"
    with pytest.raises(ConfigError, match=words):
        fit(other, tmp_path, TwoMetrics(), ckpt_path=other.resume(), max_epochs=3)
    with pytest.raises(ConfigError, match=words):
        other.best  # noqa: B018
    assert files(tmp_path) == before
    again = made(tmp_path, monitor="val/weight", mode="max")
    fit(again, tmp_path, TwoMetrics(), ckpt_path=again.resume(), max_epochs=3)
    assert again.best.score == again.best.metrics["val/weight"]
    new = made(tmp_path / "new", monitor="val/distance")
    fit(new, tmp_path, TwoMetrics(), ckpt_path=again.last_model_path, max_epochs=4)
    assert new.best.score == new.best.metrics["val/distance"]
    unranked = made(tmp_path)  # compares nothing
    fit(unranked, tmp_path, TwoMetrics(), ckpt_path=unranked.resume(), max_epochs=4)


def test_a_resume_that_was_forgotten_is_refused_and_changes_nothing(tmp_path):
    fit(made(tmp_path), tmp_path)
    before = files(tmp_path)
    with pytest.raises(
        ConfigError, match=r"holds 2 checkpoints, .*start from scratch: .*ckpt_path=checkpointer\.resume"
    ):
        fit(made(tmp_path), tmp_path)
    assert files(tmp_path) == before
    assert (tmp_path / "checkpoints" / names.LAST).exists()


def test_a_new_run_from_another_checkpoint_needs_its_own_directory(tmp_path):
    fit(made(tmp_path / "old"), tmp_path)
    fit(made(tmp_path / "new"), tmp_path)
    before = files(tmp_path / "new")
    old = str(tmp_path / "old" / "checkpoints" / names.LAST)
    with pytest.raises(ConfigError, match=r"this fit starts a new run from .*: give it another directory"):
        fit(made(tmp_path / "new"), tmp_path, ckpt_path=old, max_epochs=3)
    assert files(tmp_path / "new") == before
    fit(made(tmp_path / "third"), tmp_path, ckpt_path=old, max_epochs=3)
    assert len({item.run for item in made(tmp_path / "third").saved + made(tmp_path / "old").saved}) == 2


HOLD = """
import sys
from pathlib import Path
from cairn.store import claim
claim.take(Path(sys.argv[1]), "other", "/home/me/other.py")
print(flush=True)
sys.stdin.read()
"""


def test_a_directory_that_another_process_trains_in_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "PATIENCE_S", 0.0)
    command = [sys.executable, "-c", HOLD, str(tmp_path / "checkpoints")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        with pytest.raises(ConfigError, match=r"is in use: process \d+ on .* \(run other, /home/me/other\.py\)"):
            fit(made(tmp_path), tmp_path)
        process.kill()
    checkpoints = made(tmp_path)
    fit(checkpoints, tmp_path)
    assert {item.run for item in checkpoints.saved} == {"other"}, "its first attempt has died before its first save"


class RefusedAtStart(Scored):
    def on_train_start(self):
        raise ConfigError("refused")


def test_a_fit_claims_its_directory_and_one_that_is_refused_does_not(tmp_path):
    with pytest.raises(ConfigError, match="val/typo"):
        fit(made(tmp_path, monitor="val/typo"), tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []
    checkpoints = made(tmp_path)
    fit(checkpoints, tmp_path)
    owner = claim.read(tmp_path / "checkpoints")
    assert (owner.run, owner.directory) == (checkpoints.newest.run, str(tmp_path / "checkpoints"))
    before = files(tmp_path)
    with pytest.raises(ConfigError, match="would start"):
        fit(made(tmp_path), tmp_path)
    again = made(tmp_path)
    with pytest.raises(ConfigError, match="refused"):
        fit(again, tmp_path, RefusedAtStart(), ckpt_path=again.resume(), max_epochs=3)
    assert files(tmp_path) == before
    again = made(tmp_path)
    fit(again, tmp_path, ckpt_path=again.resume())  # nothing is left to train
    assert again._engine.saves.claim is None


def test_a_directory_of_an_earlier_version_is_read_and_claimed(tmp_path):
    first = made(tmp_path)
    fit(first, tmp_path)
    for name in (names.CLAIM, names.LOCK):
        (tmp_path / "checkpoints" / name).unlink()
    again = made(tmp_path)
    fit(again, tmp_path, ckpt_path=again.resume(), max_epochs=3)
    assert claim.read(tmp_path / "checkpoints").run == first.newest.run == again.newest.run


def test_a_directory_with_checkpoints_of_two_runs_is_refused(tmp_path):
    fit(made(tmp_path / "a"), tmp_path)
    fit(made(tmp_path / "b"), tmp_path, max_epochs=3)
    for path in (tmp_path / "b" / "checkpoints").glob("epoch*"):
        path.rename(tmp_path / "a" / "checkpoints" / path.name)
    mixed = made(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"belongs to another run|holds checkpoints of another run"):
        fit(mixed, tmp_path, ckpt_path=mixed.resume(), max_epochs=4)


def test_a_run_may_go_on_from_an_earlier_checkpoint(tmp_path):
    checkpoints = made(tmp_path, keep_last=-1)
    fit(checkpoints, tmp_path)
    earlier = checkpoints.saved[1]
    again = made(tmp_path, keep_last=-1)
    module = Scored()
    fit(again, tmp_path, module, ckpt_path=str(tmp_path / "checkpoints" / earlier.name))
    assert module.num_batches == 16 - earlier.position.total_batches
    assert [item.name for item in again.saved] == [item.name for item in checkpoints.saved]


def test_the_same_trainer_may_fit_again(tmp_path):
    checkpoints, module = made(tmp_path), Scored()
    done = fit(checkpoints, tmp_path, module, max_epochs=1)
    done.fit_loop.max_epochs = 2
    done.fit(module, loader(), cairn.DataLoader(points(4), 2))
    assert module.num_batches == 16
    assert checkpoints.newest.name == "epoch_001_batch_000008.ckpt"


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy])
def test_a_strategy_that_shards_the_model_is_refused_by_name(strategy):
    trainer = SimpleNamespace(strategy=object.__new__(strategy), callbacks=[])
    with pytest.raises(ConfigError, match=rf"^{strategy.__name__} is not supported: .* strategy='ddp'"):
        capture.refuse(trainer, Scored())


@pytest.mark.parametrize(
    "callback",
    [
        callbacks.StochasticWeightAveraging(0.1),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_a_callback_that_cannot_be_resumed_is_refused_by_name(callback):
    trainer = SimpleNamespace(strategy=object.__new__(SingleDeviceStrategy), callbacks=[callback], world_size=1)
    with pytest.raises(ConfigError, match=rf"^{type(callback).__name__} cannot be resumed, because .*\.$"):
        capture.refuse(trainer, Scored())


class FailsAt(Scored):
    """Fails in its sixth batch."""

    def training_step(self, batch, batch_idx):
        if self.num_batches == 5:
            raise RuntimeError("no")
        return super().training_step(batch, batch_idx)


def test_a_second_fit_inside_an_epoch_is_refused(tmp_path):
    checkpoints, module = made(tmp_path), FailsAt()
    failed = trainer(checkpoints, tmp_path)
    with pytest.raises(RuntimeError, match="no"):
        failed.fit(module, loader(), cairn.DataLoader(points(4), 2))
    with pytest.raises(ConfigError, match="ended inside an epoch, which another fit would begin again: make a new"):
        failed.fit(Scored(), loader(), cairn.DataLoader(points(4), 2))


def test_another_accumulation_is_refused(tmp_path):
    fit(made(tmp_path), tmp_path, max_epochs=1, accumulate_grad_batches=2)
    again = made(tmp_path)
    with pytest.raises(ConfigError, match="accumulate_grad_batches was 2 and is 1"):
        fit(again, tmp_path, ckpt_path=again.resume())


def test_other_loaders_than_before_are_refused(tmp_path):
    fit(made(tmp_path), tmp_path, max_steps=3, max_epochs=-1)
    again = made(tmp_path)
    with pytest.raises(ResumeError, match="has the positions of 1 training loaders, but 2 loaders can take one"):
        fit(again, tmp_path, data=[loader(), loader()], ckpt_path=again.resume())


@pytest.mark.parametrize("sanity_steps", [0, 1])
def test_a_validation_loader_that_keeps_its_workers_is_named(tmp_path, sanity_steps):
    kept = torch.utils.data.DataLoader(points(4), 2, num_workers=1, persistent_workers=True)
    made_trainer = trainer(made(tmp_path), tmp_path, max_epochs=1, num_sanity_val_steps=sanity_steps)
    with pytest.warns(UserWarning, match=r"A validation loader \(DataLoader\) keeps its workers"):
        made_trainer.fit(Scored(), loader(), kept)


def test_a_relative_directory_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = cairn.Checkpointer("run", 3, writing=cairn.Writing("sync"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    fit(checkpoints, tmp_path)
    assert len(list((tmp_path / "run").glob("*.ckpt"))) > 0


def test_a_url_is_refused():
    with pytest.raises(ConfigError, match="directory='s3://bucket/x' is not a directory of this machine"):
        cairn.Checkpointer("s3://bucket/x")


def test_a_directory_in_place_of_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(cairn.CheckpointError, match="is a directory: name a checkpoint in it"):
        fit(made(tmp_path), tmp_path, ckpt_path=str(tmp_path))


def test_two_trainers_are_refused(tmp_path):
    checkpoints = made(tmp_path)
    fit(checkpoints, tmp_path)
    with pytest.raises(ConfigError, match="belongs to another Trainer already: make one for each"):
        fit(checkpoints, tmp_path, ckpt_path=checkpoints.resume())


def test_a_loop_of_the_users_own_is_refused(tmp_path):
    class Own(_FitLoop):
        pass

    made_trainer = trainer(made(tmp_path), tmp_path)
    made_trainer.fit_loop.__class__ = Own
    with pytest.raises(ConfigError, match=r"uses Own in place of Lightning"):
        made_trainer.fit(Scored(), loader(), cairn.DataLoader(points(4), 2))


class Hasty:
    """Trigger and keep rule whose methods take other arguments than they get."""

    lasting = recurs = makes_room = True

    def due(self, moment):
        return True

    def keep(self):
        return []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"triggers": {"interval": 50}}, r"triggers\['interval'\] is 50, not a trigger: write every=50, or"),
        ({"triggers": 50}, "triggers"),
        ({"rules": {"last": 3}}, r"rules\['last'\] is 3, not a keep rule: write keep_last=3, or"),
        ({"every": "10 parsecs"}, "every='10 parsecs' is not an interval"),
        ({"every": 0}, "every=0 must be more than 0"),
        ({"every": -1.5}, "every=-1.5"),
        ({"mode": "best"}, "mode='best' must be min .* or max"),
        ({"keep_last": -2}, "keep_last=-2 must be"),
        ({"keep_best": 1.5, "monitor": "x"}, "keep_best=1.5 must be"),
        ({"max_time": "soon"}, "max_time='soon'"),
        ({"max_time": 0}, "max_time=0 must be more than 0"),
        ({"max_time": "0s"}, "max_time='0s' must be more than 0"),
        ({"triggers": {"best": cairn.BestValidation()}}, "needs a metric to rank by: monitor="),
        ({"keep_best": 3}, "keep_best=3 needs a metric to rank by: monitor="),
        ({"every": [50]}, r"every=\[50\] is not an interval"),
        ({"every": cairn.Latest(2)}, "every=<.*Latest.* is not an interval"),
        ({"every": cairn.Every}, r"triggers\['interval'\] is a class: write Every\(...\)"),
        ({"triggers": {1: cairn.Every(5)}}, "triggers has the name 1: a name must be a string"),
        ({"rules": {"": cairn.Latest(5)}}, "rules has the name '': a name must be a string that is not empty"),
        ({"triggers": {"x": Hasty()}}, r"triggers\['x'\] is .*, not a trigger: it needs a method due\(moment, saved\)"),
        ({"rules": {"x": Hasty()}}, r"rules\['x'\] is .*, not a keep rule: it needs a method keep\(saved, mode\)"),
    ],
)
def test_a_wrong_argument_is_one_sentence(tmp_path, options, words):
    with pytest.raises(ConfigError, match=words) as caught:
        made(tmp_path, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"writer": "fast"}, "writer='fast' must be auto, process, thread or sync"),
        ({"buffers": 3}, "buffers=3 must be 1 or 2"),
        ({"overlap": 1}, "overlap=1 must be True or False"),
        ({"when_busy": "x"}, "when_busy='x' must be skip or wait"),
        ({"max_failed_saves": 0}, "max_failed_saves=0 must be an integer from 1, or -1"),
    ],
)
def test_a_wrong_way_to_write_is_one_sentence(options, words):
    with pytest.raises(ConfigError, match=words):
        cairn.Writing(**options)


def test_a_null_character_in_the_directory_is_refused():
    with pytest.raises(ConfigError, match="contains a null character"):
        cairn.Checkpointer("a\0b")


@pytest.mark.parametrize("directory", ["", None, 5])
def test_a_directory_that_is_none_is_refused(directory):
    with pytest.raises(ConfigError, match=rf"^directory={directory!r} must name the directory"):
        cairn.Checkpointer(directory)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"monitor": 3}, "monitor=3 must be the name of a metric"),
        ({"monitor": ""}, "monitor='' must be the name of a metric"),
        ({"stop": lambda: None}, "stop=.* must take one argument: the seconds until"),
        ({"metadata": {"a": math.nan}}, r"metadata\['a'\]=nan cannot be saved \(.*\): give plain values"),
        ({"metadata": {"lightning": "2"}}, r"metadata\['lightning'\]='2' has the name of a version"),
        ({"writing": "thread"}, "writing='thread' must be a cairn.Writing"),
        ({"stop": "no"}, "stop='no' must be a function"),
        ({"listeners": print}, "listeners=.* must be a list"),
        ({"listeners": [print]}, r"listeners\[0\]=.* is not a listener"),
        ({"metadata": [1]}, r"metadata=\[1\] must be a mapping"),
        ({"metadata": {"config": 7}}, r"metadata\['config'\]=7 must be a mapping"),
        ({"metadata": {"run": 5}}, r"metadata\['run'\]=5 must be the id"),
        ({"metadata": {"a": object()}}, r"metadata\['a'\]=.* cannot be saved"),
        ({"keep_best": "x"}, "keep_best='x' must be"),
    ],
)
def test_an_argument_of_another_type_is_refused_before_a_fit(tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        made(tmp_path, **options)


def test_two_checkpointers_of_one_trainer_are_refused(tmp_path):
    both = [made(tmp_path / "a"), made(tmp_path / "b")]
    with pytest.raises(ConfigError, match=r"has two Checkpointers, of .*a/.* and of .*b/.*: pass one"):
        trainer(both[0], tmp_path, callbacks=both).fit(Scored(), loader(), cairn.DataLoader(points(4), 2))
    assert not list(tmp_path.glob("*/checkpoints/*"))


def test_a_checkpointer_that_is_passed_twice_is_refused(tmp_path):
    twice = made(tmp_path)
    with pytest.raises(ConfigError, match=r"has the Checkpointer of .*/checkpoints twice: pass it once"):
        fit(twice, tmp_path, callbacks=[twice, twice])


@pytest.mark.parametrize(
    ("options", "taken"), [({"save_last": True}, "last.ckpt"), ({"filename": "best"}, "best.ckpt"), ({}, "")]
)
def test_a_model_checkpoint_may_not_write_the_files_of_our_links(tmp_path, options, taken):
    checkpoints = made(tmp_path)
    beside = callbacks.ModelCheckpoint(tmp_path / "checkpoints", every_n_train_steps=2, **options)
    if taken:
        with pytest.raises(ConfigError, match=f"would both write {taken} in .*: give ModelCheckpoint another dirpath"):
            fit(checkpoints, tmp_path, callbacks=[checkpoints, beside])
        assert not (tmp_path / "checkpoints").exists()
    else:
        fit(checkpoints, tmp_path, callbacks=[beside, checkpoints])
        assert checkpoints.resume() == checkpoints.last_model_path
        assert len(list((tmp_path / "checkpoints").glob("*.ckpt"))) == len(checkpoints.saved) + 2  # theirs, last.ckpt


def test_a_last_checkpoint_of_lightning_is_named_and_not_replaced(tmp_path, caplog):
    checkpoints, theirs = made(tmp_path), tmp_path / "checkpoints" / "last.ckpt"
    theirs.parent.mkdir()
    theirs.write_bytes(b"of another program")
    assert checkpoints.resume() is None
    assert "holds no checkpoint of Cairn, so the run starts from the beginning. To start from last.ckpt" in caplog.text
    module = Scored()
    with pytest.raises(
        ConfigError, match=r"last.ckpt is not a checkpoint of this run, and the first save would replace"
    ):
        fit(checkpoints, tmp_path, module)
    assert (theirs.read_bytes(), module.num_batches) == (b"of another program", 0)


def test_a_resume_from_the_parent_of_the_checkpoints_is_named(tmp_path, caplog):
    fit(made(tmp_path), tmp_path)
    assert cairn.Checkpointer(tmp_path).resume() is None
    assert f"holds no checkpoint, but {tmp_path / 'checkpoints'} does" in caplog.text


def test_a_function_that_stops_with_something_else_than_a_name_is_named(tmp_path):
    with pytest.raises(ConfigError, match="stop returned True: it must return the name of a signal, or None"):
        fit(made(tmp_path, stop=lambda until_committed_s: True), tmp_path)


def test_a_score_without_a_validation_is_refused_before_the_first_batch(tmp_path):
    module = Scored()
    scored = made(tmp_path, monitor="val/weight")
    with pytest.raises(ConfigError, match="monitor='val/weight' needs a validation, and this fit has none"):
        trainer(scored, tmp_path, limit_val_batches=0).fit(module, loader(), cairn.DataLoader(points(4), 2))
    assert module.num_batches == 0


def test_a_signal_after_the_last_boundary_stops_once_the_run_is_saved(tmp_path):
    class AtTheEnd(Callback):
        def on_train_end(self, trainer, pl_module):
            signal.raise_signal(signal.SIGTERM)

    checkpoints = made(tmp_path)
    with pytest.raises(SystemExit) as caught:
        fit(checkpoints, tmp_path, callbacks=[AtTheEnd(), checkpoints])
    assert (caught.value.code, checkpoints.newest.reasons) == (143, ("end",))


def test_an_interval_may_be_a_timedelta_or_a_trigger(tmp_path):
    assert isinstance(made(tmp_path, timedelta(minutes=1)).policy.triggers["interval"], EveryNSeconds)
    own = cairn.Every("2h")
    assert made(tmp_path, own).policy.triggers["interval"] is own
    assert "interval" not in made(tmp_path, None).policy.triggers


def test_triggers_and_rules_are_added_replaced_and_removed_by_name(tmp_path):
    chosen = made(
        tmp_path,
        triggers={"end": None, "epoch": cairn.Every("1ep")},
        rules={"last": None, "archive": cairn.EveryNth(2)},
    ).policy
    assert list(chosen.triggers) == ["interval", "stop", "epoch"]
    assert list(chosen.rules) == ["archive"]


def test_a_time_limit_ends_the_fit_at_a_boundary_and_fit_returns(tmp_path):
    checkpoints = made(tmp_path, max_time=timedelta(microseconds=1))
    module = Scored()
    fit(checkpoints, tmp_path, module)
    assert (module.num_batches, checkpoints.stopped_by) == (1, "max_time")
    assert checkpoints.newest.reasons == ("stop",)
    rest, again = Scored(), made(tmp_path)
    fit(again, tmp_path, rest, ckpt_path=again.resume())
    assert (rest.num_batches, again.stopped_by) == (15, "")


class At(Scored):
    """Sends a signal in its third batch."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def training_step(self, batch, batch_idx):
        if self.num_batches == 2:
            signal.raise_signal(self.number)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_saves_stops_and_gives_the_handlers_back(tmp_path, number):
    before = [signal.getsignal(one) for one in signal.Signals]
    checkpoints = made(tmp_path)
    with pytest.raises(SystemExit) as caught:
        fit(checkpoints, tmp_path, At(number))
    assert (caught.value.code, checkpoints.newest.name) == (128 + number, "epoch_000_batch_000003.ckpt")
    assert [signal.getsignal(one) for one in signal.Signals] == before


@pytest.fixture
def own_handler():
    """Install a handler of the user's own for a signal; all handlers are restored after the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield signal.signal
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_handler_of_the_users_own_is_called_as_well_and_given_back(tmp_path, own_handler, number):
    seen = []
    handler = lambda *arguments: seen.append(arguments[0])  # noqa: E731
    own_handler(number, handler)
    checkpoints = made(tmp_path)
    with pytest.raises(SystemExit) as caught:
        fit(checkpoints, tmp_path, At(number))
    assert (seen, caught.value.code, signal.getsignal(number)) == ([number], 128 + number, handler)
    assert checkpoints.newest.name == "epoch_000_batch_000003.ckpt"


def test_a_handler_that_leaves_at_once_does_not_cost_the_checkpoint(tmp_path, own_handler, capfd):
    own_handler(signal.SIGTERM, lambda *_: sys.exit(5))
    checkpoints = made(tmp_path)
    with pytest.raises(SystemExit) as caught:
        fit(checkpoints, tmp_path, At(signal.SIGTERM))
    assert (caught.value.code, checkpoints.newest.name) == (143, "epoch_000_batch_000003.ckpt")
    assert "The handler of SIGTERM raised SystemExit(5): the run stops after this batch" in capfd.readouterr().err


def test_the_handlers_are_given_back_after_a_fit_that_went_well(tmp_path):
    before = [signal.getsignal(one) for one in signal.Signals]
    fit(made(tmp_path), tmp_path)
    assert [signal.getsignal(one) for one in signal.Signals] == before


class Heard(Listener):
    def __init__(self):
        self.calls = []

    def opened(self, directory, kept, links, deleted):
        self.calls.append(("opened", len(kept)))

    def committed(self, saved, links):
        self.calls.append(("committed", saved.position.total_batches))

    def close(self, finished, limit_s):
        self.calls.append(("close", finished))


def test_listeners_hear_of_each_checkpoint_and_of_the_end(tmp_path):
    heard = Heard()
    fit(made(tmp_path, listeners=[heard]), tmp_path, max_epochs=1)
    assert heard.calls == [
        ("opened", 0),
        ("committed", 3),
        ("committed", 6),
        ("committed", 8),
        ("close", True),
    ]


def test_listeners_hear_of_a_fit_that_failed(tmp_path):
    class Fails(Scored):
        def training_step(self, batch, batch_idx):
            if self.num_batches == 5:
                raise RuntimeError("no")
            return super().training_step(batch, batch_idx)

    heard = Heard()
    with pytest.raises(RuntimeError, match="no"):
        fit(made(tmp_path, listeners=[heard]), tmp_path, Fails())
    assert heard.calls[-1] == ("close", False)


def test_metadata_is_in_the_manifest_and_the_configuration_in_the_file(tmp_path):
    checkpoints = made(tmp_path, metadata={"commit": "abc", "config": {"lr": 0.1}})
    fit(checkpoints, tmp_path, max_epochs=1)
    name = checkpoints.newest.name
    manifest = (tmp_path / "checkpoints" / names.manifest_name(name)).read_text()
    assert '"commit": "abc"' in manifest
    assert f'"torch": "{torch.__version__}"' in manifest
    file = torch.load(tmp_path / "checkpoints" / name, weights_only=True)
    assert file["cairn"]["config"] == {"lr": 0.1}


def test_a_damaged_checkpoint_is_skipped_and_a_named_one_refused(tmp_path):
    checkpoints = made(tmp_path)
    fit(checkpoints, tmp_path)
    older, newest = (tmp_path / "checkpoints" / item.name for item in checkpoints.saved)
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    again = made(tmp_path)
    assert again.resume() == str(older)
    with pytest.raises(cairn.CheckpointError, match=r"checksum|cannot be read|damaged"):
        fit(made(tmp_path), tmp_path, ckpt_path=str(newest))


def test_a_failed_save_ends_a_fit_with_an_error(tmp_path, monkeypatch):
    from cairn.store import disk

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "put_chunks", no_space)
    with pytest.raises(SaveError, match="No space left on device"):
        fit(made(tmp_path, every=1, writing=cairn.Writing("sync", max_failed_saves=2)), tmp_path)


STRUCTURES = {
    "a list": lambda: [loader(), loader(batch_size=4, seed=1)],
    "a dict": lambda: {"a": loader(), "b": loader(batch_size=4, seed=1)},
    "min_size": lambda: CombinedLoader([loader(), loader(batch_size=4, seed=1)], "min_size"),
    "max_size": lambda: CombinedLoader([loader(), loader(batch_size=4, seed=1)], "max_size"),
    "max_size_cycle": lambda: CombinedLoader([loader(), loader(batch_size=4, seed=1)], "max_size_cycle"),
}


class Seen(Scored):
    """Remembers the samples of each batch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def training_step(self, batch, batch_idx):
        parts = batch.values() if isinstance(batch, dict) else batch
        self.seen.append([None if part is None else part[0].flatten().tolist() for part in parts])
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_loaders_in_a_structure_are_resumed_exactly(tmp_path, structure):
    whole, checkpoints = Seen(), made(tmp_path / "whole", every=1, keep_last=-1)
    fit(checkpoints, tmp_path, whole, STRUCTURES[structure]())
    # test_exact_data.py stops the modes after every batch.
    for stop in checkpoints.saved[: -1 : 1 if structure.startswith("a ") else 3]:
        done = stop.position.total_batches
        rest = Seen()
        file = str(tmp_path / "whole" / "checkpoints" / stop.name)
        fit(made(tmp_path / f"after {done}"), tmp_path, rest, STRUCTURES[structure](), ckpt_path=file)
        assert rest.seen == whole.seen[done:], f"after {done} batches"


def test_a_file_that_is_not_ours_begins_a_new_run_with_a_warning(tmp_path):
    plain = Trainer(
        default_root_dir=tmp_path,
        logger=False,
        max_epochs=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    plain.fit(Scored(), loader(), cairn.DataLoader(points(4), 2))
    plain.save_checkpoint(tmp_path / "plain.ckpt")
    with pytest.warns(UserWarning, match="was not written by Cairn"):
        fit(made(tmp_path), tmp_path, ckpt_path=str(tmp_path / "plain.ckpt"))
    assert len(Catalog(tmp_path / "checkpoints").committed()) == 2


class Lazy(Scored):
    """Its layers get their shapes from the first batch, and its second head from the first batch of epoch 1."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.LazyLinear(3), torch.nn.LazyBatchNorm1d(), torch.nn.Dropout(0.2))
        self.head, self.second = torch.nn.LazyLinear(1), torch.nn.LazyLinear(1)

    def training_step(self, batch, batch_idx):
        features = self.net(batch[0])
        loss = self.head(features).square().mean()
        return loss + self.second(features).square().mean() if self.current_epoch else loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())


@pytest.mark.parametrize("writer", ["sync", "thread"])
def test_lazy_modules_train_and_resume_exactly(writer, tmp_path):
    options = {"every": 1, "keep_last": -1, "writing": cairn.Writing(writer, when_busy="wait")}
    checkpoints, whole = made(tmp_path, **options), Lazy()
    fit(checkpoints, tmp_path, whole, loader(batch_size=4), num_sanity_val_steps=0)
    assert len(checkpoints.saved) == 8
    for saved in checkpoints.saved[:-1]:
        again = Lazy()
        path = str(tmp_path / "checkpoints" / saved.name)
        fit(made(tmp_path, **options), tmp_path, again, loader(batch_size=4), path, num_sanity_val_steps=0)
        assert again.state_dict().keys() == whole.state_dict().keys()
        assert all(torch.equal(value, whole.state_dict()[name]) for name, value in again.state_dict().items())


COPIES = {"pickle": lambda item: pickle.loads(pickle.dumps(item)), "deepcopy": copy.deepcopy}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_trainer_is_made_before_and_after_a_fit(way, tmp_path):
    checkpoints = made(tmp_path, monitor="val/weight", mode="max", writing=cairn.Writing())
    finder = callbacks.LearningRateFinder(num_training_steps=2, update_attr=False)
    fresh = trainer(checkpoints, tmp_path, callbacks=[finder, checkpoints])
    for before in (COPIES[way](fresh), COPIES[way](COPIES[way](fresh))):
        assert before.checkpoint_callback.policy.directory == checkpoints.policy.directory
    fresh.fit(Scored(), loader(), cairn.DataLoader(points(4), 2))
    after = COPIES[way](fresh)
    copied = after.checkpoint_callback
    assert (copied.saved, copied.best, copied.cost) == (checkpoints.saved, checkpoints.best, None)
    assert after.global_step == fresh.global_step == 16
    module, again = Scored(), made(tmp_path, monitor="val/weight", mode="max")
    after.fit_loop.max_epochs = 3
    with pytest.raises(ConfigError, match=r"would start from scratch: go on with"):
        after.fit(module, loader(), cairn.DataLoader(points(4), 2))
    after = COPIES[way](fresh)
    after.fit_loop.max_epochs = 3
    after.fit(module, loader(), cairn.DataLoader(points(4), 2), ckpt_path=again.resume())
    assert (module.num_batches, after.checkpoint_callback.newest.position.total_batches) == (8, 24)


def test_a_copy_keeps_the_function_that_stops_and_the_resume_point(tmp_path):
    fit(made(tmp_path), tmp_path)
    checkpoints = made(tmp_path, stop=never)
    checkpoints.resume()
    copied = pickle.loads(pickle.dumps(checkpoints))
    assert copied.resume_point == checkpoints.resume_point is not None
    assert copied._stopping._stop is never


def never(until_committed_s):
    return None


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"num_workers": 1}, {"seeded_items": False}])
def test_a_loader_is_predicted_with_all_samples_and_their_indices(tmp_path, options):
    class Predicts(Scored):
        def predict_step(self, batch, batch_idx):
            return batch[0].flatten()

    found = []

    class Writer(BasePredictionWriter):
        def write_on_batch_end(self, trainer, pl_module, prediction, batch_indices, *rest):
            found.append((prediction.tolist(), batch_indices))

    data = cairn.DataLoader(points(10), 4, drop_last=True, **options)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(callbacks=[Writer("batch")], default_root_dir=tmp_path, **quiet).predict(Predicts(), data)
    assert [len(indices) for _, indices in found] == [4, 4, 2]
    assert all(prediction == indices for prediction, indices in found)  # sample i is the number i
    assert sorted(index for _, indices in found for index in indices) == list(range(10))


@pytest.mark.slow
def test_spawned_processes_train_and_resume_exactly(tmp_path):
    seed_everything(4, verbose=False)
    options = {"devices": 2, "num_sanity_val_steps": 0}  # to fork is faster, and the rest is the same
    whole, first = made(tmp_path / "whole", every=1, monitor="val/weight"), made(tmp_path, every=1, max_time=1e-6)
    fit(whole, tmp_path, Lonely(), strategy="ddp_fork", **options)
    seed_everything(4, verbose=False)
    fit(first, tmp_path, Lonely(), strategy="ddp_spawn", **options)
    assert (len(first.saved), first.newest.position.total_batches) == (1, 1)
    again = made(tmp_path, every=1, monitor="val/weight")
    fit(again, tmp_path, Lonely(), ckpt_path=again.resume(), strategy="ddp_fork", **options)
    ends = [torch.load(item.last_model_path, weights_only=True)["state_dict"] for item in (whole, again)]
    assert [item.name for item in again.saved] == [item.name for item in whole.saved]
    assert torch.equal(ends[0]["net.weight"], ends[1]["net.weight"])


class Lonely(Scored):
    """Module with dropout for spawned processes."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(1, 3)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.dropout(self.net(batch[0]), 0.3).sum() - self.weight

    def validation_step(self, batch, batch_idx):
        self.log("val/weight", self.weight, sync_dist=True)
