"""Masks of pruned parameters come back at a resume, and files stay loadable by a new model."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelPruning
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import TensorDataset

import cairn


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))

    def training_step(self, batch, batch_idx):
        return (self.net(batch[0]) - 1).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.1)


class PrunesItself(Net):
    def on_train_epoch_end(self):
        prune.random_unstructured(self.net[0], "weight", 0.25)


class PrunedBefore(PrunesItself):
    def __init__(self):
        super().__init__()
        prune.l1_unstructured(self.net[2], "weight", 0.25)


CASES = {
    "a callback": (Net, lambda: ModelPruning("l1_unstructured", amount=0.3, parameter_names=["weight"])),
    "a callback, not permanent": (
        Net,
        lambda: ModelPruning("l1_unstructured", amount=0.3, parameter_names=["weight"], make_pruning_permanent=False),
    ),
    "the module": (PrunesItself, None),
    "the module, and one layer before training": (PrunedBefore, None),
}


def fit(tmp_path, case, ckpt_path=None, seed=0):
    seed_everything(seed, verbose=False)
    made, callback = CASES[case]
    checkpoints = cairn.Checkpointer(tmp_path / "checkpoints", 1, keep_last=-1, writing=cairn.Writing("sync"))
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=3, callbacks=[*([callback()] if callback else []), checkpoints], **quiet)
    points = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    module = made()
    trainer.fit(module, cairn.DataLoader(TensorDataset(points), 8, shuffle=True), ckpt_path=ckpt_path)
    return module, checkpoints


@pytest.mark.parametrize("case", CASES)
def test_a_resume_has_the_masks_of_the_run(case, tmp_path):
    whole, checkpoints = fit(tmp_path, case)
    assert (whole.net[0].weight == 0).any()
    for saved in checkpoints.saved[:-1]:
        again, _ = fit(tmp_path, case, str(tmp_path / "checkpoints" / saved.name), seed=1)
        assert again.state_dict().keys() == whole.state_dict().keys()
        assert all(torch.equal(value, whole.state_dict()[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize("case", CASES)
def test_a_new_model_loads_the_pruned_weights(case, tmp_path):
    _, checkpoints = fit(tmp_path, case)
    new = CASES[case][0]()
    new.load_state_dict(torch.load(checkpoints.last_model_path, weights_only=True)["state_dict"])
    assert (new.net[0].weight == 0).any()
