"""After a resume inside an epoch, a progress bar shows the number of batches of the epoch, and where the run is."""

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from torch.utils.data import TensorDataset

import cairn


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))

    def training_step(self, batch, batch_idx):
        return (self.weight - batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Watch(Callback):
    def __init__(self, read):
        self.read, self.seen = read, []

    def on_train_batch_end(self, trainer, *args):
        self.seen.append(self.read(trainer.progress_bar_callback, trainer))


def tqdm(bar, trainer):
    line = bar.train_progress_bar
    return line.n, line.total, line.desc.strip()


def rich(bar, trainer):
    task = next(item for item in bar.progress.tasks if item.id == bar.train_progress_bar_id)
    return int(task.completed), task.total, task.description


BARS = {"tqdm": (TQDMProgressBar, tqdm), "rich": (RichProgressBar, rich)}


def fit(tmp_path, kind, ckpt_path=None):
    seed_everything(0, verbose=False)
    make, read = BARS[kind]
    checkpoints = cairn.Checkpointer(tmp_path / "checkpoints", 1, keep_last=-1, writing=cairn.Writing("sync"))
    watch = Watch(read)
    trainer = Trainer(
        max_epochs=2,
        callbacks=[make(), watch, checkpoints],
        logger=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    data = cairn.DataLoader(TensorDataset(torch.randn(16, 3)), 4, shuffle=True)
    trainer.fit(Net(), data, ckpt_path=ckpt_path)
    return watch.seen, checkpoints


@pytest.mark.parametrize("kind", BARS)
def test_a_progress_bar_shows_the_total_and_the_position_after_a_resume(kind, tmp_path):
    whole, checkpoints = fit(tmp_path, kind)
    assert [n for n, *_ in whole] == [1, 2, 3, 4] * 2
    assert {total for _, total, _ in whole} == {4}
    for done, saved in enumerate(checkpoints.saved[:-1], start=1):
        seen, _ = fit(tmp_path, kind, str(tmp_path / "checkpoints" / saved.name))
        assert seen == whole[done:], f"after {done} batches"
