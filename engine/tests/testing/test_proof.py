"""Where a proof stops a run, what it prints, and how it shortens a run."""

import json

import pytest

from cairn.testing import compare, proof, table
from cairn.testing.compare import Difference
from cairn.testing.cures import Advice
from cairn.testing.fresh import RunError
from cairn.testing.limits import shortened
from cairn.testing.proof import Proof, Stop, Trial


def report(epochs=2, batches=6, validations=(3, 6)):
    """A report with a boundary after each batch, and validations after some batches of each epoch."""
    positions, number = {}, 0
    for epoch in range(epochs):
        for batch in range(1, batches + 1):
            number += 1
            positions[str(number)] = [epoch, batch, batch == batches, batch in validations]
    return {"positions": positions, "batches": {number: {} for number in positions}}


def test_each_kind_of_boundary_is_tried():
    stops = {stop.where: stop for stop in proof.choose_stops(report(), 7, seed=0)}
    assert set(stops) == {
        "start of the run",
        "inside an epoch",
        "right before a validation",
        "right after a validation",
        "last batch of an epoch",
        "first batch of an epoch",
        "end of the run",
    }
    last = stops["last batch of an epoch"]
    assert (last.epoch, last.batch, last.after) == (0, 6, 6)


def test_more_stops_are_random_and_repeatable():
    first, again, other = (proof.choose_stops(report(), 10, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len({stop.after for stop in first}) == 10
    assert len(proof.choose_stops(report(), 100, 0)) == 12


def test_what_differs_on_another_rank_is_a_difference():
    def report(value):
        return {"batches": {"1": {"sample": {"training batch": "a"}, "generator": {"torch": value}}}, "rows": []}

    def of_two_ranks(value):
        found = report("same") | {"kept": []}
        compare.add_rank(found, 1, report(value))
        return found

    assert compare.first_difference(of_two_ranks("b"), of_two_ranks("b"), ()) is None
    found = compare.first_difference(of_two_ranks("b"), of_two_ranks("c"), ())
    assert found.what == "generator torch on rank 1 is c instead of b at batch 1."


def test_a_run_without_two_boundaries_is_refused():
    with pytest.raises(ValueError, match=r"The run has 1 boundaries .* train at least 2 optimizer steps"):
        proof.choose_stops(report(epochs=1, batches=1), 6, seed=0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"max_epochs": 15, "limit_train_batches": 1.0}, {"max_epochs": 2, "limit_train_batches": 6}),
        ({"max_epochs": -1, "min_epochs": 5}, {"max_epochs": 2, "min_epochs": 2}),
        ({"max_epochs": 1, "limit_train_batches": 3}, {"max_epochs": 1, "limit_train_batches": 3}),
        ({"limit_val_batches": 0}, {"limit_val_batches": 0}),
        ({"limit_val_batches": 1.0}, {"limit_val_batches": 2}),
        ({"val_check_interval": 1000}, {"val_check_interval": 3}),
        ({"val_check_interval": 1000, "check_val_every_n_epoch": None}, {"val_check_interval": 5}),
        ({"val_check_interval": 4}, {"val_check_interval": 4}),
        ({"val_check_interval": 0.1}, {"val_check_interval": 0.1}),
        ({"val_check_interval": "00:01:00:00"}, {"val_check_interval": 3}),
        ({"check_val_every_n_epoch": 5}, {"check_val_every_n_epoch": 1}),
    ],
)
def test_a_short_run_has_all_that_a_long_one_has(values, expected):
    assert expected.items() <= {**values, **shortened(values, 2, 6, 2)}.items()


def test_one_batch_is_not_mistaken_for_all_of_them():
    assert type(shortened({"limit_train_batches": 1.0}, 2, 1, 2)["limit_train_batches"]) is int


def test_what_is_not_compared_is_listed():
    noise = {("attribute", "Timer.started"), ("callback", "Timer.sum"), ("metric", "time")}
    whole = {**report(), "sampled": [f"Data.table_{number}" for number in range(12)]}
    found = proof.of_trials(whole, (), noise=noise)
    assert found.not_covered[:3] == (
        "attributes that differ between two undisturbed runs: Timer.started",
        "states of callbacks that differ between two undisturbed runs: Timer.sum",
        "metrics that differ between two undisturbed runs: time",
    )
    assert "Data.table_9 and 2 more" in found.not_covered[3]


LOST = Difference(2, "attribute", "Net.a", "attribute Net.a is 1 instead of 2 at batch 2.", Advice("Lost.", "Keep it."))
ALSO = Difference(2, "attribute", "Net.b", "attribute Net.b is 1 instead of 2 before batch 2.", Advice("Lost.", "B."))
TRIALS = (
    Trial(Stop(1, 0, 1, "first batch"), 3, (LOST, ALSO)),
    Trial(Stop(2, 0, 2, "inside an epoch"), 2, (LOST,)),
    Trial(Stop(4, 1, 2, "end of the run"), 0),
)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_screen_names_each_difference_once(width):
    text = table.as_text(Proof(TRIALS, None, 4, 2, ("several processes",)), width)
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    assert "batch 1 0/1 first batch see 1-2: attribute Net.a at batch 2" in words
    assert "batch 2 0/2 inside an epoch see 1: attribute Net.a at batch 2" in words
    assert "batch 4 1/2 end of the run equal" in words
    assert (
        "Killed after batch 1-2: attribute Net.a is 1 instead of 2 at batch 2. Likely cause: Lost. Cure: Keep" in words
    )
    assert text.count("Keep it.") == 1
    assert "Not exact: 2 of 3 resumed runs differ from the undisturbed one (4 boundaries in 2 epochs)." in words
    assert "- several processes" in words


def test_json_has_all_differences():
    value = json.loads(json.dumps(table.as_json(Proof(TRIALS, None, 4, 2))))
    assert value["exact"] is False
    assert [len(stop["differences"]) for stop in value["stops"]] == [2, 1, 0]
    assert value["stops"][0]["differences"][1]["cure"] == "B."
    assert table.as_json(Proof(TRIALS[2:], None, 4, 2))["exact"] is True


def test_two_undisturbed_runs_that_differ_are_not_exact():
    found = Proof((), LOST, 4, 2)
    assert not found.is_exact
    assert "two undisturbed runs differ" in table.as_text(found)


def test_what_differs_before_the_first_batch_of_two_undisturbed_runs_is_named():
    def started(**facts):
        return {**report(), "starts": {"1": {"attribute": facts}}}

    whole = started(**{"Net.t0": 1.5, "Net.rng": "<Generator, 01>", "Net.width": 3})
    twin = started(**{"Net.t0": 1.7, "Net.rng": "<Generator, 02>", "Net.width": 3})
    advice = proof.of_two_undisturbed_runs(LOST, whole, twin)
    assert "Before the first batch, Net.rng, Net.t0 differed." in advice.cause
    assert advice.cure.startswith("Build it from a seed. ")
    assert "Before" not in proof.of_two_undisturbed_runs(LOST, whole, whole).cause


def test_a_run_that_cannot_be_resumed_is_a_difference():
    def resume():
        raise RunError("KeyError: 'a'", False, "")

    trial = proof.trial(report(), (), Stop(1, 0, 1, "first batch"), resume)
    assert trial.found[0].text.startswith("the resumed run fails: KeyError: 'a'. The resumed run needs something")
