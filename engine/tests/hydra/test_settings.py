"""What is refused before anything is built, and what a run that goes on takes from its new command."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cairn.errors import ConfigError, ResumeError
from cairn.hydra import settings

GOOD = {
    "seed": 0,
    "ckpt_path": None,
    "init_weights": None,
    "trainer": {"max_time": None},
    "checkpoint": {"mode": "min", "save_interval": 50, "keep_last": 2, "save_top_k": 1, "triggers": {}},
}
RUN = {
    "task_name": "train",
    "seed": 0,
    "tags": ["dev"],
    "model": {"lr": 0.1, "sizes": [8, 8], "scheduler": {"total_epochs": "${trainer.max_epochs}"}},
    "data": {"batch_size": 4, "num_workers": 0},
    "trainer": {"max_epochs": 3, "accumulate_grad_batches": 1, "max_time": None},
    "checkpoint": {"save_interval": 50, "triggers": {"interval": {"interval": "${checkpoint.save_interval}"}}},
    "callbacks": {"stopping": {"_target_": "EarlyStopping", "patience": 5}},
    "paths": {"output_dir": "/runs/1"},
}


def composed(**changes):
    """The configuration with `changes` by dotted keys (`__` for the dot), resolved as a run stores it; None removes."""
    cfg = OmegaConf.create(RUN)
    for key, value in changes.items():
        parent, _, leaf = key.replace("__", ".").rpartition(".")
        if value is None:
            del OmegaConf.select(cfg, parent)[leaf]
        else:
            OmegaConf.update(cfg, key.replace("__", "."), value, merge=False, force_add=True)
    return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))


def merge(now, *overrides, own=None, before=None):
    """Go on with `now`, whose new overrides set these keys."""
    plain = composed()
    return settings.merge(own or plain, before or plain, now, overrides)


def values(cfg):
    return OmegaConf.to_container(cfg)


# Before anything is built


def checked(**changes):
    cfg = OmegaConf.create(GOOD)
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value)
    settings.check(cfg)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seed": 2**32 - 1},
        {"ckpt_path": "a.ckpt"},
        {"init_weights": "a.ckpt"},
        {"trainer__max_time": "2h"},
        {"trainer__max_time": {"hours": 2}},
        {"trainer__max_time": "00:02:00:00"},
        {"checkpoint__mode": "max"},
        {"checkpoint__save_interval": "0.25ep"},
        {"checkpoint__save_interval": "auto"},
        {"checkpoint__save_interval": "auto", "checkpoint__max_overhead": 0.05, "checkpoint__mtbf": "8h"},
        {"checkpoint__max_overhead": 0.5, "checkpoint__mtbf": 3600},  # of no effect with a fixed interval
        {"checkpoint__mtbf": {"hours": 8}},
        {"checkpoint__mtbf": None},
        {"checkpoint__keep_last": -1},
        {"checkpoint__keep_last": 0},
        {"checkpoint__save_top_k": -1},
    ],
)
def test_what_can_work_passes(changes):
    checked(**changes)


def test_a_preset_without_an_interval_passes():
    settings.check(OmegaConf.create({**GOOD, "checkpoint": {"mode": "min", "triggers": {}}}))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ckpt_path": "a", "init_weights": "b"}, "ckpt_path= .*init_weights= .*give one"),
        ({"seed": -1}, "seed=-1 must be an integer from 0 to 4294967295"),
        ({"seed": 2**32}, "seed=4294967296 must be"),
        ({"seed": 1.5}, "seed=1.5 must be"),
        ({"seed": None}, "seed=None must be"),
        ({"seed": "x"}, "seed=x must be"),
        ({"checkpoint__mode": "best"}, "checkpoint.mode='best' must be min"),
        ({"checkpoint__save_interval": 0}, "save_interval=0 must be more than 0"),
        ({"checkpoint__save_interval": "10 parsecs"}, "save_interval='10 parsecs' is no interval"),
        ({"checkpoint__save_interval": None}, "save_interval=None is no interval"),
        ({"checkpoint__save_interval": "automatic"}, "save_interval='automatic' is no interval: .*or 'auto'"),
        ({"checkpoint__max_overhead": 0}, "max_overhead=0 must be a share between 0 and 1: 0.01 is 1 %"),
        ({"checkpoint__max_overhead": 1.0}, "max_overhead=1.0 must be a share between 0 and 1"),
        ({"checkpoint__max_overhead": "1%"}, "max_overhead='1%' must be a share between 0 and 1"),
        ({"checkpoint__max_overhead": None}, "max_overhead=None must be a share between 0 and 1"),
        ({"checkpoint__mtbf": 0}, "mtbf=0 must be more than 0: give the mean time between failures, as in '8h'"),
        ({"checkpoint__mtbf": "often"}, "Invalid duration mtbf='often': give seconds"),
        ({"checkpoint__mtbf": {"weeks": 1}}, "Invalid duration mtbf=.*weeks"),
        ({"checkpoint__keep_last": -2}, "checkpoint.keep_last=-2 must be a number from 0, or -1"),
        ({"checkpoint__keep_last": "two"}, "checkpoint.keep_last='two' must be"),
        ({"checkpoint__save_top_k": 1.5}, "checkpoint.save_top_k=1.5 must be"),
        ({"checkpoint__save_top_k": None}, "checkpoint.save_top_k=None must be"),
        ({"trainer__max_time": "soon"}, "Invalid duration max_time='soon'"),
        ({"trainer__max_time": {"weeks": 1}}, "Invalid duration max_time=.*weeks"),
    ],
)
def test_what_cannot_work_is_one_sentence(changes, told):
    with pytest.raises(ConfigError, match=told) as error:
        checked(**changes)
    assert "\n" not in str(error.value)


def with_wandb(target="cairn.wandb.logger.WandbLogger", **values):
    return OmegaConf.create({**GOOD, "task_name": "digits/cnn", "logger": {"mine": {"_target_": target, **values}}})


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"project": "a/b"}, "logger.mine.project='a/b' must have at most 128 characters, and none of / "),
        ({"project": "x" * 129}, "logger.mine.project='x*' must have at most 128 characters"),
        ({"project": "p", "tags": ["dev", "x" * 65]}, "logger.mine.tags: 'x*' must have from 1 to 64 characters"),
        ({"project": "p", "tags": [""]}, "logger.mine.tags: '' must have from 1"),
        ({"project": "p", "tags": "x" * 65}, "logger.mine.tags: 'x*' must have"),
    ],
)
def test_what_wandb_refuses_is_one_sentence_before_the_run_begins(values, told):
    with pytest.raises(ConfigError, match=told) as error:
        settings.check(with_wandb(**values))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"project": "digits/cnn", "tags": ["dev", "x" * 64]},  # the task's name, which is made fit
        {"project": "x" * 128, "tags": None},
        {"project": None},
        {"target": "another.Logger", "project": "a/b"},
    ],
)
def test_what_wandb_takes_passes(values):
    settings.check(with_wandb(**values))


def test_the_best_needs_a_metric():
    group = {
        "mode": "min",
        "monitor": None,
        "triggers": {"mine": {"_target_": "cairn.policy.when.BestValidation"}},
    }
    with pytest.raises(ConfigError, match=r"checkpoint\.triggers\.mine needs a metric .*checkpoint\.monitor=val/loss"):
        settings.check(OmegaConf.create({**GOOD, "checkpoint": group}))
    settings.check(OmegaConf.create({**GOOD, "checkpoint": {**group, "monitor": "val/loss"}}))


def test_overfitting_takes_no_checkpoints():
    overfit = {"trainer": {"overfit_batches": 2}}
    settings.check(OmegaConf.create({**GOOD, **overfit}))
    group = {"mode": "min", "monitor": None, "triggers": {"end": {"_target_": "cairn.policy.when.AtEnd"}}}
    with pytest.raises(ConfigError, match=r"overfit_batches .* needs checkpoint=none"):
        settings.check(OmegaConf.create({**GOOD, **overfit, "checkpoint": group}))


# Going on


def test_nothing_new_changes_nothing():
    merged = merge(composed())
    assert values(merged.config) == values(composed())
    assert (merged.changed, merged.kept, merged.edited) == ({}, {}, {})


def test_what_may_change_changes_and_is_told():
    merged = merge(composed(tags=["dev", "long"], trainer__max_time="2h"), "tags", "trainer.max_time")
    assert merged.changed == {"tags": (["dev"], ["dev", "long"]), "trainer.max_time": (None, "2h")}
    assert (merged.config.tags, merged.config.trainer.max_time) == (["dev", "long"], "2h")


def test_what_follows_a_change_by_interpolation_changes_as_well():
    merged = merge(composed(checkpoint__save_interval=9), "checkpoint.save_interval")
    assert set(merged.changed) == {"checkpoint.save_interval", "checkpoint.triggers.interval.interval"}
    assert merged.config.checkpoint.triggers.interval.interval == 9


def test_what_makes_the_run_is_kept_when_it_follows_by_interpolation():
    merged = merge(composed(trainer__max_epochs=5), "trainer.max_epochs")
    assert merged.changed == {"trainer.max_epochs": (3, 5)}
    assert merged.kept == {"model.scheduler.total_epochs": (3, 5)}
    assert (merged.config.trainer.max_epochs, merged.config.model.scheduler.total_epochs) == (5, 3)


@pytest.mark.parametrize(
    ("changes", "override", "told"),
    [
        ({"model__lr": 0.2}, "model.lr", r"model\.lr \(0\.1 to 0\.2\)"),
        ({"model__sizes": [8, 9]}, "model.sizes", r"model\.sizes \(\[8, 8\] to \[8, 9\]\)"),
        ({"model__lr": 0.2}, "model", r"model\.lr \(0\.1 to 0\.2\)"),  # a group, model=other
        (
            {"model__scheduler__gamma": 0.9},
            "model/scheduler",
            r"scheduler\.gamma \(None to 0\.9\)",
        ),  # a group in a group
        ({"model__lr": 0.2}, "experiment", r"model\.lr"),
        ({"model__lr": 0.2}, "debug", r"model\.lr"),
        ({"model__lr": 0.2, "data__batch_size": 8}, "experiment", r"data\.batch_size \(4 to 8\), model\.lr"),
        ({"seed": 1}, "seed", r"seed \(0 to 1\)"),
        ({"data__batch_size": 8}, "data.batch_size", r"data\.batch_size \(4 to 8\)"),
        ({"data__batch_size": None}, "data.batch_size", r"data\.batch_size \(4 to None\)"),
        ({"data__drop_last": True}, "data.drop_last", r"data\.drop_last \(None to True\)"),
        ({"trainer__accumulate_grad_batches": 2}, "trainer.accumulate_grad_batches", r"\(1 to 2\)"),
    ],
)
def test_what_makes_the_run_cannot_be_asked_to_change(changes, override, told):
    with pytest.raises(ResumeError, match=told) as error:
        merge(composed(**changes), override)
    assert "init_weights=FILE" in str(error.value)


def test_an_override_that_asks_for_what_is_already_so_is_fine():
    assert merge(composed(), "model.lr", "seed").changed == {}


@pytest.mark.parametrize("key", ["num_workers", "pin_memory", "persistent_workers", "cache_dir"])
def test_what_does_not_touch_the_numbers_is_free(key):
    merged = merge(composed(**{f"data__{key}": 2}), f"data.{key}")
    assert merged.config.data[key] == 2


def test_a_new_key_is_added_and_a_removed_one_is_gone():
    now = composed(callbacks__stopping=None, callbacks__timer={"_target_": "Timer"})
    merged = merge(now, "callbacks")
    assert values(merged.config.callbacks) == {"timer": {"_target_": "Timer"}}
    assert merged.changed["callbacks.stopping.patience"] == (5, None)
    assert merged.changed["callbacks.timer._target_"] == (None, "Timer")


def test_a_group_can_be_emptied_and_filled_again():
    emptied = merge(composed(callbacks={}), "callbacks")
    assert values(emptied.config.callbacks) == {}
    filled = merge(composed(), "callbacks", own=emptied.config, before=composed(callbacks={}))
    assert values(filled.config) == values(composed())


def test_keys_that_are_numbers_stay_numbers():
    schedule = {"_target_": "GradientAccumulationScheduler", "scheduling": {0: 1, 4: 2}}
    own, now = (composed(callbacks__gas={**schedule, "scheduling": {0: 1, 4: n}}) for n in (2, 3))
    merged = merge(now, "callbacks.gas.scheduling.4", own=own, before=own)
    assert values(merged.config.callbacks.gas.scheduling) == {0: 1, 4: 3}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"hours": 2}, "3h"),
        ({"hours": 2}, 7200),
        ("3h", {"hours": 2}),
        (7200, {"hours": 2, "minutes": 1}),
        ([1, 2], {"hours": 2}),
        ({"hours": 2}, [1]),
    ],
)
def test_a_value_may_become_one_of_another_kind(old, new):
    own, now = composed(trainer__max_time=old), composed(trainer__max_time=new)
    merged = merge(now, "trainer.max_time", own=own, before=own)
    assert values(merged.config) == values(now)


def test_where_a_run_lies_is_no_change():
    assert merge(composed(paths__output_dir="/runs/2")).changed == {}


def test_what_the_files_changed_alone_has_no_effect_and_is_told():
    edited = composed(model__lr=0.5, trainer__max_epochs=9)
    merged = merge(edited, before=edited)
    assert values(merged.config) == values(composed())
    assert merged.changed == {}
    assert merged.edited["model.lr"] == (0.1, 0.5)
    assert merged.edited["trainer.max_epochs"] == (3, 9)


def test_what_is_asked_for_wins_over_what_the_files_changed():
    before, now = composed(model__lr=0.5), composed(model__lr=0.5, trainer__max_epochs=7)
    merged = merge(now, "trainer.max_epochs", before=before)
    assert (merged.config.trainer.max_epochs, merged.config.model.lr) == (7, 0.1)
    assert set(merged.edited) == {"model.lr"}


def test_nothing_that_was_given_is_changed():
    own, before, now = composed(), composed(), composed(trainer__max_epochs=5, callbacks={})
    settings.merge(own, before, now, ["trainer.max_epochs", "callbacks"])
    assert values(own) == values(before) == values(composed())


NAMES = st.sampled_from(["a", "b", "c"])
LEAVES = st.one_of(st.integers(min_value=0, max_value=3), st.text(max_size=2), st.lists(st.integers(), max_size=2))
TREES = st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, max_size=3), max_leaves=8)
CONFIGS = st.dictionaries(st.sampled_from(["callbacks", "logger", "trainer"]), TREES)


@given(CONFIGS, CONFIGS)
def test_where_nothing_is_fixed_the_new_command_says_it_all(old, new):
    old, new = {"task_name": "train", **old}, {"task_name": "train", **new}
    merged = settings.merge(OmegaConf.create(old), OmegaConf.create(old), OmegaConf.create(new), list(new))
    assert values(merged.config) == new


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/clone/logs/run", "/other/logs/run"),
        ("/clone/logs/run/checkpoints", "/other/logs/run/checkpoints"),
        ("/clone/data", "/other/data"),
        (["/clone/data/a", {"deep": "/clone/data/b"}], ["/other/data/a", {"deep": "/other/data/b"}]),
        ("/clone2/data", "/clone2/data"),
        ("/elsewhere/clone/data", "/elsewhere/clone/data"),
        ("see /clone/data", "see /clone/data"),
        (3, 3),
        (None, None),
    ],
)
def test_paths_of_a_run_that_was_moved_follow_it(old, new):
    places = {"output_dir": "/clone/logs/run", "root_dir": "/clone"}
    own = OmegaConf.create({"paths": places, "key": old})
    now = OmegaConf.create({"paths": {"output_dir": "/other/logs/run", "root_dir": "/other"}})
    found = values(settings.moved(own, now))
    assert found == {"paths": values(now.paths), "key": new}
    assert values(own) == {"paths": places, "key": old}


def test_a_run_can_be_moved_out_of_its_clone():
    own = OmegaConf.create(
        {"paths": {"output_dir": "/clone/run", "root_dir": "/clone"}, "a": "/clone/run/x", "b": "/clone/y"}
    )
    now = OmegaConf.create({"paths": {"output_dir": "/archive/run", "root_dir": "/clone"}})
    found = values(settings.moved(own, now))
    assert (found["a"], found["b"]) == ("/archive/run/x", "/clone/y")


def test_flatten_names_the_leaves():
    tree = {"a": {"b": 1, "c": {}, "d": [1, {"e": 2}]}, "f": None}
    assert settings.flatten(OmegaConf.create(tree)) == {"a.b": 1, "a.c": {}, "a.d": [1, {"e": 2}], "f": None}


def test_tell_names_old_and_new():
    assert (
        settings.tell({"model.lr": (0.1, 0.2), "tags": (None, ["a"])}) == "model.lr (0.1 to 0.2), tags (None to ['a'])"
    )
