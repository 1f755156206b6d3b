"""The mesh of processes, what a model must do with it, and the norm over several meshes."""

import gc
import weakref

import pytest
import torch
from lightning.pytorch.plugins.precision import Precision
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.testing._internal.distributed.fake_pg import FakeStore

import cairn
from cairn.data import complete, parallel
from cairn.errors import ConfigError, DataError
from cairn.lightning import clipping
from cairn.lightning.fsdp import meshes, norm


@pytest.fixture
def mesh():
    """That of rank 0 of four, whose others are not there."""
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    yield init_device_mesh("cpu", (2, 2), mesh_dim_names=("data_parallel", "tensor_parallel"))
    distributed.destroy_process_group()


def net():
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4))


def parallelized(mesh):
    return parallelize_module(net(), mesh["tensor_parallel"], {"0": ColwiseParallel(), "1": RowwiseParallel()})


@pytest.mark.parametrize(
    ("given", "found"),
    [(("auto", 1), (8, 1)), (("auto", 2), (4, 2)), ((2, "auto"), (2, 4)), (("auto", "auto"), (2, 4)), ((1, 8), (1, 8))],
)
def test_the_sizes_follow_from_the_processes(given, found):
    assert meshes.sizes(*given, num_processes=8, per_node=4) == found


@pytest.mark.parametrize("given", [("auto", 3), (2, 2), ("auto", 16)])
def test_sizes_that_do_not_fit_are_refused(given):
    with pytest.raises(ConfigError, match=f"tensor_parallel_size={given[1]} do not fit 8 processes"):
        meshes.sizes(*given, num_processes=8, per_node=4)


def test_a_model_that_is_parallel_and_sharded_passes(mesh):
    model = parallelized(mesh)
    meshes.check_uses(model, mesh)
    fully_shard(model, mesh=mesh["data_parallel"])
    meshes.check(model, mesh)
    assert norm.is_needed(model)


def test_processes_that_nothing_is_divided_among_are_refused(mesh):
    model = net()
    fully_shard(model, mesh=mesh["data_parallel"])
    with pytest.raises(ConfigError, match=r"divides nothing among these processes: call parallelize_module"):
        meshes.check_uses(model, mesh)
    assert not norm.is_needed(model)


def test_a_parameter_whose_gradients_no_other_group_gets_is_refused(mesh):
    model = parallelized(mesh)
    fully_shard(model[2], mesh=mesh["data_parallel"])
    with pytest.raises(ConfigError, match=r"0.weight lies outside of fully_shard"):
        meshes.check(model, mesh)
    other = net()
    fully_shard(other, mesh=mesh["tensor_parallel"])
    with pytest.raises(ConfigError, match=r"0.weight lies outside of fully_shard"):
        meshes.check(other, mesh)


def test_a_divided_buffer_is_refused(mesh):
    model = parallelized(mesh)
    model.register_buffer("table", DTensor.from_local(torch.zeros(2), mesh["tensor_parallel"], [Shard(0)]))
    fully_shard(model, mesh=mesh["data_parallel"])
    with pytest.raises(ConfigError, match=r"The buffer table is placed as .*leave it whole"):
        meshes.check(model, mesh)


def test_a_model_without_data_is_noticed():
    assert meshes.has_values(net())
    with torch.device("meta"):
        assert not meshes.has_values(net())


def test_the_norm_counts_each_part_once(mesh):
    """The sum over the ranks is that of rank 0 here, which has a quarter, a half, and all."""
    both = DTensor.from_local(torch.full((2, 2), 2.0), mesh, (Shard(0), Shard(1)), run_check=False)
    half = DTensor.from_local(torch.full((2, 2), 3.0), mesh["data_parallel"], [Shard(0)], run_check=False)
    repeated = DTensor.from_local(torch.ones(4), mesh, (Replicate(), Replicate()), run_check=False)
    assert norm.norm([both, half, repeated]) == pytest.approx((4 * 4 + 4 * 9 + 4) ** 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_clipping_scales_as_torch_does(dtype):
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        found, expected = net().to(dtype), net().to(dtype)
        expected.load_state_dict(found.state_dict())
        x = torch.randn(3, 4, dtype=dtype)
        for model in (found, expected):
            model(x).square().sum().backward()
        before = norm.norm([parameter.grad for parameter in found.parameters()])
        total = torch.nn.utils.clip_grad_norm_(expected.parameters(), 0.1)
        torch.testing.assert_close(before, total, check_dtype=False, rtol=1e-2, atol=0)
        clipping.clip(found.parameters(), 0.1, norm.norm)
        for mine, other in zip(found.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad)
            assert mine.grad.dtype is dtype
        clipping.clip(found.parameters(), 1e9, norm.norm)  # below the limit, nothing changes
        torch.testing.assert_close([p.grad for p in found.parameters()], [p.grad for p in expected.parameters()])
    finally:
        distributed.destroy_process_group()


def test_processes_that_compute_together_share_batches_as_long_as_their_group_exists(mesh):
    parallel.compute_together(2)
    assert [parallel.share(rank, 4) for rank in range(4)] == [(0, 2), (0, 2), (1, 2), (1, 2)]
    distributed.destroy_process_group()
    assert parallel.num_together() == 1
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    assert parallel.num_together() == 1


def test_groups_of_processes_are_not_kept_alive():
    """They keep their threads, and one that a forked process inherits would wait for threads that are not there."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    group = weakref.ref(distributed.group.WORLD)
    parallel.compute_together(2)
    own = weakref.ref(complete._group())
    assert complete._group() is own()
    distributed.destroy_process_group()
    gc.collect()
    assert (group(), own()) == (None, None)


@pytest.mark.parametrize("shape", [(2, 2), (1, 4)])
def test_processes_of_a_strategy_that_does_not_say_so_are_refused(shape):
    """As those of Lightning's ModelParallelStrategy: its own sampler knows of them, and ours would not."""
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    try:
        for names in (None, ("replicate", "shard")):
            init_device_mesh("cpu", shape, mesh_dim_names=names)
            assert parallel.share(3, 4) == (3, 4)
        init_device_mesh("cpu", shape, mesh_dim_names=("data_parallel", "tensor_parallel"))
        with pytest.raises(
            DataError, match=rf"^{shape[1]} processes compute each batch together .* use cairn\.FSDP2Str"
        ):
            len(cairn.DataLoader(range(8)))
        parallel.compute_together(1)  # that of Cairn has ended, and another one begins
        assert len(cairn.DataLoader(range(8))) == 2
    finally:
        distributed.destroy_process_group()


def test_a_layer_that_is_too_small_to_be_divided_is_refused(mesh):
    model = parallelize_module(nn.Linear(4, 1), mesh["tensor_parallel"], ColwiseParallel())
    fully_shard(model, mesh=mesh["data_parallel"])
    with pytest.raises(ConfigError, match=r"weight has the shape \(1, 4\), which leaves nothing for some of the 2"):
        meshes.check(model, mesh)


def test_a_trainer_clips_as_before_when_its_run_is_over():
    plugin = Precision()
    before = plugin.clip_grad_by_norm
    clipping.install(plugin, norm.norm)
    assert plugin.clip_grad_by_norm != before
    for _ in range(2):  # a strategy is torn down after each stage
        clipping.remove(plugin)
        assert plugin.clip_grad_by_norm == before
