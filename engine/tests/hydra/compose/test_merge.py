"""What a resumed run takes from its new command."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cairn.errors import ResumeError
from cairn.hydra.compose import merge as merging

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
    """Return the configuration with `changes` by dotted keys (`__` for the dot), resolved as in a run; None deletes."""
    cfg = OmegaConf.create(RUN)
    for key, value in changes.items():
        parent, _, leaf = key.replace("__", ".").rpartition(".")
        if value is None:
            del OmegaConf.select(cfg, parent)[leaf]
        else:
            OmegaConf.update(cfg, key.replace("__", "."), value, merge=False, force_add=True)
    return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))


def merge(now, *overrides, own=None, before=None):
    """Resume with the configuration `now`, whose new overrides set these keys."""
    plain = composed()
    return merging.merge(own or plain, before or plain, now, overrides)


def values(cfg):
    return OmegaConf.to_container(cfg)


def test_nothing_new_changes_nothing():
    merged = merge(composed())
    assert values(merged.config) == values(composed())
    assert (merged.changed, merged.kept, merged.edited) == ({}, {}, {})


def test_what_may_change_is_changed_and_reported():
    merged = merge(composed(tags=["dev", "long"], trainer__max_time="2h"), "tags", "trainer.max_time")
    assert merged.changed == {"tags": (["dev"], ["dev", "long"]), "trainer.max_time": (None, "2h")}
    assert (merged.config.tags, merged.config.trainer.max_time) == (["dev", "long"], "2h")


def test_what_follows_a_change_by_interpolation_changes_as_well():
    merged = merge(composed(checkpoint__save_interval=9), "checkpoint.save_interval")
    assert set(merged.changed) == {"checkpoint.save_interval", "checkpoint.triggers.interval.interval"}
    assert merged.config.checkpoint.triggers.interval.interval == 9


def test_a_fixed_key_keeps_its_value_when_it_follows_a_change_by_interpolation():
    merged = merge(composed(trainer__max_epochs=5), "trainer.max_epochs")
    assert merged.changed == {"trainer.max_epochs": (3, 5)}
    assert merged.kept == {"model.scheduler.total_epochs": (3, 5)}
    assert (merged.config.trainer.max_epochs, merged.config.model.scheduler.total_epochs) == (5, 3)


@pytest.mark.parametrize(
    ("changes", "override", "message"),
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
def test_an_override_of_a_fixed_key_is_refused(changes, override, message):
    with pytest.raises(ResumeError, match=message) as error:
        merge(composed(**changes), override)
    assert "init_weights=FILE" in str(error.value)


def test_an_override_to_the_present_value_is_accepted():
    assert merge(composed(), "model.lr", "seed").changed == {}


@pytest.mark.parametrize("key", ["num_workers", "pin_memory", "persistent_workers", "cache_dir"])
def test_what_does_not_affect_the_numbers_may_change(key):
    merged = merge(composed(**{f"data__{key}": 2}), f"data.{key}")
    assert merged.config.data[key] == 2


@pytest.mark.parametrize("key", ["data.batch_size", "trainer.devices", "trainer.num_nodes"])
def test_with_global_batches_the_processes_may_change(key):
    own = composed(data__global_batch_size=16, **{key.replace(".", "__"): 4})
    now = composed(data__global_batch_size=16, **{key.replace(".", "__"): 2})
    merged = merge(now, key, own=own, before=own)
    assert OmegaConf.select(merged.config, key) == 2
    assert merged.changed == {key: (4, 2)}


def test_a_run_can_get_global_batches_and_keeps_them():
    sixteen, eight, none = (composed(data__global_batch_size=size) for size in (16, 8, "null"))
    none.data.global_batch_size = None
    assert merge(sixteen, "data.global_batch_size").config.data.global_batch_size == 16
    assert merge(sixteen, "data.global_batch_size", own=none, before=none).config.data.global_batch_size == 16
    for now in (eight, none):
        with pytest.raises(ResumeError, match=r"data\.global_batch_size \(16 to "):
            merge(now, "data.global_batch_size", own=sixteen, before=sixteen)


def test_a_refused_number_of_processes_names_the_key_with_which_it_may_change():
    with pytest.raises(
        ResumeError, match=r"trainer\.devices \(2 to 1\).* With data\.global_batch_size=N it may change"
    ):
        merge(
            composed(trainer__devices=1),
            "trainer.devices",
            own=composed(trainer__devices=2),
            before=composed(trainer__devices=2),
        )


def test_a_new_key_is_added_and_a_removed_one_is_deleted():
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


def test_moving_a_run_is_not_a_change():
    assert merge(composed(paths__output_dir="/runs/2")).changed == {}


def test_an_edited_file_has_no_effect_and_is_reported():
    edited = composed(model__lr=0.5, trainer__max_epochs=9)
    merged = merge(edited, before=edited)
    assert values(merged.config) == values(composed())
    assert merged.changed == {}
    assert merged.edited["model.lr"] == (0.1, 0.5)
    assert merged.edited["trainer.max_epochs"] == (3, 9)


def test_what_an_override_set_that_is_not_composed_again_was_not_edited():
    default = composed(model__lr=0.5, trainer__max_epochs=9)
    merged = merging.merge(composed(), default, default, [], ["model"])
    assert values(merged.config) == values(composed())
    assert set(merged.edited) == {"trainer.max_epochs"}


def test_an_override_applies_and_an_edited_file_does_not():
    before, now = composed(model__lr=0.5), composed(model__lr=0.5, trainer__max_epochs=7)
    merged = merge(now, "trainer.max_epochs", before=before)
    assert (merged.config.trainer.max_epochs, merged.config.model.lr) == (7, 0.1)
    assert set(merged.edited) == {"model.lr"}


def test_the_arguments_are_not_modified():
    own, before, now = composed(), composed(), composed(trainer__max_epochs=5, callbacks={})
    merging.merge(own, before, now, ["trainer.max_epochs", "callbacks"])
    assert values(own) == values(before) == values(composed())


NAMES = st.sampled_from(["a", "b", "c"])
LEAVES = st.one_of(st.integers(min_value=0, max_value=3), st.text(max_size=2), st.lists(st.integers(), max_size=2))
TREES = st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, max_size=3), max_leaves=8)
CONFIGS = st.dictionaries(st.sampled_from(["callbacks", "logger", "trainer"]), TREES)


@given(CONFIGS, CONFIGS)
def test_without_fixed_keys_the_result_is_the_new_configuration(old, new):
    old, new = {"task_name": "train", **old}, {"task_name": "train", **new}
    merged = merging.merge(OmegaConf.create(old), OmegaConf.create(old), OmegaConf.create(new), list(new))
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
def test_paths_follow_a_run_that_was_moved(old, new):
    places = {"output_dir": "/clone/logs/run", "root_dir": "/clone"}
    own = OmegaConf.create({"paths": places, "key": old})
    now = OmegaConf.create({"paths": {"output_dir": "/other/logs/run", "root_dir": "/other"}})
    found = values(merging.follow_moved_paths(own, now))
    assert found == {"paths": values(now.paths), "key": new}
    assert values(own) == {"paths": places, "key": old}


def test_a_run_can_be_moved_out_of_its_clone():
    own = OmegaConf.create(
        {"paths": {"output_dir": "/clone/run", "root_dir": "/clone"}, "a": "/clone/run/x", "b": "/clone/y"}
    )
    now = OmegaConf.create({"paths": {"output_dir": "/archive/run", "root_dir": "/clone"}})
    found = values(merging.follow_moved_paths(own, now))
    assert (found["a"], found["b"]) == ("/archive/run/x", "/clone/y")


def test_flatten_returns_leaves_by_dotted_keys():
    tree = {"a": {"b": 1, "c": {}, "d": [1, {"e": 2}]}, "f": None}
    assert merging.flatten(OmegaConf.create(tree)) == {"a.b": 1, "a.c": {}, "a.d": [1, {"e": 2}], "f": None}


def test_changes_are_described_with_old_and_new_values():
    changes = {"model.lr": (0.1, 0.2), "tags": (None, ["a"])}
    assert merging.describe(changes) == "model.lr (0.1 to 0.2), tags (None to ['a'])"


def test_texts_with_dollars_are_texts():
    values = {"a": "${b}", "c": ["\\${d}", {"e": "x${f.g}"}], "h": 1, "i": None, 2: "${"}
    config = merging.as_config(values)
    assert OmegaConf.to_container(config, resolve=True) == values
    moved = merging.follow_moved_paths(
        merging.as_config({"paths": {"output_dir": "/a/${x}", "root_dir": "/r"}, "file": "/a/${x}/b"}),
        merging.as_config({"paths": {"output_dir": "/a/${y}", "root_dir": "/r"}}),
    )
    assert moved.file == "/a/${y}/b"


def test_a_key_that_a_newer_version_adds_is_not_an_edit():
    now = composed(checkpoint__audit="warn")
    merged = merge(now, before=now)
    assert merged.edited == {}
    assert "audit" not in merged.config.checkpoint
    edited = composed(checkpoint__audit="error", callbacks__mine={"a": 1})
    assert merge(edited, before=edited).edited == {"checkpoint.audit": (None, "error"), "callbacks.mine.a": (None, 1)}


def test_a_key_that_a_newer_version_adds_can_be_set():
    before, now = composed(checkpoint__audit="warn"), composed(checkpoint__audit="off")
    merged = merge(now, "checkpoint.audit", before=before)
    assert merged.config.checkpoint.audit == "off"
