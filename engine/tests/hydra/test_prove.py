"""The command line of `prove=true`, and what is different in a run of a proof."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import OmegaConf

import cairn
from cairn.errors import ConfigError
from cairn.hydra import prove
from cairn.hydra.command import arguments, overrides
from cairn.hydra.parse.settings import CheckpointSettings
from cairn.hydra.run import proving
from cairn.testing import proof_run
from cairn.testing.proof_run import ProofRun


@pytest.fixture
def given(tmp_path, monkeypatch):
    """The order of this process, until the end of the test."""
    found = ProofRun(tmp_path / "run", "undisturbed", 2, 6, 2, kill_after=3)
    monkeypatch.setattr(proof_run, "_current", (found,))
    return found


def config(**trainer):
    return OmegaConf.create(
        {
            "train": True,
            "trainer": {"max_epochs": 15, "default_root_dir": "/elsewhere", **trainer},
            "logger": {"wandb": {"_target_": "cairn.wandb.WandbLogger"}},
            "checkpoint": {"dirpath": "/elsewhere"},
        }
    )


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["prove=true"], True),
        (["+prove=True", "seed=1"], True),
        (["prove=true", "prove=false"], False),
        (["prove='true'"], True),
        (["prove=false"], False),
        (["model.prove=true"], False),
        (["approve=true"], False),
        ([], False),
    ],
)
def test_the_last_override_decides(argv, expected):
    assert overrides.asks_for_proof(argv) is expected


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["-m", "seed=1,2"], "leave out -m"),
        (["--cfg", "job"], "leave out --cfg"),
        (["resume=logs/a"], "leave out resume=logs/a"),
        (["+resume=logs/a"], "leave out resume=logs/a"),
        (["eval=logs/a"], "leave out eval=logs/a"),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_what_is_not_one_training_exits_with_2(capsys, argv, words, flags):
    assert prove.main(Path("train.py"), ["prove=true", *argv, *flags]) == 2
    output = capsys.readouterr()
    assert words in output.err
    if flags:
        assert words in json.loads(output.out)["error"]


def test_a_directory_that_is_in_use_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert prove.main(Path("train.py"), ["prove=true", f"--keep={tmp_path}"]) == 2
    assert "it exists already" in capsys.readouterr().err


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied", "/proc/x"), KeyError("a")])
def test_an_error_of_any_kind_is_not_a_verdict(monkeypatch, capsys, error):
    def fails(*arguments):
        raise error

    monkeypatch.setattr(prove, "_prove", fails)
    assert prove.main(Path("train.py"), ["prove=true", "--json"]) == 2
    output = capsys.readouterr()
    assert json.loads(output.out)["exact"] is None
    assert output.err.splitlines()[-1].startswith("Error: ")
    assert ("Traceback" in output.err) is isinstance(error, KeyError)


def test_a_directory_of_a_run_is_left_out_and_named():
    shown = []
    assert prove._checked(["prove=true", "hydra.run.dir=logs/a", "seed=1"], shown.append) == ["seed=1"]
    assert "hydra.run.dir=logs/a is left out" in shown[0]


@pytest.mark.parametrize("name", ["a\\", "${x}", "it's"])
def test_the_directory_of_a_run_reaches_hydra_as_it_is(tmp_path, name):
    calls = []
    processes = SimpleNamespace(run=lambda given, argv: calls.append(argv))
    prove._Commands(processes, ["seed=1"])(ProofRun(tmp_path / name, "killed"), is_resumed=False)
    assert calls == [["seed=1", "hydra.mode=RUN", arguments.run_dir(tmp_path / name)]]


def test_help_shows_the_flags(capsys):
    with pytest.raises(SystemExit) as leave:
        prove.main(Path("train.py"), ["prove=true", "--help"])
    assert leave.value.code == 0
    assert "--stops N" in capsys.readouterr().out


def test_an_ordinary_run_is_not_changed():
    composed, group = config(), CheckpointSettings(Path("a"), {"interval": cairn.Every("1h")})
    assert proving.config(composed) is composed
    assert proving.checkpoint(group) is group
    assert proving.options({"max_epochs": 9}) == {"max_epochs": 9}


def test_a_run_of_a_proof_writes_to_its_directory_only(given):
    found = proving.config(config(max_time="1h"))
    assert set(found.logger) == {"csv"}
    for path in (found.logger.csv.save_dir, found.checkpoint.dirpath, found.trainer.default_root_dir):
        assert Path(path).is_relative_to(given.directory)
    assert (found.trainer.max_epochs, found.trainer.max_time) == (2, None)
    assert found.predict is False
    notes = " ".join(given.notes)
    for words in ("max_time=1h", "wandb is left out", "after epoch 2 and after batch 6"):
        assert words in notes
    assert "other ranks" not in notes


DDP, FSDP = "lightning.pytorch.strategies.DDPStrategy", "cairn.FSDP2Strategy"
PROCESSES = {
    "DDP": ({"devices": 4, "strategy": "ddp"}, (4, 1, "ddp"), "attributes and states of callbacks on other ranks"),
    "DDP by itself": ({"devices": 2}, (2, 1, "auto"), "attributes and states of callbacks on other ranks"),
    "a class": ({"devices": 2, "strategy": {"_target_": DDP}}, (2, 1, {"_target_": DDP}), "other ranks"),
    "FSDP2": ({"devices": 2, "strategy": {"_target_": FSDP}}, (2, 1, {"_target_": FSDP}), "other ranks"),
    "nodes": ({"devices": 2, "num_nodes": 3, "strategy": "ddp"}, (2, 1, "ddp"), "several nodes: .* is 1 here"),
    "nodes as they are": ({"devices": 2, "num_nodes": "auto"}, (2, "auto", "auto"), "other ranks"),
    "a part of the model": ({"devices": 4, "strategy": "fsdp"}, (1, 1, "auto"), r"strategy=fsdp: .* with one process"),
}


@pytest.mark.parametrize("case", PROCESSES)
def test_processes_of_a_run_are_those_of_its_proof_if_their_facts_can_be_read_here(given, case):
    trainer, expected, words = PROCESSES[case]
    found = OmegaConf.to_container(proving.config(config(**trainer)).trainer)
    assert (found["devices"], found.get("num_nodes", 1), found.get("strategy", "auto")) == expected
    assert re.search(words, " ".join(given.notes))


def test_a_process_that_lightning_starts_for_a_run_of_a_proof_takes_part(monkeypatch, given):
    assert proof_run.current() is given
    monkeypatch.setattr(proof_run, "_current", ())
    monkeypatch.delenv(proof_run.VARIABLE, raising=False)
    proof_run.give(given)
    monkeypatch.setattr(proof_run, "_current", ())
    assert proof_run.current() is None, "another training that the project starts is an ordinary one"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert proof_run.current() == given


@pytest.mark.parametrize(("window", "batches"), [(1, 6), (4, 6), (16, 17)])
def test_a_window_of_gradients_ends_inside_of_a_short_epoch(given, window, batches):
    found = proving.config(config(accumulate_grad_batches=window))
    assert found.trainer.limit_train_batches == batches


@pytest.mark.parametrize(("change", "words"), [({"train": False}, "train=false"), ({}, "fast_dev_run")])
def test_a_run_that_does_not_train_is_refused(given, change, words):
    composed = config(fast_dev_run=not change)
    composed.update(change)
    with pytest.raises(ConfigError, match=words):
        proving.config(composed)


def test_a_run_that_saves_nothing_is_refused(given):
    with pytest.raises(ConfigError, match="checkpoint=none saves nothing that could be resumed: choose another preset"):
        proving.checkpoint(CheckpointSettings(Path("a")))


@pytest.mark.parametrize(
    ("triggers", "added"), [({"signal": cairn.OnStop()}, ["prove_end"]), ({"x": cairn.AtEnd()}, [])]
)
def test_all_runs_test_a_checkpoint_of_their_end(given, triggers, added):
    found = proving.checkpoint(CheckpointSettings(Path("a"), triggers)).triggers
    assert [name for name in found if name not in triggers and name != proof_run.TRIGGER] == added


@pytest.mark.parametrize("interval", ["1h", "auto", 50, "50ba", "100st", "4ep"])
def test_saves_come_soon_and_do_not_depend_on_the_time(given, interval):
    group = CheckpointSettings(Path("a"), {"interval": cairn.Every(interval), "mine": cairn.AtEnd()})
    found = proving.checkpoint(group)
    values = vars(found.triggers["interval"])
    assert list(values.values()) in ([3], [1])
    assert found.triggers["mine"] is group.triggers["mine"]
    assert not found.triggers["prove"].lasting
    assert (found.writing.writer, found.writing.when_busy) == ("sync", "wait")


def test_arguments_in_train_py_are_treated_alike(given):
    found = proving.options({"devices": 2, "strategy": {"_target_": "a.DDPStrategy"}})
    assert found == {"devices": 1, "strategy": "auto"}
    assert given.notes == ["trainer.strategy=a.DDPStrategy: it is auto here, with one process"]
    assert proving.options({"devices": 2, "strategy": DDPStrategy()}).keys() == {"devices", "strategy"}
    assert proving.options({"strategy": object()})["strategy"] == "auto"
    assert proving.config(config(strategy={"_target_": "a.DDPStrategy"})).trainer.strategy == "auto"
    with pytest.raises(ConfigError, match="fast_dev_run"):
        proving.options({"fast_dev_run": True})


def test_arguments_in_train_py_are_shortened_too(given):
    found = proving.options({"max_epochs": 100, "logger": object(), "callbacks": 1})
    assert found == {"max_epochs": 2, "callbacks": 1}
