"""A run in the library that loses its disk, and goes on from its mirror."""

from typing import ClassVar

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from tests.support.short_fits import QUIET, Interrupt, Interrupted
from torch import nn
from torch.utils.data import TensorDataset

import cairn
from cairn.account.telemetry import Telemetry
from cairn.errors import ConfigError
from cairn.lightning.saves import Saves
from cairn.remote import Mirror, address, owner
from cairn.remote.objects import Objects
from cairn.store.history import History
from cairn.store.listener import Listener, Listeners


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1))

    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)


def fit(path, where, stop=None, **settings):
    seed_everything(0, verbose=False)
    data = TensorDataset(torch.arange(32.0).reshape(-1, 1))
    mirror = Mirror(where, run_directory=path, **settings)
    checkpoints = cairn.Checkpointer(
        path / "checkpoints", 2, listeners=[mirror], writing=cairn.Writing("sync"), keep_last=2
    )
    trainer = Trainer(callbacks=[Interrupt(stop), checkpoints], max_epochs=2, **QUIET)
    module = Net()
    loader = cairn.DataLoader(data, batch_size=4, shuffle=True, seed=0)
    trainer.fit(module, loader, ckpt_path=checkpoints.resume())
    return module, checkpoints


def test_a_run_that_has_lost_its_disk_ends_as_an_undisturbed_one(tmp_path):
    where = f"memory://{tmp_path.as_posix().replace('/', '-')}"
    expected, kept = fit(tmp_path / "one", f"{where}/one")
    with pytest.raises(Interrupted):
        fit(tmp_path / "two", f"{where}/two", stop=9)
    found, again = fit(tmp_path / "elsewhere", f"{where}/two")
    for name, value in expected.state_dict().items():
        assert torch.equal(value, found.state_dict()[name])
    names = [saved.name for saved in kept.saved]
    assert [saved.name for saved in again.saved] == names


def test_a_second_run_with_the_address_is_refused_before_its_first_batch(tmp_path):
    where = f"memory://{tmp_path.as_posix().replace('/', '-')}/one"
    fit(tmp_path / "one", where)
    seed_everything(0, verbose=False)
    checkpoints = cairn.Checkpointer(tmp_path / "two", 2, listeners=[Mirror(where)], writing=cairn.Writing("sync"))
    trainer = Trainer(callbacks=[checkpoints], max_epochs=1, **QUIET)
    loader = cairn.DataLoader(TensorDataset(torch.zeros(8, 1)), batch_size=4)
    with pytest.raises(ConfigError, match="belongs to another run"):
        trainer.fit(Net(), loader)
    assert trainer.global_step == 0
    assert list((tmp_path / "two").iterdir()) == [], "the claim is taken back"


def test_a_run_that_was_killed_before_its_first_upload_begins_again_elsewhere(tmp_path):
    where = f"memory://{tmp_path.as_posix().replace('/', '-')}/one"
    owner.claim(Objects(address.parse(where)), "abc", "one")
    _, checkpoints = fit(tmp_path / "elsewhere", where)
    assert {saved.run for saved in checkpoints.saved} == {"abc"}


def test_a_listener_of_before_is_still_one(tmp_path):
    """It does not inherit, and has none of the methods that came later."""

    class Old:
        def __init__(self):
            self.calls = []

        def __getattr__(self, name):
            if name not in ("opened", "committed", "deleting", "deleted", "close"):
                raise AttributeError(name)
            return lambda *arguments: self.calls.append(name)

    old = Old()
    checkpoints = cairn.Checkpointer(tmp_path / "a", 2, listeners=[old], writing=cairn.Writing("sync"))
    trainer = Trainer(callbacks=[checkpoints], max_epochs=1, **QUIET)
    trainer.fit(Net(), cairn.DataLoader(TensorDataset(torch.zeros(16, 1)), batch_size=4))
    assert {"opened", "committed", "close"} <= set(old.calls)
    assert Listener.grace_s == 0.0


@pytest.mark.parametrize(("leads", "writes", "expected"), [(False, True, [3]), (True, True, []), (False, False, [])])
def test_only_ranks_that_write_shards_for_rank_0_help_with_uploads(tmp_path, leads, writes, expected):
    class Helps(Listener):
        ranks: ClassVar[list[int]] = []

        def assist(self, directory, rank):
            assert directory == tmp_path
            self.ranks.append(rank)

    Helps.ranks.clear()
    saves = Saves(cairn.Writing(), History(tmp_path, [], None), Telemetry(), Listeners([Helps()]))
    saves.pipeline, saves._leads = object() if writes else None, leads
    saves.assist(3)
    assert Helps.ranks == expected


def test_a_fit_waits_as_long_as_a_listener_asks_for(tmp_path):
    limits = []

    class Slow(Listener):
        wait_s, grace_s = 7200.0, 3600.0

        def close(self, finished, limit_s):
            limits.append((finished, limit_s))

    def train(stop):
        checkpoints = cairn.Checkpointer(tmp_path / f"{stop}", 2, listeners=[Slow()], writing=cairn.Writing("sync"))
        trainer = Trainer(callbacks=[Interrupt(stop), checkpoints], max_epochs=1, **QUIET)
        trainer.fit(Net(), cairn.DataLoader(TensorDataset(torch.zeros(16, 1)), batch_size=4))

    train(None)
    with pytest.raises(Interrupted):
        train(2)
    assert [finished for finished, _ in limits] == [True, False]
    assert 3600.0 < limits[0][1] <= 7200.0
    assert 600.0 < limits[1][1] <= 3600.0
