"""Code of a batch sees virtual ranks in place of processes, and frameworks see what there is."""

from contextlib import suppress
from types import ModuleType

import pytest
from lightning.pytorch import Callback, Trainer
from tests.support import bits_fit

from cairn.lightning.bits.seen import of_rank, seen

NUM_VIRTUAL, NUM_WINDOWS = 12, 3


class Asks(bits_fit.Net):
    """Notes what a step sees."""

    def __init__(self):
        super().__init__()
        self.found = {"train": [], "validate": []}

    def ask(self, stage, batch_idx):
        trainer = self.trainer
        seen = batch_idx, self.global_rank, trainer.global_rank, trainer.world_size, trainer.is_global_zero
        self.found[stage].append((*seen, trainer.accumulate_grad_batches, trainer.num_training_batches))

    def training_step(self, batch, batch_idx):
        self.ask("train", batch_idx)
        return super().training_step(batch)

    def validation_step(self, batch, batch_idx):
        self.ask("validate", batch_idx)
        super().validation_step(batch, batch_idx)


class Outside(Callback):
    def on_train_batch_end(self, trainer, *_):
        self.found = trainer.world_size, trainer.global_rank, type(trainer)


@pytest.mark.filterwarnings("ignore")
def test_a_step_sees_one_rank_for_each_batch_of_a_global_batch(tmp_path):
    net, outside = Asks(), Outside()
    bits_fit.fit(tmp_path, net=net, max_steps=2, num_sanity_val_steps=0, callbacks=[outside])
    in_epoch = NUM_VIRTUAL * (bits_fit.NUM_SAMPLES // bits_fit.GLOBAL_BATCH + 1)
    assert net.found["train"] == [
        (place, place % NUM_VIRTUAL, place % NUM_VIRTUAL, NUM_VIRTUAL, place % NUM_VIRTUAL == 0, NUM_VIRTUAL, in_epoch)
        for place in range(2 * NUM_VIRTUAL)
    ]
    assert [one[:5] for one in net.found["validate"]][:13] == [
        (place, place % NUM_VIRTUAL, place % NUM_VIRTUAL, NUM_VIRTUAL, place % NUM_VIRTUAL == 0) for place in range(13)
    ]
    assert outside.found == (1, 0, Trainer)


def test_a_framework_sees_what_there_is():
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, accumulate_grad_batches=3)
    framework = ModuleType("torch.nn.modules.made_up")
    exec("def ask(trainer): return trainer.world_size, trainer.accumulate_grad_batches", vars(framework))
    with suppress(RuntimeError), seen(trainer, of_rank(1, 4) | {"accumulate_grad_batches": 4}):
        assert framework.ask(trainer) == (1, 3)
        assert (trainer.world_size, trainer.accumulate_grad_batches) == (4, 4)
        trainer.accumulate_grad_batches = 5
        assert framework.ask(trainer) == (1, 5)
        raise RuntimeError("a batch fails")
    assert (type(trainer), trainer.world_size, trainer.accumulate_grad_batches) == (Trainer, 1, 5)
