"""What a run prints at its start and at its end."""

import io
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tests.support.values import at, saved

from cairn.run import summary
from cairn.run.summary import RunReport

SAVED = [
    saved(0, 0.25, position=at(8, total=8, step=4), reasons=("interval", "best"), num_bytes=1_500_000),
    saved(1, None, position=at(3, epoch=1, total=11, step=6), reasons=("signal",), num_bytes=1_500_000),
]


def shown(show, *args, width=160):
    """Return the printed lines without trailing spaces."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    show(*args, console)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def report(run, **facts):
    plain = {"status": "finished", "saved": SAVED, "best": SAVED[0].name, "monitor": "val/loss"}
    return RunReport(**{"run": run, "checkpoints": run / "checkpoints", **plain, **facts})


def cells(lines, start):
    (line,) = [line for line in lines if line.lstrip().startswith(start)]
    return line.split()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_checkpoint_has_a_row_that_says_why_it_was_saved(here):
    lines = shown(summary.show_report, report(here / "logs" / "run"))
    assert lines[0] == "logs/run/checkpoints"
    assert cells(lines, "file") == ["file", "step", "saved", "because", "val/loss", "size", "link"]
    first, second = SAVED
    assert cells(lines, first.name) == [first.name, "4", "interval,", "best", "0.25", "1.5", "MB", "best"]
    assert cells(lines, second.name) == [second.name, "6", "signal", "1.5", "MB", "last"]


@pytest.mark.parametrize("width", [80, 110])
@pytest.mark.parametrize("monitor", ["val/loss", "val/loss/dataloader_idx_1", "val/" + "long_" * 20 + "name"])
def test_a_narrow_terminal_cuts_the_name_of_the_metric_and_nothing_else(here, width, monitor):
    found = [replace(SAVED[0], reasons=("interval", "best", "end"), num_bytes=151_000_000)]
    shows = report(here, monitor=monitor, saved=found, best=found[0].name)
    text = "\n".join(shown(summary.show_report, shows, width=width))
    for cell in (found[0].name, "interval,", "best", "end", "0.25", "151 MB", "best last", "file", "because", "link"):
        assert cell in text


def test_of_many_checkpoints_the_newest_and_the_best_are_shown(here):
    found = [saved(number, 1.0 - number / 100) for number in range(50)]
    lines = shown(summary.show_report, report(here / "logs" / "a b", saved=found, best=found[7].name))
    names = [line.split()[0] for line in lines if line.strip().startswith("epoch_")]
    assert names == [found[7].name, *(item.name for item in found[-20:])]
    assert "29 more: cairn ls 'logs/a b'" in lines


def test_one_checkpoint_can_be_best_and_last(here):
    lines = shown(summary.show_report, report(here, saved=SAVED[:1]))
    assert cells(lines, SAVED[0].name)[-2:] == ["best", "last"]


def test_without_a_monitored_metric_the_column_is_called_score(here):
    lines = shown(summary.show_report, report(here, monitor=None, best="", saved=SAVED[1:]))
    assert "score" in cells(lines, "file")
    assert not [line for line in lines if line.startswith("best")]


def test_scores_costs_and_the_command_to_resume_are_shown(here):
    facts = {"test": {"test/acc": 0.98765, "test/loss": 0.1}, "num_saves": 12, "stall_s": 1.5}
    facts |= {"overhead": 0.0512, "at_risk_s": 200.0}
    lines = shown(summary.show_report, report(here / "logs" / "run", **facts, more="trainer.max_epochs=6"))
    assert cells(lines, "run ")[1:] == ["logs/run", "(finished)"]
    assert " ".join(cells(lines, "best ")) == "best val/loss 0.25 at epoch 0, batch 8"
    assert " ".join(cells(lines, "test ")) == "test test/acc 0.9877, test/loss 0.1"
    assert " ".join(cells(lines, "saving")) == "saving 12 saves, overhead 5.1 %, training paused for 1.5 s"
    assert " ".join(cells(lines, "at risk")) == "at risk 3.33 min of work, on average"
    assert " ".join(cells(lines, "resume")) == "resume python train.py resume=logs/run trainer.max_epochs=6"


@pytest.mark.parametrize(
    ("training_s", "expected"),
    [
        (60.0, "training paused for 1.5 s in 60 s"),
        (599.0, "training paused for 1.5 s in 9.98 min"),
        (600.0, "overhead 12 %, training paused for 1.5 s"),
        (None, "overhead 12 %, training paused for 1.5 s"),
    ],
)
def test_the_cost_of_a_short_run_is_not_a_share(here, training_s, expected):
    lines = shown(summary.show_report, report(here, num_saves=12, stall_s=1.5, overhead=0.12, training_s=training_s))
    assert " ".join(cells(lines, "saving")) == f"saving 12 saves, {expected}"


def test_failed_and_skipped_saves_are_counted(here):
    lines = shown(summary.show_report, report(here, num_saves=3, num_failed=2, num_skipped=4))
    assert "3 saves (2 failed, 4 skipped), " in " ".join(cells(lines, "saving"))


def test_one_save_is_singular(here):
    lines = shown(summary.show_report, report(here, num_saves=1))
    assert cells(lines, "saving")[1:3] == ["1", "save,"]


def test_a_stopped_run_resumes_without_further_overrides(here):
    lines = shown(summary.show_report, report(here / "run", status="stopped by SIGTERM"))
    assert " ".join(cells(lines, "run ")) == "run run (stopped by SIGTERM)"
    assert " ".join(cells(lines, "resume")) == "resume python train.py resume=run"


def test_a_run_without_checkpoints_has_no_table_and_no_command(here):
    lines = shown(summary.show_report, report(here / "run", saved=(), best=""))
    assert [line.split()[0] for line in lines] == ["run"], "and nothing to go on from"


@pytest.mark.parametrize("name", ["sizes=[a,b]", "[bold]", "x=[/data/x]"])
def test_brackets_in_a_path_are_not_markup(here, name):
    lines = shown(summary.show_report, report(here / name))
    assert lines[0] == f"{name}/checkpoints"
    assert name in " ".join(cells(lines, "run "))
    assert f"resume={name}" in " ".join(cells(lines, "resume"))  # quoted for the shell as a whole


@pytest.mark.parametrize("name", ["run", "a b", "seed=1,lr=0.1", "it's"])
def test_the_command_can_be_pasted_into_a_shell(here, name):
    line = summary.command(here / name, "trainer.max_epochs=5")
    assert shlex.split(line) == ["python", "train.py", f"resume={name}", "trainer.max_epochs=5"]


@pytest.mark.parametrize("name", ["latest", "last", "auto", "null"])
def test_a_directory_whose_name_has_another_meaning_is_named_as_a_path(here, name):
    assert summary.command(here / name) == f"python train.py resume=./{name}"


@pytest.mark.parametrize(
    ("script", "shown"), [("train.py", "train.py"), ("sub/own.py", "sub/own.py"), ("no.py", "train.py")]
)
def test_commands_are_for_the_shell_and_not_for_the_directory_of_the_process(here, monkeypatch, script, shown):
    (here / "sub").mkdir()
    (here / "train.py").touch()
    (here / "sub" / "own.py").touch()
    monkeypatch.chdir(here / "sub")
    with summary.typed_in(here, here / script):
        assert summary.command(here / "logs" / "run") == f"python {shown} resume=logs/run"
        assert summary.relative(here / "sub" / "a") == "sub/a"
    assert summary.relative(here / "sub" / "a") == "a"


def test_the_script_of_the_project_is_found_from_elsewhere(here, monkeypatch):
    run = here / "project" / "logs" / "run"
    run.mkdir(parents=True)
    (here / "project" / "train.py").touch()
    monkeypatch.chdir(here)
    assert summary.command(run) == "python project/train.py resume=project/logs/run"


def test_paths_are_relative_to_the_current_directory(here):
    assert summary.relative(here / "logs" / "run") == "logs/run"
    assert summary.relative(here.parent / "elsewhere") == str(here.parent / "elsewhere")


def test_the_configuration_starts_with_the_main_groups():
    groups = {"trainer": {"max_epochs": 3}, "model": {"lr": 0.1}}
    config = {**groups, "extra": 1, "seed": 0, "task_name": "train", "tags": []}
    lines = shown(summary.show_config, config)
    heads = [line.split("── ")[1] for line in lines if line.startswith(("├", "└"))]
    assert heads == ["task_name: train", "seed: 0", "model", "trainer", "extra: 1", "tags: []"]
    assert any(line.endswith("lr: 0.1") for line in lines)


def test_brackets_in_the_configuration_are_not_markup():
    assert any("a[b]" in line for line in shown(summary.show_config, {"task_name": "a[b]"}))


def test_a_value_that_yaml_does_not_know_is_shown_as_text():
    lines = shown(summary.show_config, {"data": {"root": Path("a") / "b", "size": 3}})
    assert [line.split("  ")[-1].removeprefix("└── ") for line in lines[1:]] == ["data", "root: a/b", "size: 3"]


def test_the_address_of_a_mirror_is_shown(here):
    lines = shown(summary.show_report, report(here, mirror="s3://bucket/mine/run"))
    assert cells(lines, "mirror") == ["mirror", "s3://bucket/mine/run"]
    assert not any(line.startswith("mirror") for line in shown(summary.show_report, report(here)))
