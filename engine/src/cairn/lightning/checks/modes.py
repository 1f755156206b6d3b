"""Warns of a `mode` that contradicts the name of a well-known metric."""

from __future__ import annotations

import logging
import re

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from cairn.lightning.policy import Policy

log = logging.getLogger(__name__)

_HIGHER = {"acc", "accuracy", "auc", "auroc", "f1", "precision", "recall", "iou", "dice", "bleu", "rouge", "psnr"}
_HIGHER |= {"ssim", "map"}
_LOWER = {"loss", "error", "err", "perplexity", "wer", "cer", "mse", "mae", "rmse"}
_NEUTRAL = {
    "train",
    "training",
    "val",
    "valid",
    "validation",
    "test",
    "dev",
    "eval",
    "epoch",
    "step",
    "dataloader",
    "idx",
}
_NEUTRAL |= {"mean", "avg", "average", "total", "macro", "micro", "weighted", "ema", "score", "rate", "top1", "top5"}
"""Words behind a metric that do not change which values are better."""
_INVERTING = {"neg", "negative", "negated", "minus", "inv", "inverse", "inverted", "one", "1", "anti", "non", "not"}
"""Words in front of a metric that may change it."""


def better(name: str) -> str:
    """Return `min` or `max` if that is known from a name such as `val/acc`; empty if it is not, or not clear."""
    words = re.findall("[a-z0-9]+", name.lower())
    while words and (words[-1] in _NEUTRAL or (words[-1].isdigit() and len(words) > 1)):
        words.pop()
    if not words or _INVERTING & set(words):
        return ""
    is_both = bool(_HIGHER & set(words)) and bool(_LOWER & set(words))
    known = "max" if words[-1] in _HIGHER else "min" if words[-1] in _LOWER else ""
    return "" if is_both else known


@rank_zero_only
def check(trainer: Trainer, policy: Policy) -> None:
    """Warn if the checkpoints, or a callback of Lightning, take the worse values of a metric for the better ones."""
    known = better(policy.monitor or "")
    if known and known != policy.mode:
        log.warning(
            f"mode={policy.mode} ranks the checkpoint with the {_extreme(policy.mode)} {policy.monitor!r} as the best "
            f"one, and {_comparative(known)} is usually better: choose {known}, unless this is what you mean.",
            extra={"parameter": "mode"},
        )
    for callback in trainer.callbacks:
        if not isinstance(callback, EarlyStopping | ModelCheckpoint):
            continue
        known = better(callback.monitor or "")
        if known and known != callback.mode:
            log.warning(
                f"{type(callback).__name__} has mode={callback.mode!r} for {callback.monitor!r}, and "
                f"{_comparative(known)} is usually better: choose {known!r}, unless this is what you mean."
            )


def _extreme(mode: str) -> str:
    return "lowest" if mode == "min" else "highest"


def _comparative(mode: str) -> str:
    return "lower" if mode == "min" else "higher"
