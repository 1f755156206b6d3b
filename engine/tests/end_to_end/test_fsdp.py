"""`trainer=fsdp_sim`: the GPT example in two processes, whose checkpoints any other way to train can use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.support.command import QUICK, train
from tests.support.forks import RANKS

import cairn
from cairn.store.catalog import Catalog

pytestmark = pytest.mark.slow

COMMAND = [
    *("experiment=gpt", *QUICK, "trainer=fsdp_sim", "trainer.max_steps=4", "trainer.val_check_interval=2"),
    *("data.seq_len=32", "data.global_batch_size=12", "data.batch_size=6", "data.files=engine/docs/*.md"),
    *("trainer.limit_val_batches=1", "trainer.limit_test_batches=1", "model.net.embed_dim=32"),
    *("checkpoint.save_interval=3", "trainer.strategy.activation_checkpointing=true"),
]
FORKED = {RANKS: "1"}


def test_the_gpt_example_is_sharded_and_goes_on_in_one_process_and_as_a_model(tmp_path: Path) -> None:
    run = tmp_path / "run"
    output = train(run, *COMMAND, f"data.cache_dir={tmp_path}/text", **FORKED)
    assert "Sharded among 2 processes: 4 blocks (Block), and the rest together." in output
    saved = Catalog(run / "checkpoints").committed()
    assert [len(item.shards) for item in saved] == [2] * len(saved)
    model = cairn.load_model(run / "checkpoints" / "last.ckpt")
    assert all(type(parameter.detach()) is torch.Tensor for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == sum(
        value.numel() for value in model.state_dict().values()
    )
    more = ["trainer.max_steps=6", "trainer.devices=1", "trainer.strategy=auto"]
    output = train(None, f"resume={run}", *more)
    assert "Resuming from" in output
    assert Catalog(run / "checkpoints").newest().position.step == 6

    refused = train(tmp_path / "other", *COMMAND, "trainer.precision=16-mixed", expect=1)
    assert "trainer.precision=16-mixed scales the loss, which sharded parameters do not support" in refused
