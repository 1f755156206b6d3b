"""The mesh of processes: data parallelism by rows of it, and tensor parallelism inside of each row.

data_parallel_size=2, tensor_parallel_size=2       tensor_parallel
                                                   rank 0  rank 1      one batch
                                    data_parallel  rank 2  rank 3      another batch
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from cairn.errors import ConfigError
from cairn.lightning.saved import block, unsaved

Size = int | Literal["auto"]
DATA, TENSOR = "data_parallel", "tensor_parallel"


def sizes(data: Size, tensor: Size, num_processes: int, per_node: int) -> tuple[int, int]:
    """Return the sizes of a mesh.

    Args:
        data: Processes that have batches of their own; `auto`: what the other size leaves.
        tensor: Processes that compute a batch together; `auto`: those of a node.
        num_processes: Number of processes.
        per_node: How many of them each node has.

    Raises:
        ConfigError: They do not fit the number of processes.
    """
    number = per_node if tensor == "auto" else tensor
    found = max(1, num_processes // max(1, number)) if data == "auto" else data
    if found * number != num_processes:
        raise ConfigError(
            f"data_parallel_size={data} and tensor_parallel_size={tensor} do not fit {num_processes}"
            f" process{'' if num_processes == 1 else 'es'}: their product must be the number of processes (devices x"
            f" num_nodes).",
            parameter="tensor_parallel_size",
        )
    return found, number


def check_sizes(data: Size, tensor: Size) -> None:
    """Check two arguments.

    Raises:
        ConfigError: One is not a number of processes.
    """
    for name, value in (("data_parallel_size", data), ("tensor_parallel_size", tensor)):
        if value != "auto" and (type(value) is not int or value < 1):
            raise ConfigError(f"{name}={value!r} must be an integer of at least 1, or 'auto'.", parameter=name)


def has_values(model: nn.Module) -> bool:
    """Whether all parameters have data, which parallelize_module divides in configure_model()."""
    return not any(parameter.is_meta for parameter in model.parameters())


NO_VALUES = (
    "With tensor parallelism, configure_model() divides the parameters before the strategy can fill them, so each"
    " process needs a model with data: build it without torch.device('meta'), and with meta_init=False."
)
"""What is wrong if a model lacks values."""


def check_uses(model: nn.Module, mesh: DeviceMesh) -> None:
    """Check that a model uses its tensor-parallel processes.

    Raises:
        ConfigError: Nothing in it is divided among them.
    """
    together = _ranks(mesh[TENSOR])
    if len(together) > 1 and not any(together <= _ranks(item.device_mesh) for item in _sharded(model)):
        raise ConfigError(
            f"tensor_parallel_size={len(together)}, and configure_model() divides nothing among these processes: call"
            f" parallelize_module(..., self.device_mesh['{TENSOR}'], ...) there, or set tensor_parallel_size=1.",
            parameter="tensor_parallel_size",
        )


def check(model: nn.Module, mesh: DeviceMesh) -> None:
    """Check that all trained parameters are sharded, and in a way that checkpoints can hold.

    Args:
        model: The sharded model.
        mesh: All processes.

    Raises:
        ConfigError: One is not.
    """
    apart, together = _ranks(mesh[DATA]), _ranks(mesh[TENSOR])
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ConfigError(
                f"{name} has no data: it is on the meta device, and was sharded before the strategy could fill it."
                f" Remove fully_shard from configure_model(): the strategy fills the model, and shards it."
            )
        is_reduced = isinstance(parameter, DTensor) and apart <= _ranks(parameter.device_mesh)
        if not is_reduced and parameter.requires_grad:
            raise ConfigError(
                f"{name} lies outside of fully_shard, so nothing would reduce its gradients and each process would"
                f" train its own: remove fully_shard from configure_model(), and the strategy shards the whole"
                f" model; or apply it to the module that holds this parameter."
            )
        if isinstance(parameter, DTensor) and (why := block.why_not(parameter)):
            raise ConfigError(
                f"{name} is placed as {parameter.placements} on a mesh of {tuple(parameter.device_mesh.shape)}"
                f" processes, which checkpoints do not support: {why}. Place it in another way."
            )
        if isinstance(parameter, DTensor) and _leaves_empty(parameter, together):
            raise ConfigError(
                f"{name} has the shape {tuple(parameter.shape)}, which leaves nothing for some of the"
                f" {len(together)} processes that it is divided among, and torch cannot reduce an empty gradient:"
                f" leave this layer out of the plan of parallelize_module."
            )
    for name, buffer in model.named_buffers():
        if isinstance(buffer, DTensor) and block.is_divided(buffer):
            raise ConfigError(
                f"The buffer {name} is placed as {buffer.placements}, and buffers are those of rank 0 before each step:"
                f" leave it whole, or make it a parameter."
            )


def share_replicas(model: nn.Module, mesh: DeviceMesh) -> None:
    """Give each part of a parameter the values of the first rank that has it. Every rank must call this.

    Args:
        model: The model, whose parameters may be divided among some of the ranks.
        mesh: All processes.
    """
    for tensor in _sharded(model):
        own = tensor.device_mesh
        groups = [own.get_group(number) for number, item in enumerate(tensor.placements) if _repeats(own, number, item)]
        groups += [mesh.get_group(name) for name in (DATA, TENSOR) if not _ranks(mesh[name]) <= _ranks(own)]
        for group in groups:
            _broadcast(tensor.detach().to_local(), group)


def share_generators(mesh: DeviceMesh) -> None:
    """Let processes that compute a batch together draw the same random numbers. Every rank must call this."""
    if mesh[TENSOR].size() == 1:
        return
    group = mesh.get_group(TENSOR)
    state: list[Any] = [unsaved.rng_state()]
    distributed.broadcast_object_list(state, group=group, src=distributed.get_global_rank(group, 0))
    if distributed.get_rank(group) > 0:
        unsaved.set_rng_state(state[0])


def is_same(digest: str, mesh: DeviceMesh) -> bool:
    """Whether all processes that compute a batch together have the same digest. Every rank must call this."""
    group = mesh.get_group(TENSOR)
    found: list[Any] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(found, digest, group=group)
    return len(set(found)) == 1


def _sharded(model: nn.Module) -> Iterator[DTensor]:
    return (item for item in (*model.parameters(), *model.buffers()) if isinstance(item, DTensor))


def _repeats(mesh: DeviceMesh, number: int, placement: Any) -> bool:
    return mesh.size(number) > 1 and block.divided_dim(placement) is None


def _leaves_empty(parameter: DTensor, together: set[int]) -> bool:
    """Whether some of the processes that compute a batch together get nothing of a parameter."""
    own = parameter.device_mesh
    for number, placement in enumerate(parameter.placements if len(together) > 1 else ()):
        dim = block.divided_dim(placement)
        if dim is not None and _along(own, number) == together:
            chunk = -(-parameter.shape[dim] // own.size(number))
            return chunk * (own.size(number) - 1) >= parameter.shape[dim]
    return False


def _along(mesh: DeviceMesh, number: int) -> set[int]:
    return set(distributed.get_process_group_ranks(mesh.get_group(number)))


def _ranks(mesh: DeviceMesh) -> set[int]:
    return set(mesh.mesh.flatten().tolist())


def _broadcast(local: Tensor, group: Any) -> None:
    value = local.contiguous()
    distributed.broadcast(value, group=group, src=distributed.get_global_rank(group, 0))
    if value is not local:
        local.copy_(value)
