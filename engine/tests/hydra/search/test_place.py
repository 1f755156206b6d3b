"""Which directory a search has: a new one, or that of the same command, which was killed."""

from dataclasses import replace

import pytest
from omegaconf import OmegaConf
from tests.support.searches import search

from cairn.errors import ConfigError
from cairn.hydra.search import place
from cairn.search import state


def config(folder, *typed, task=("lr=interval(0,1)",)):
    made = OmegaConf.create(
        {"hydra": {"sweep": {"dir": str(folder)}, "overrides": {"task": list(task), "hydra": list(typed)}}}
    )
    OmegaConf.set_readonly(made.hydra, True)
    OmegaConf.set_struct(made, True)
    return made


TYPED = ("hydra.mode=MULTIRUN", "hydra/sweeper=halving", "hydra/launcher=slurm", "hydra.launcher.partition=a")


def test_the_launcher_is_not_part_of_a_command():
    assert place.command(config("x", *TYPED, "hydra.sweep.dir=x")) == ("lr=interval(0,1)", "hydra/sweeper=halving")


def test_a_new_search_keeps_its_directory_for_its_jobs(tmp_path):
    given = config(tmp_path / "new", *TYPED)
    place.choose(given).close()
    assert given.hydra.sweep.dir == str(tmp_path / "new")
    assert given.hydra.overrides.hydra[-1] == f"hydra.sweep.dir='{tmp_path / 'new'}'"


def test_the_same_command_goes_on(tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "old").mkdir()
    state.write(tmp_path / "old", search(command=place.command(config("x", *TYPED))))
    given = config(tmp_path / "new", *TYPED[:2], "hydra/launcher=basic")
    place.choose(given).close()
    assert given.hydra.sweep.dir == str(tmp_path / "old")
    assert "This search goes on:" in caplog.text
    assert not (tmp_path / "new").exists()
    other = config(tmp_path / "new", *TYPED, task=("lr=interval(0,2)",))
    place.choose(other).close()
    assert other.hydra.sweep.dir == str(tmp_path / "new")


def test_a_directory_that_was_typed_is_used(tmp_path):
    (tmp_path / "old").mkdir()
    typed = (*TYPED, f"hydra.sweep.dir={tmp_path / 'mine'}")
    state.write(tmp_path / "old", search(command=place.command(config("x", *typed))))
    given = config(tmp_path / "mine", *typed)
    place.choose(given).close()
    assert given.hydra.sweep.dir == str(tmp_path / "mine")
    assert list(given.hydra.overrides.hydra) == list(typed)


def test_another_search_in_the_directory_is_refused(tmp_path):
    new = search()
    assert place.known(tmp_path, new) == new
    state.write(tmp_path, replace(new, state="finished"))
    assert place.known(tmp_path, new).state == "finished"
    with pytest.raises(ConfigError, match=r"holds a search with rungs=\['1ep', '3ep', 'end'\], and with today"):
        place.known(tmp_path, search(rungs=("2ep", "end")))
    with pytest.raises(ConfigError, match=r"whose command differs in lr=\.\.\. seed=1: repeat its command"):
        place.known(tmp_path, search(command=("seed=1",)))


def test_an_edit_of_the_configuration_of_a_search_is_logged(tmp_path, caplog):
    def given(width):
        return OmegaConf.create(
            {"model": {"width": width}, "hydra": {"sweep": {"dir": str(tmp_path)}, "verbose": width}}
        )

    place.save_config(given(8))
    place.save_config(given(8), is_begun=True)
    assert not caplog.records
    for _ in range(2):  # the file stays that of the beginning
        caplog.clear()
        place.save_config(given(16), is_begun=True)
        assert "Edited in configs/ since this search began: model.width (8 to 16)." in caplog.text
    place.save_config(given(16))
    assert OmegaConf.load(tmp_path / "multirun.yaml").model.width == 16
