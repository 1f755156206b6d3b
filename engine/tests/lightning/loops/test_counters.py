"""The states of all loops in a checkpoint, also of those that do not run in a fit."""

import torch
from lightning.pytorch import LightningModule
from tests.support.short_fits import fit
from torch import nn
from torch.utils.data import TensorDataset

import cairn


class Net(LightningModule):
    """A linear model that notes in each save what Lightning would save of the loops, and may change it."""

    def __init__(self, changes=()):
        super().__init__()
        self.layer, self.changes, self.lightning_saves = nn.Linear(2, 1), changes, []

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def on_save_checkpoint(self, checkpoint):
        names = ("fit_loop", "validate_loop", "test_loop", "predict_loop")
        self.lightning_saves.append({name: getattr(self.trainer, name).state_dict() for name in names})
        if len(self.lightning_saves) in self.changes:
            checkpoint["loops"]["test_loop"]["state_dict"]["note"] = len(self.lightning_saves)


def loops_saved(directory, net):
    generator = torch.Generator().manual_seed(0)
    loader = cairn.DataLoader(TensorDataset(torch.randn(4, 2, generator=generator)), 1)
    fit(directory, net, loader, max_epochs=1, saving={"keep_last": -1})
    return [torch.load(path, weights_only=True)["loops"] for path in sorted(directory.glob("epoch*.ckpt"))]


def without_loaders(states):
    """Positions of loaders are saved where Lightning saves those of its own."""
    states["fit_loop"]["state_dict"].pop("combined_loader", None)
    return states


def test_the_states_are_those_that_lightning_saves(tmp_path):
    net = Net()
    saved = loops_saved(tmp_path, net)
    assert len(saved) == 4
    assert list(map(without_loaders, saved)) == list(map(without_loaders, net.lightning_saves[-4:]))


def test_what_a_hook_puts_into_the_state_of_an_idle_loop_is_in_that_save_only(tmp_path):
    undisturbed = Net()
    loops_saved(tmp_path / "undisturbed", undisturbed)
    before_last = len(undisturbed.lightning_saves) - 1
    saved = loops_saved(tmp_path / "changed", Net(changes=[before_last]))
    assert [states["test_loop"]["state_dict"].get("note") for states in saved] == [None, None, before_last, None]
