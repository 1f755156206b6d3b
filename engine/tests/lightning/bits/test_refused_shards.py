"""What depends on the number of processes if parameters are sharded is refused by name."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import grad_norm
from tests.support import bits_fit
from tests.support.bits_fit import Net
from torch import distributed
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from cairn.errors import ConfigError
from cairn.lightning.bits.watched_shards import WatchedShards

pytestmark = [pytest.mark.usefixtures("alone"), pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def alone():
    """A group of this process alone, which the strategy then uses."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


class Fused(Net):
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), fused=True)


class SeesEachBatch(Net):
    def on_after_backward(self):
        pass


class CallbackSeesEachBatch(Callback):
    def on_after_backward(self, trainer, pl_module):
        pass


class HooksGradients(Net):
    def on_fit_start(self):
        self.norm.weight.register_hook(lambda gradient: 2 * gradient)


class ShardsItself(Net):
    def configure_model(self):
        policy = MixedPrecisionPolicy(reduce_dtype=torch.bfloat16)
        fully_shard(self, mesh=self.device_mesh["data_parallel"], mp_policy=policy)


class ShardsColumns(Net):
    def configure_model(self):
        mesh = self.device_mesh["data_parallel"]
        fully_shard(self, mesh=mesh, shard_placement_fn=lambda one: Shard(1) if one.ndim > 1 else None)


class LogsNorm(Net):
    def on_before_optimizer_step(self, optimizer):
        self.log_dict(grad_norm(self, norm_type=2))


UNCHECKED = {"num_sanity_val_steps": 0}
ADDED = r"A hook or the optimizer adds up a sharded tensor \(aten.*full_tensor\(\)"


@pytest.mark.parametrize(
    ("net", "options", "text"),
    [
        (Fused, {"gradient_clip_val": None}, "AdamW with fused=True computes other bits"),
        (SeesEachBatch, {}, "on_after_backward of SeesEachBatch sees the gradients of each batch"),
        (Net, {"callbacks": [CallbackSeesEachBatch()]}, "on_after_backward of CallbackSeesEachBatch sees"),
        (Net, {"sharding": {"gather_in_bf16": True}, "precision": "bf16-mixed", **UNCHECKED}, "gather_in_bf16=False"),
        (HooksGradients, {}, "a hook of register_hook on norm.weight"),
        (ShardsItself, {}, "gathering or reducing in bfloat16 rounds"),
        (ShardsColumns, {}, "shard_placement_fn divides columns"),
        (LogsNorm, {}, ADDED),
    ],
)
def test_what_depends_on_the_shards_is_refused(tmp_path, net, options, text):
    with pytest.raises(ConfigError, match=text):
        bits_fit.fit(tmp_path, net=net(), strategy="fsdp", **options)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_only_sums_over_shards_and_random_numbers_for_them_are_refused():
    mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
    value = distribute_tensor(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), mesh, [Shard(0)])
    with WatchedShards():
        value.add_(1).mul_(2)
        assert value.max().full_tensor() == 10
        assert value.full_tensor().sum() == 28
        assert value.sum(1).full_tensor().tolist() == [10, 18], "no shard cuts a row"
        for add in (torch.sum, torch.mean, torch.norm, lambda one: torch._foreach_norm([one])):
            with pytest.raises(ConfigError, match="adds up a sharded tensor"):
                add(value)
        for draw in (torch.rand_like, torch.randn_like, lambda one: torch.nn.functional.dropout(one, 0.5)):
            with pytest.raises(ConfigError, match="draws random numbers for a sharded tensor"):
                draw(value)
