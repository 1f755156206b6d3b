"""Keys of overrides, and the answers to keys that do not exist."""

import pytest

from cairn.errors import ConfigError
from cairn.hydra.command import overrides
from cairn.hydra.command.overrides import ANSWERS, check, key, merge, renamed
from cairn.policy.when import parse_interval

CONFIG = {
    "seed": 0,
    "checkpoint": {"save_interval": 50, "keep_last": 2, "own": None, "save_steps": 3},
    "trainer": {"max_epochs": 3, "precision": "32-true"},
    "data": {"batch_size": 4},
    "model": {"optimizer": {"lr": 0.1}},
}
KNOWN = {*CONFIG, "hydra", "paths"}


def refused(*given, config=CONFIG):
    with pytest.raises(ConfigError) as caught:
        check(given, KNOWN, lambda options: config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=1", "seed"),
        ("trainer.max_epochs=3", "trainer.max_epochs"),
        ("+trainer.max_epochs=3", "trainer.max_epochs"),
        ("++trainer.max_epochs=3", "trainer.max_epochs"),
        ("~callbacks.stopping", "callbacks.stopping"),
        ("~callbacks.stopping=null", "callbacks.stopping"),
        ("checkpoint=interval", "checkpoint"),
        ("model/optimizer=sgd", "model/optimizer"),
        ("tags=[a=b,c]", "tags"),
        ("hydra.run.dir='a=b'", "hydra.run.dir"),
        ("-m", "-m"),
    ],
)
def test_the_key_of_an_override(override, expected):
    assert key(override) == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([], [], []),
        (["a=1", "b=2"], [], ["a=1", "b=2"]),
        ([], ["a=1"], ["a=1"]),
        (["a=1", "b=2"], ["a=3"], ["b=2", "a=3"]),
        (["a=1", "b=2"], ["b=2"], ["a=1", "b=2"]),
        (["+a.x=1", "b=2"], ["++a.x=3"], ["b=2", "++a.x=3"]),
        (["+a.x=1", "b=2"], ["~a.x"], ["+a.x=1", "b=2", "~a.x"]),  # else there would be nothing to delete
        (["+a.x=1", "~a.x"], ["~a.x"], ["+a.x=1", "~a.x"]),
        (["+a.x=1", "~a.x"], ["+a.x=2"], ["+a.x=2"]),
        (["a.x=1"], ["~a.x"], ["~a.x"]),
        (["a.b=1"], ["a=2"], ["a.b=1", "a=2"]),  # a group and a key in it are different things
        (["ab=1"], ["a=2"], ["ab=1", "a=2"]),
    ],
)
def test_the_new_overrides_win(old, new, expected):
    assert merge(old, new) == expected


@pytest.mark.parametrize("prefix", ["", "+", "++"])
@pytest.mark.parametrize("group", ["", "checkpoint.", "trainer."])  # where `+` does not add an argument of the user's
@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("save_total_limit", "checkpoint.keep_last"),
        ("every_n_train_steps", "checkpoint.save_interval"),
        ("every_n_epochs", 'checkpoint.save_interval="1ep"'),
        ("save_last", "last.ckpt always points to the newest checkpoint"),
        ("save_on_train_epoch_end", "1ep"),
        ("resume_from_checkpoint", "resume=RUN_DIR"),
        ("max_ckpts", "checkpoint.keep_last"),
    ],
)
def test_a_key_of_another_framework_is_answered_with_ours(prefix, group, name, ours):
    text = refused(f"{prefix}{group}{name}=3")
    assert text.startswith(f"{group}{name} is a key of another framework: here, ")
    assert ours in text


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("max_epochs=3", "max_epochs is a key of trainer: trainer.max_epochs=3."),
        ("keep_last=5", "keep_last is a key of checkpoint: checkpoint.keep_last=5."),
        ("batch_size=8,16", "batch_size is a key of data: data.batch_size=8,16."),
    ],
)
def test_a_key_without_its_group_is_answered_with_the_group(given, answer):
    assert refused("seed=1", given) == answer


@pytest.mark.parametrize(
    "name", ["model.lr", "data.lr", "optimizer.lr", "model.optimizer.learning_rate", "model.optimizer.net.lr"]
)
def test_a_key_of_another_framework_is_answered_in_any_group(name):
    assert refused(f"{name}=3") == f"{name} is a key of another framework: here, {ANSWERS['lr']}."


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ("trainer.batch_size=4", "data.batch_size=4"),
        ("+trainer.batch_size=4", "data.batch_size=4"),
        ("model.batch_size=4", "data.batch_size=4"),
        ("data.max_epochs=4", "trainer.max_epochs=4"),
        ("callbacks.model_checkpoint.keep_last=4", "checkpoint.keep_last=4"),
    ],
)
def test_a_key_in_a_wrong_group_is_answered_with_its_group(given, ours):
    name, last = key(given), ours.partition("=")[0]
    group, _, last = last.partition(".")
    assert refused(given) == f"{name} does not exist; {last} is a key of {group}: {ours}."


def test_save_top_k_is_answered_even_where_the_preset_does_not_have_it():
    answer = "save_top_k is a key of checkpoint=best-val and checkpoint=combined: checkpoint.save_top_k=K keeps the K"
    assert refused("save_top_k=3").startswith(answer)
    for name in ("trainer.save_top_k", "callbacks.model_checkpoint.save_top_k"):
        assert refused(f"{name}=3").startswith(f"{name} does not exist; {answer}")


def test_a_key_that_is_a_group_itself_is_not_recommended_with_a_value():
    check(["optimizer=adam"], KNOWN, lambda options: CONFIG)


@pytest.mark.parametrize(
    "given", ["+model.lr=3", "++data.period=3", "+callbacks.mine.filename=a", "+model.max_steps=3"]
)
def test_an_argument_may_be_added_to_a_class_of_the_user(given):
    check([given], KNOWN, lambda options: CONFIG)


def test_keys_that_the_project_has_are_left_to_it():
    def compose(options):
        return {**CONFIG, "lr": None}

    check(["checkpoint.save_steps=5", "lr=3", "+seed=3", "model.optimizer.lr=2"], KNOWN, compose)


@pytest.mark.parametrize(
    "given",
    [
        *("seed=1", "checkpoint=interval", "model/optimizer=sgd", "~data", "hydra.mode=RUN", "trainer.lr=1.5e", "-m"),
        *("model.optimizer.lr=3", "data.batch_size=3", "trainer.max_epochs=3", "checkpoint.save_top_k=3"),
        *("model.net.dropout=0.5", "callbacks.early_stopping.patience=3"),
    ],
)
def test_nothing_is_composed_for_known_keys(given):
    asked = []
    check([given], KNOWN, asked.append)
    assert asked == [] or given == "trainer.lr=1.5e"


def test_an_unknown_key_is_left_to_hydra():
    check(["foo=1", "+foo=1"], KNOWN, lambda options: CONFIG)
    check(["save_steps=1"], KNOWN, lambda options: None)


def test_options_are_composed_without_the_keys_in_question():
    asked = []
    check(["checkpoint=interval", "save_steps=1", "seed=1,2", "data.batch_size=3"], KNOWN, asked.append)
    assert asked == [["checkpoint=interval"]]


def test_the_intervals_in_the_answers_are_valid():
    for answer in ANSWERS.values():
        for text in ("1ep", "0.25ep", "200st", "10min"):
            if f'"{text}"' in answer:
                parse_interval(text)


def test_a_renamed_key_is_accepted_with_a_warning(monkeypatch, capsys):
    monkeypatch.setattr(overrides, "RENAMED", {"a.old": "a.new", "group=old": "group=new"})
    given = ["a.old=1", "+a.old=2", "~a.old", "group=old", "group=other", "b=a.old"]
    assert renamed(given) == ["a.new=1", "+a.new=2", "~a.new", "group=new", "group=other", "b=a.old"]
    assert capsys.readouterr().err.splitlines()[0] == "Warning: a.old=1 has been renamed; use a.new=1."


def test_interpolations_of_a_run_directory_do_not_call_resolvers_or_read_the_environment():
    calls, reads = "model.width=${eval:1+1}", "+tags=[${oc.env:SECRET}]"
    fine = ["a=${b}", "c=${oc.env:PROJECT_ROOT}/x", "d='${now:%Y}'"]
    built = "e=${oc.decode:'${a}{eval:1}'}"
    assert overrides.recorded([*fine, calls, reads, built, "hydra.x=1"]) == tuple(fine)
    assert overrides.recorded([calls, reads, *fine], typed=[reads]) == (reads, *fine)
