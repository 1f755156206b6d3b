"""A run whose optimizer has 8-bit states, and whose model has quantized weights, is exact."""

import torch
from lightning.pytorch import LightningModule, Trainer
from tests.support.quantized import Quantized, QuantizedMomentum
from torch import nn

import cairn


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 1)
        self.frozen = nn.Parameter(Quantized.of(torch.randn(4)), requires_grad=False)

    def training_step(self, batch):
        return (self.layer(batch) - (batch * self.frozen.numbers()).sum(1, keepdim=True)).square().mean()

    def configure_optimizers(self):
        return QuantizedMomentum(self.layer.parameters(), 0.01)


def fit(folder, max_steps):
    saving = cairn.Checkpointer(folder, 2, keep_last=-1)
    common = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=3, max_steps=max_steps, callbacks=[saving], default_root_dir=folder, **common)
    points = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    net = Net()
    trainer.fit(net, cairn.DataLoader(points, 4, shuffle=True), ckpt_path=saving.resume())
    states = [(state["momentum"].codes, state["momentum"].scale) for state in trainer.optimizers[0].state.values()]
    return net, states, saving


def test_a_resumed_run_has_the_same_codes(tmp_path):
    whole, expected, _ = fit(tmp_path / "whole", 11)
    for max_steps in (3, 6, 11):
        net, found, saving = fit(tmp_path / "run", max_steps)
    assert all(map(torch.equal, net.layer.parameters(), whole.layer.parameters()))
    assert all(torch.equal(*pair) for pairs in zip(found, expected, strict=True) for pair in zip(*pairs, strict=True))
    assert type(net.frozen) is Quantized
    plain = torch.load(tmp_path / "run" / saving.newest.name, weights_only=True)["state_dict"]["frozen"]
    assert torch.equal(plain["parts"]["codes"], whole.frozen.codes), "as other programs read it"
