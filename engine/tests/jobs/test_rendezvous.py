"""Processes that were started together meet in the run directory; what an earlier start left there is ignored."""

import threading

import pytest

from cairn.jobs import rendezvous
from cairn.jobs.rendezvous import Rank, Rendezvous, own_rank

FACTS = {"config": "c", "run": "r", "start": None}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Rank()),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0"}, Rank()),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, Rank()),  # a batch script, and no srun
        (
            {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_STEP_ID": "0"},
            Rank(1, 2, "7-0-0"),
        ),
        (
            {
                "SLURM_JOB_ID": "7",
                "SLURM_NTASKS": "2",
                "SLURM_PROCID": "0",
                "SLURM_STEP_ID": "3",
                "SLURM_RESTART_COUNT": "2",
            },
            Rank(0, 2, "7-2-3"),
        ),
        (
            {
                "TORCHELASTIC_RUN_ID": "x",
                "TORCHELASTIC_RESTART_COUNT": "1",
                "MASTER_ADDR": "h",
                "MASTER_PORT": "9",
                "RANK": "3",
                "WORLD_SIZE": "4",
            },
            Rank(3, 4, "x-h-9"),
        ),
    ],
)
def test_the_rank_is_read_from_the_environment(environ, expected):
    assert own_rank(environ) == expected


def test_a_single_process_writes_nothing(tmp_path):
    Rendezvous(tmp_path, Rank()).announce(FACTS)
    assert list(tmp_path.iterdir()) == []


def test_the_others_wait_longer_while_the_first_is_at_work(tmp_path, monkeypatch):
    monkeypatch.setattr(rendezvous, "_SIGN_S", 0.01)
    monkeypatch.setattr(rendezvous, "_POLL_S", 0.01)
    now = iter(range(0, 10**9, 100))  # a clock in which each look takes 100 s
    monkeypatch.setattr(rendezvous.time, "monotonic", lambda: next(now))
    first, looks, real = Rendezvous(tmp_path, Rank(0, 2, "a")), [], Rendezvous._seen

    def look(self):
        looks.append(real(self))
        if len(looks) == 40:
            first.announce(FACTS)
        return len(looks)  # a new sign at each look

    monkeypatch.setattr(Rendezvous, "_seen", look)
    with first.deciding():
        assert Rendezvous(tmp_path, Rank(1, 2, "a")).wait(patience_s=250.0) == FACTS
    assert any(looks)
    assert [path.name for path in tmp_path.iterdir()] == [".start.json"]
    monkeypatch.setattr(Rendezvous, "_seen", lambda self: None)
    with pytest.raises(TimeoutError, match="has waited 250 s"):
        Rendezvous(tmp_path, Rank(1, 2, "b")).wait(patience_s=250.0)


def test_the_other_processes_wait_for_the_first(tmp_path):
    found = []
    other = threading.Thread(target=lambda: found.append(Rendezvous(tmp_path, Rank(1, 2, "a")).wait()))
    other.start()
    Rendezvous(tmp_path, Rank(0, 2, "before")).announce({**FACTS, "run": "old"})
    first = Rendezvous(tmp_path, Rank(0, 2, "a"))
    first.announce(FACTS)
    other.join()
    first.announce(None)
    assert found == [FACTS]
    assert Rendezvous(tmp_path, Rank(1, 2, "a")).wait() == FACTS, "what was announced first counts"


def test_a_process_that_waits_helps_the_first_one_meanwhile(tmp_path):
    first, asked = Rendezvous(tmp_path, Rank(0, 2, "a")), []

    def help_twice():
        asked.append(None)
        if len(asked) == 2:
            first.announce(FACTS)

    assert Rendezvous(tmp_path, Rank(1, 2, "a")).wait(meanwhile=help_twice) == FACTS
    assert len(asked) == 2


def test_the_first_process_may_announce_that_there_is_nothing_to_take_part_in(tmp_path):
    Rendezvous(tmp_path, Rank(0, 2, "a")).announce(None)
    assert Rendezvous(tmp_path, Rank(1, 2, "a")).wait() is None


@pytest.mark.parametrize("text", ["", "{", '{"start": "before", "facts": null}'])
def test_a_first_process_that_never_starts_is_an_error(tmp_path, text):
    (tmp_path / ".start.json").write_text(text)
    with pytest.raises(TimeoutError, match="Process 1 has waited"):
        Rendezvous(tmp_path, Rank(1, 2, "a")).wait(patience_s=0.2)
