"""The benchmark of searches: the schedule and its cost, trials that may pause, figures, page and plot."""

import json

import pytest
import torch
from benchmarks.search import command, figures, page
from benchmarks.search.schedule import WAYS, Finished, Plan, best, search
from benchmarks.search.training import Setting, Trial, Trials

PLAN = Plan(rungs=(1, 3, 9), eta=3, budget=9 * 9)


def score(trial, epochs):
    """Trial 7 of each nine is the best, and each trial improves by the same."""
    return abs(trial % 9 - 7) + trial / 1000 + 1 / epochs


@pytest.mark.parametrize(("way", "cost"), [("goes on", 9 + 3 * 2 + 6), ("restarts", 9 + 3 * 3 + 9), ("random", 9)])
def test_the_cost_of_a_bracket(way, cost):
    assert PLAN.cost(way) == cost


def test_halving_trains_the_best_of_each_bracket_to_the_end():
    found = search(PLAN, "goes on", score)
    assert [(item.spent, item.trial) for item in found] == [(21, 7), (42, 16), (63, 25)]
    assert [(item.spent, item.trial) for item in search(PLAN, "restarts", score)] == [(27, 7), (54, 16), (81, 25)]
    assert [item.trial for item in search(PLAN, "random", score)] == list(range(9))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("budget", range(0, 60, 7))
def test_no_search_spends_more_than_its_budget_or_asks_a_trial_twice_for_the_same(way, budget):
    asked, spent, reached = [], 0, {}

    def counted(trial, epochs):
        nonlocal spent
        asked.append((trial, epochs))
        spent += epochs - (reached.get(trial, 0) if way == "goes on" else 0)
        reached[trial] = epochs
        return score(trial, epochs)

    found = search(Plan((1, 3, 9), 3, budget), way, counted)
    assert spent <= budget
    assert budget - spent < 9, "what fits is done"
    assert len(set(asked)) == len(asked)
    assert all(item.spent <= budget for item in found)


def test_the_best_is_that_of_the_finished_trials_within_the_budget():
    found = [Finished(10, 0, 0.5), Finished(20, 1, 0.3), Finished(30, 2, 0.4)]
    assert [best(found, spent) for spent in (5, 10, 30)] == [None, found[0], found[1]]


@pytest.fixture(scope="module")
def data():
    source = torch.Generator().manual_seed(0)
    return tuple(
        (torch.rand(size, 1, 8, 8, generator=source), torch.randint(10, (size,), generator=source))
        for size in (130, 30, 30)
    )


def test_a_trial_that_pauses_is_the_same_as_one_that_does_not(data):
    setting = Setting(lr=0.01, weight_decay=0.1, dropout=0.3, width=16)
    paused, other, whole = (Trial(setting, data, seed, num_epochs=4) for seed in (0, 1, 0))
    for epochs in (1, 2, 4):
        paused.score(epochs)
        other.score(epochs)  # trains in between
        torch.rand(3)
    assert whole.score(4) == paused.score(4)
    assert paused.curve == whole.curve != other.curve
    assert paused.test() == whole.test()


def test_a_trial_that_diverges_has_a_score(data):
    trial = Trial(Setting(lr=1e12, weight_decay=0.0, dropout=0.0, width=8), data, 0, num_epochs=2)
    assert 0 < trial.score(2) <= 1e3


def test_the_trials_of_a_seed_are_always_the_same():
    settings = [[Trials(seed, 3)[number].curve for number in range(2)] for seed in (0, 1)]
    assert settings == [[[], []], [[], []]]
    one, other = Trials(0, 3), Trials(0, 3)
    assert one.score(1, 1) == other.score(1, 1) != one.score(0, 1)


@pytest.fixture
def raw():
    finished = [{"spent": 9, "trial": 0, "score": 0.5, "test_loss": 0.6, "test_accuracy": 0.9}]
    better = [*finished, {"spent": 40, "trial": 1, "score": 0.25, "test_loss": 0.3, "test_accuracy": 0.95}]
    runs = [
        {
            "seed": seed,
            "ways": {"goes on": better, "restarts": better if seed else finished, "random": finished},
            "num_started": {"goes on": 30, "restarts": 20, "random": 9},
        }
        for seed in range(3)
    ]
    return {
        "machine": dict.fromkeys(("date", "cpu", "cores", "python", "torch"), "x"),
        "settings": {"rungs": [1, 3, 9], "eta": 3, "budget": 81, "batches_per_epoch": 20},
        "command": "make bench ARGS=search",
        "runs": runs,
    }


def test_the_table_has_a_row_for_each_budget_and_way(raw):
    assert figures.budgets(raw) == [9, 27, 81]
    found = {(item.spent, item.way): page.cells(raw, item) for item in figures.rows(raw)}
    assert len(found) == 9
    assert found[81, "goes on"][2:] == ("0.2500 (0.2500 to 0.2500)", "", "0.3000", "5.00 %")
    assert found[81, "restarts"][2:4] == ("0.2500 (0.2500 to 0.5000)", "1, 2, 0")
    assert found[27, "random"][3] == "0, 3, 0"


def test_a_way_that_has_finished_nothing_says_so(raw):
    raw["runs"][0]["ways"]["restarts"] = []
    cells = page.cells(raw, figures.row(raw, "restarts", 81))
    assert cells[2] == "no trial has reached the end in each seed"
    assert figures.wins(figures.row(raw, "goes on", 81), figures.row(raw, "restarts", 81)) == (1, 2, 0)


def test_the_training_for_a_score_is_where_the_median_is_as_good(raw):
    assert [figures.needed(raw, "goes on", score) for score in (0.5, 0.3, 0.2)] == [9, 40, None]
    raw["runs"][0]["ways"]["random"] = []
    assert figures.needed(raw, "random", 0.5) is None


def test_the_page_and_the_plot_show_the_searches(raw, tmp_path):
    text = page.text(raw)
    assert "1,620, as many as 9 full runs" in text
    assert "takes 2.33 full runs if trials go on, and 3 if each starts again" in text
    assert "30, 20 and 9 trials" in text
    assert "To reach the median val loss of random search, 0.5000: " in text
    assert "halving that goes on needs 1 full run," in text
    assert "| 9 full runs | random search of full runs | 0.5000 (0.5000 to 0.5000) | 3, 0, 0 |" in text
    page.draw(raw, tmp_path / "plot.png")
    raw["runs"][0]["ways"] = {way: [] for way in WAYS}
    page.draw(raw, tmp_path / "empty.png")
    assert min(path.stat().st_size for path in tmp_path.iterdir()) > 1000


def test_the_command_measures_and_reports_what_it_stored(tmp_path, capsys):
    assert command.main(["--seeds", "1", "--rungs", "1", "2", "--full-runs", "3", "--out", str(tmp_path)]) == 0
    first = capsys.readouterr().out
    raw = json.loads((tmp_path / "search.json").read_text())
    assert raw["command"] == "make bench ARGS='search --seeds 1 --rungs 1 2 --full-runs 3'"
    assert raw["settings"]["batches_per_epoch"] == 20
    assert command.main(["--report", str(tmp_path / "search.json"), "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out in first


def test_stops_must_increase(capsys):
    with pytest.raises(SystemExit):
        command.main(["--rungs", "3", "1"])
    assert "each stop must come after" in capsys.readouterr().err
