"""A search is read with the progress of the trials that train, or that failed."""

import json

from tests.support.made_searches import record as made
from tests.support.made_searches import search_directory

from cairn.study.search import reading
from cairn.study.search.curves import Curve


def test_trials_that_train_or_failed_count_as_far_as_they_came(tmp_path):
    found = made(4)
    found["trials"][0]["state"], found["trials"][1]["state"] = "running", "failed"
    search_directory(tmp_path, found)
    progress = {"epoch": 1, "batch": 5, "total_batches": 20, "step": 20, "elapsed_s": 1.0, "at": 0.0}
    for number in (0, 1, 2):
        (tmp_path / f"trial={number}" / "progress.json").write_text(json.dumps(progress))
    assert reading.read(tmp_path).reached == {0: 20, 1: 20}


def test_a_trial_outside_of_the_sweep_has_no_curve(tmp_path):
    search_directory(tmp_path / "sweep", made(4))
    study = reading.read(tmp_path / "sweep")
    assert study.curve(study.search.trials[0]).batches[0] == 15
    found = made(4)
    found["trials"][0] |= {"directory": str(tmp_path / "sweep" / "trial=0"), "state": "failed"}
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(found))
    study = reading.read(tmp_path / "sweep")
    assert study.curve(study.search.trials[0]) == Curve()
    assert study.reached == {}
