"""Validation and test count global batches, outside of a fit, too."""

import pytest
from lightning.pytorch import Trainer
from tests.support.elastic_fit import BATCH, GLOBAL_BATCH, NUM_VAL, Net, Points

import cairn


@pytest.mark.parametrize(("limit", "expected"), [(1, 7), (0.5, 7), (1.0, NUM_VAL)])
def test_limits_count_global_batches(tmp_path, limit, expected):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu", limit_val_batches=limit, callbacks=[cairn.Checkpointer(tmp_path / "checkpoints")], **quiet
    )
    net = Net()
    trainer.validate(net, cairn.DataLoader(Points(NUM_VAL), BATCH, global_batch_size=GLOBAL_BATCH), verbose=False)
    assert sorted(index for _, _, indices in net.seen for index in indices) == list(range(expected))
