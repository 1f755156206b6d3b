"""What a checkpoint holds of rank 0 only is named if another rank has something else."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from tests.support.thread_ranks import on_threads
from torch import nn

from cairn.lightning.audited.findings import Findings
from cairn.lightning.rank_differences import RankDifferences
from cairn.lightning.restart import Restart
from cairn.lightning.saved import ranks


class Net(nn.Linear):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(2, 1)


def trainer_of(optimizer=torch.optim.AdamW, num_steps=1, **options):
    module = Net()
    made = optimizer(module.parameters(), lr=0.1, **options)
    for _ in range(num_steps):
        module(torch.ones(1, 2)).sum().backward()
        made.step()
    return SimpleNamespace(lightning_module=module, optimizers=[made])


class Rank1:
    """Gets what rank 0 has to say."""

    leads = False

    def __init__(self, rank_0):
        self.rank_0 = rank_0

    def share(self, value):
        return [ranks.weights(self.rank_0.lightning_module), ranks.optimizers(self.rank_0)]


def named(mine, rank_0, times=1, mode="warn"):
    audit = SimpleNamespace(mode=mode, findings=Findings("warn"))
    differences = RankDifferences(mine, audit, Rank1(rank_0))
    for _ in range(times):
        differences.compare()
    return [text for _, text, _ in audit.findings.take()]


def moments(trainer):
    return trainer.optimizers[0].state[trainer.lightning_module.weight]


def change_a_moment(trainer):
    moments(trainer)["exp_avg"] += 1e-6


def change_the_rate(trainer):
    trainer.optimizers[0].param_groups[0]["lr"] = 0.2


def drop_a_state(trainer):
    trainer.optimizers[0].state.pop(trainer.lightning_module.weight)


def leave_one_out(trainer):
    trainer.optimizers[0].param_groups[0]["params"].pop()


def change_a_weight(trainer):
    trainer.lightning_module.weight.data += 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            change_a_moment,
            "'exp_avg' of weight in AdamW differs from rank 0, and a checkpoint holds the opt",
        ),
        (change_the_rate, "'lr' of group 0 in AdamW differs"),
        (drop_a_state, "'step' of weight in AdamW and 2 more differ from"),
        (leave_one_out, "'params' of group 0 in AdamW differs"),
        (change_a_weight, "Net.weight differs from rank 0, and a checkpoint holds the parameters of rank 0 only"),
    ],
)
def test_what_differs_is_named_once(change, words):
    mine = trainer_of()
    change(mine)
    (text,) = named(mine, trainer_of(), times=3)
    assert text.startswith(words)
    assert named(mine, trainer_of(), mode="off") == []


def test_one_of_several_optimizers_is_named_with_its_number():
    mine, rank_0 = trainer_of(), trainer_of()
    for trainer, rate in ((mine, 0.3), (rank_0, 0.1)):
        trainer.optimizers.append(torch.optim.AdamW(trainer.lightning_module.parameters(), lr=rate))
    assert [text.partition(" differs")[0] for text in named(mine, rank_0)] == ["'lr' of group 0 in AdamW (optimizer 1)"]


def test_what_is_equal_is_not_named():
    assert named(trainer_of(), trainer_of()) == []
    assert named(trainer_of(betas=(0.5, 0.9)), trainer_of(betas=(float("0.5"), 0.9))) == []


def test_it_is_named_before_the_first_batch_if_it_exists_then():
    (text,) = named(trainer_of(num_steps=0, weight_decay=0.1), trainer_of(num_steps=0, weight_decay=0.2))
    assert text.startswith("'weight_decay' of group 0 in AdamW")


def test_a_state_that_is_collected_from_all_ranks_at_a_save_is_not_compared():
    class Sharded(torch.optim.AdamW):
        def consolidate_state_dict(self, to=0):
            pass

    mine = trainer_of(Sharded)
    change_a_moment(mine)
    assert named(mine, trainer_of(Sharded)) == []


def test_rank_0_gets_messages_of_the_others_only_if_one_of_them_has_something_to_report():
    def talk(agreement, rank):
        findings, gathered, gather = Findings("warn"), [], agreement.gather
        agreement.gather = lambda value: gathered.append(value) or gather(value)
        restart = SimpleNamespace(audit=SimpleNamespace(mode="warn", findings=findings), agreement=agreement)
        Restart.report_together(restart)
        none = len(gathered)
        if rank == 1:
            findings.add(["count"], "count is lost")
        with pytest.warns(UserWarning, match="On rank 1: count is lost") if rank == 0 else nullcontext():
            Restart.report_together(restart)
        return none, len(gathered)

    assert on_threads(talk) == [(0, 1), (0, 1)]


def test_a_part_that_several_ranks_have_is_compared_among_all_of_them():
    """Ranks 0 and 1 have the same part, and so do ranks 2 and 3."""
    parts = [{"weight (0,)": "a"}, {"weight (0,)": "a"}, {"weight (4,)": "b"}, {"weight (4,)": "c"}]

    def talk(agreement, rank):
        audit = SimpleNamespace(mode="warn", findings=Findings("warn"))
        differences = RankDifferences(None, audit, agreement)
        differences._note_replicas(parts[rank])
        differences._note_replicas(parts[rank])
        differences._note_replicas({**parts[rank], "weight (4,)": "b"})
        return [text for _, text, _ in audit.findings.take()]

    for found in on_threads(talk, 4):
        assert len(found) == 1
        assert found[0].startswith("weight differs between ranks that have the same part of it")
