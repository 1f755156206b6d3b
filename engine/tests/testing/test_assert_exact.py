"""`assert_exact` accepts an exact project, and names what is wrong with any other."""

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
from tests.support import exact_projects

from cairn import testing
from cairn.testing import assert_exact
from cairn.testing.compare import first_difference, known_noise

ABSENT = object()
FACTS = ("sample", "attribute", "tensor", "optimizer", "scheduler", "metric", "generator")


def report(num_batches=3, rows=(), kept=(), **changes):
    """A report in which every fact of batch i is i, except for changes such as `metric_2=9`."""
    batches = {str(number): {fact: {"x": number} for fact in FACTS} for number in range(1, num_batches + 1)}
    for change, value in changes.items():
        fact, _, number = change.partition("_")
        batches[number][fact] = {} if value is ABSENT else {"x": value}
    return {"batches": batches, "rows": list(rows), "kept": list(kept)}


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (report(), None),
        (report(tensor_2=9, sample_3=9), "tensor x is 9 instead of 2 at batch 2"),
        (report(metric_2=9, sample_2=9), "sample x differs at batch 2 (1 more differ there)"),
        (report(attribute_3=9), "attribute x is 9 instead of 3 at batch 3. It is not in a checkpoint"),
        (report(2), "ends before batch 3"),
        (report(4), "continues after batch 3"),
        (report(rows=[{"a": "1"}]), "1 rows in metrics.csv instead of 0"),
        (report(kept=["one"]), "1 kept checkpoints instead of 0"),
    ],
)
def test_the_first_difference_is_named_causes_before_effects(other, words):
    found = first_difference(report(), other, noise=())
    assert (found is None) if words is None else words in found.text


def test_what_was_done_before_the_stop_is_not_compared():
    assert first_difference(report(), report(tensor_2=9), noise=(), after=2) is None


@pytest.mark.parametrize("kind", ["attribute", "metric"])
def test_a_time_that_differs_anyway_says_nothing(kind):
    noise = known_noise(report(), report(**{f"{kind}_2": 9}))
    assert noise == {(kind, "x")}
    assert first_difference(report(), report(**{f"{kind}_3": 5}), noise) is None
    other = "attribute" if kind == "metric" else "metric"
    assert first_difference(report(), report(**{f"{other}_3": 5}), noise).kind == other
    found = first_difference(report(rows=[{"x": "1"}]), report(rows=[{"x": "2"}]), noise)
    assert (found is None) is (kind == "metric")


@pytest.mark.parametrize(("before", "after"), [("<ndarray (9,), 1f>", ABSENT), (ABSENT, 3)])
def test_a_cache_that_is_not_filled_yet_says_nothing(before, after):
    whole, other = report(attribute_2=before), report(attribute_2=after)
    assert first_difference(whole, other, noise=()) is None
    assert first_difference(whole, report(attribute_2=after, tensor_2=9), noise=()).kind == "tensor"


def test_none_is_a_value_that_a_resume_can_lose():
    found = first_difference(report(attribute_2=0.5), report(attribute_2=None), noise=())
    assert found.text.startswith("attribute x is None instead of 0.5 at batch 2. It is not in a checkpoint")
    roles = {"roles": {"Data": "dataset"}}
    whole, other = (
        {"batches": {"1": {"attribute": {"Data.file": value}}}, "rows": [], "kept": []} for value in (None, 3)
    )
    assert first_difference({**whole, **roles}, other, noise=()) is None, "read when it is needed first"


@pytest.mark.parametrize("kind", ["sample", "tensor", "optimizer", "scheduler", "generator"])
def test_what_training_consists_of_is_never_noise(kind):
    other = report(**{f"{kind}_2": 9})
    assert first_difference(report(), other, known_noise(report(), other)).kind == kind


@pytest.mark.parametrize("make", [lambda: None, partial(exact_projects.exact), exact_projects.Net.configure_optimizers])
def test_a_function_that_cannot_be_imported_is_refused(make):
    with pytest.raises(ValueError, match="must be a function at the top level of a module"):
        assert_exact(make)


@pytest.fixture
def _shared(monkeypatch, processes):
    """Let `assert_exact` use processes that exist already: importing torch takes seconds."""

    def shared(runner, source, environment):
        return nullcontext(SimpleNamespace(run=partial(processes.run, name=source["name"])))

    monkeypatch.setattr(testing, "FreshProcesses", shared)


@pytest.mark.slow
@pytest.mark.usefixtures("_shared")
def test_a_make_with_another_result_is_refused():
    with pytest.raises(AssertionError, match=r"must return \(trainer, model, data\), not None"):
        assert_exact(exact_projects.returns_nothing)


@pytest.mark.slow
@pytest.mark.usefixtures("_shared")  # the project's own test calls it without them
@pytest.mark.parametrize("make", [exact_projects.exact, exact_projects.never_seeded])
def test_an_exact_project_passes(make):
    assert_exact(make, stops=[1, 6])


@pytest.mark.slow
@pytest.mark.usefixtures("_shared")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (exact_projects.attribute, r"attribute Annealed.temperature is .* instead of .* at batch 4 .*It is not in"),
        (exact_projects.hidden, r"attribute Hidden._state is .* instead of .* at batch 4 .*on_save_checkpoint"),
        (exact_projects.torch_loader, r"sample training batch differs at batch 4.*cairn\.DataLoader is a drop-in"),
        (
            exact_projects.own_generator,
            r"attribute OwnGenerator.draws is .* at batch 4.*must be a function of \(epoch, index\)",
        ),
        (
            exact_projects.unseeded,
            "Two undisturbed runs differ, so no resume can be exact. Does `make` begin with .* tensor",
        ),
        (exact_projects.broken, "A run failed in a fresh process:(.|\n)*no such data"),
    ],
)
def test_a_fault_is_named_with_its_cure(make, words):
    with pytest.raises(AssertionError, match=words):
        assert_exact(make, stops=[3])


@pytest.mark.slow
@pytest.mark.usefixtures("_shared")
def test_the_message_has_the_table_of_all_stops():
    with pytest.raises(AssertionError) as raised:
        assert_exact(exact_projects.attribute, stops=[3, 4])
    lines = str(raised.value).splitlines()
    assert " ".join(lines[4].split()) == "batch 3 0/3 inside an epoch see 1: attribute Annealed.temperature at batch 4"
    assert "1. attribute Annealed.temperature" in lines
    assert lines[-1] == "Not exact: 2 of 2 resumed runs differ from the undisturbed one (8 boundaries in 2 epochs)."


@pytest.mark.slow
@pytest.mark.usefixtures("_shared")
def test_a_stop_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"cannot be stopped after batch 40, only after \[1, 2, 3, 4, 5, 6, 7, 8\]"):
        assert_exact(exact_projects.exact, stops=[3, 40])
