"""A mode that contradicts the name of a well-known metric."""

import pytest
from lightning.pytorch.callbacks import EarlyStopping
from tests.lightning.checks.test_monitors import Model, fit

from cairn.lightning.checks import modes


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("val/acc", "max"),
        ("val_accuracy", "max"),
        ("acc/val", "max"),
        ("val/acc_epoch", "max"),
        ("val/acc/dataloader_idx_0", "max"),
        ("val/f1_macro", "max"),
        ("val/mAP", "max"),
        ("val/mean_iou", "max"),
        ("val/PSNR", "max"),
        ("val/precision_at", ""),
        ("val/loss", "min"),
        ("loss", "min"),
        ("train/bce_loss_epoch", "min"),
        ("val/error_rate", "min"),
        ("val/WER", "min"),
        ("val/loss_acc_ratio", ""),
        ("val/dice_loss", ""),
        ("val/acc_loss", ""),
        ("val/neg_loss", ""),
        ("val/neg_mse", ""),
        ("1-acc", ""),
        ("val/one_minus_iou", ""),
        ("val/acc_drop", ""),
        ("val/loss_scale", ""),
        ("val/errors_fixed", ""),
        ("val/mapped", ""),
        ("val/feature_map_size", ""),
        ("accumulated", ""),
        ("val/lossless", ""),
        ("val/fid", ""),
        ("val", ""),
        ("", ""),
    ],
)
def test_what_is_better_is_read_from_whole_words(name, expected):
    assert modes.better(name) == expected


class Accurate(Model):
    def validation_step(self, batch, batch_idx):
        self.log("val/acc", self.weight, batch_size=1)
        self.log("val/loss", self.weight, batch_size=1)


@pytest.mark.parametrize(("monitor", "num_warnings"), [("val/loss", 1), ("val/acc", 0), (None, 0)])
def test_a_contradiction_is_one_warning(tmp_path, caplog, monitor, num_warnings):
    fit(tmp_path, Accurate(), monitor)  # with mode=max
    said = [record for record in caplog.records if "usually better" in record.getMessage()]
    assert len(said) == num_warnings
    if said:
        assert said[0].getMessage().startswith("mode=max ranks the checkpoint with the highest 'val/loss' as the best")
        assert said[0].parameter == "mode"


def test_an_early_stopping_with_the_default_mode_is_named(tmp_path, caplog):
    fit(tmp_path, Accurate(), None, callbacks=[EarlyStopping("val/acc", patience=9)])
    assert "EarlyStopping has mode='min' for 'val/acc', and higher is usually better: choose 'max'" in caplog.text
