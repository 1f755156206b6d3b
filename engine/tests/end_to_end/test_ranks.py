"""State of the user's code that differs between two processes: each resumes with its own, or the run names it."""

import json

import pytest
from tests.support.command import Process
from tests.support.forks import RANKS
from tests.support.paths import ENGINE

from cairn.writing.load import load

SCRIPT = str(ENGINE / "tests" / "support" / "ranks_project.py")
pytestmark = pytest.mark.slow


def start(run, *arguments, strategy="ddp"):
    run.mkdir(exist_ok=True)
    return Process([SCRIPT, str(run), strategy, *map(str, arguments)], fresh=False, **{RANKS: "1"})


def ends(run):
    return [json.loads((run / f"rank_{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupts, and its output."""
    run = tmp_path_factory.mktemp("whole") / "run"
    return run, start(run).end()


@pytest.mark.parametrize(("strategy", "batches"), [("ddp", (3, 4)), ("ddp_fork", (3,))], ids=["ddp", "fork"])
def test_each_rank_resumes_with_its_own_state(tmp_path, whole, strategy, batches):
    for batch in batches:  # inside an epoch, and in the next one
        start(tmp_path, "kill", batch, strategy=strategy).end(expect=-9)
    output = start(tmp_path, strategy=strategy).end()
    assert ends(tmp_path) == ends(whole[0])
    assert output.count("On rank 1: This resume may not be exact: Ending.counted is 0 and was") == 1


def test_ranks_differ_and_a_checkpoint_holds_only_what_does(whole):
    first, second = ends(whole[0])
    assert first["weights"] == second["weights"]
    assert all(first[name] != second[name] for name in ("average", "shift", "losses"))
    ranks = load(whole[0] / "checkpoints" / "last.ckpt", verify=False)["cairn"]["ranks"]
    assert "own" not in ranks[0]
    paths = [tuple(path) for path, _ in ranks[1]["own"]]
    assert paths[0][0] == "loops"
    assert sorted(paths[1:]) == [("Data", "shift"), ("average",), ("cairn", "attributes", "training")]


def test_an_attribute_is_named_once_and_with_its_rank_if_it_is_not_rank_0(whole):
    assert whole[1].count("On rank 1: Training changes Ending.counted") == 1
    assert whole[1].count("Training changes Ending._num_batches") == 1
    assert whole[1].count("Training changes") == 2


def test_weights_that_differ_between_ranks_are_named(whole):
    assert whole[1].count("On rank 1: Ending.codebook differs from rank 0") == 1
    assert whole[1].count("On rank 1: 'num_hard' of group 0 in AdamW differs from rank 0") == 1
    assert whole[1].count("differs from rank 0") == 2


def test_a_hook_that_fails_on_one_rank_ends_all_of_them(tmp_path):
    output = start(tmp_path, "fail", 2).end(expect=1, seconds=60)
    assert "this rank has no disk" in output
    assert "The state of another rank could not be saved" in output


def test_a_hook_that_fails_on_one_rank_ends_one_that_waits_for_it_inside_of_the_hook(tmp_path):
    process = start(tmp_path, "leave", 2)
    assert process.wait() != 0  # Lightning kills rank 0, if it does not notice first that its connection is closed
    assert "this rank has no disk" in process.output
