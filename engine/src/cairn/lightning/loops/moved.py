"""A run that goes on with other processes than those that have saved its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.nn.modules.batchnorm import _BatchNorm

from cairn.errors import ResumeError
from cairn.lightning.loops.dealing import Dealt


@dataclass(frozen=True)
class SavedBy:
    """The processes that have saved a checkpoint."""

    world_size: int
    """Number of processes."""
    global_batch_size: int | None
    """None: each process had batches of its own."""
    accumulation: int
    """Batches of each process between two steps of the optimizer."""
    batch_size: int | None = None
    """Batch size of the first training loader, if it is a `cairn.DataLoader` without global batches."""
    mesh: tuple[int, int] | None = None
    """Groups of tensor-parallel processes, and processes in each; None: without tensor parallelism."""

    @property
    def per_window(self) -> int:
        """Batches of each process that counted as one."""
        return 1 if self.global_batch_size is None else self.accumulation

    @property
    def num_samples(self) -> int | None:
        """Samples between two steps of the optimizer, on all processes; None: unknown."""
        if self.global_batch_size is not None or self.batch_size is None:
            return self.global_batch_size
        return self.batch_size * (self.mesh[0] if self.mesh else self.world_size) * self.accumulation


MESH = "mesh"
"""Key of `SavedBy.mesh` in a checkpoint."""


def check_mesh(saved_by: SavedBy, world_size: int, together: int) -> None:
    """Check that a run with tensor parallelism goes on with the same mesh.

    Args:
        saved_by: The processes that have saved the checkpoint.
        world_size: Number of processes.
        together: How many of them compute a batch together.

    Raises:
        ResumeError: It has another one.
    """
    now = (world_size // together, together) if together > 1 else None
    if saved_by.mesh == now:
        return
    begin = "start a new run from the weights alone, which takes any mesh (init_weights=CHECKPOINT, cairn.load_model)."
    if saved_by.mesh is None:
        raise ResumeError(
            f"The checkpoint was saved without tensor parallelism, by {_processes(saved_by.world_size)}, and this run"
            f" has {_sizes(now)}. An exact resume needs the same: set tensor_parallel_size=1; or {begin}"
        )
    raise ResumeError(
        f"The checkpoint was saved with {_sizes(saved_by.mesh)}, and this run has"
        f" {_sizes(now) if now else f'{_processes(world_size)} without tensor parallelism'}. An exact resume needs the"
        f" same mesh: use {_processes(saved_by.world_size)} and cairn.FSDP2Strategy with {_sizes(saved_by.mesh)}; or"
        f" {begin}"
    )


def _sizes(mesh: tuple[int, int] | None) -> str:
    data, tensor = mesh or (0, 0)
    return f"data_parallel_size={data} and tensor_parallel_size={tensor}"


def _processes(number: int) -> str:
    return f"{number} process{'' if number == 1 else 'es'}"


def check(saved_by: SavedBy, dealt: Dealt | None, world_size: int) -> None:
    """Check that the global batches of a resumed run are those that it had before.

    Args:
        saved_by: The processes that have saved the checkpoint.
        dealt: How the loaders of this process deal out global batches.
        world_size: Number of processes.

    Raises:
        ResumeError: They are not; the message says how they can be.
    """
    before, many = saved_by.num_samples, f"{saved_by.world_size} process{'es' if saved_by.world_size > 1 else ''}"
    if dealt is None:
        if saved_by.world_size == world_size:
            return
        text = f"The checkpoint was saved by {many}, but this run has {world_size}"
        if before is None:
            raise ResumeError(f"{text}. {_SAME_NUMBER}")
        if saved_by.global_batch_size is None and saved_by.accumulation > 1:
            raise ResumeError(f"{text}, which would change its global batch of {before} samples. {_SAME_NUMBER}")
        raise ResumeError(
            f"{text}, which would change its global batch of {before} samples: set global_batch_size={before} on the"
            f" training loaders or the cairn.DataModule (data.global_batch_size={before}) to go on with any number of"
            f" processes that divides it, or use {many}."
        )
    if saved_by.global_batch_size is not None or before is None:
        return
    size = dealt.loader.global_batch_size
    if before != size or saved_by.accumulation > 1:
        why = f" with accumulate_grad_batches={saved_by.accumulation}" if saved_by.accumulation > 1 else ""
        raise ResumeError(
            f"The checkpoint was saved by {many} without global_batch_size{why}, with {before} samples between two"
            f" steps, and now global_batch_size={size}"
            + (": its batches cannot be counted as global ones. Go on without it." if why else f": set it to {before}.")
        )


_SAME_NUMBER = (
    "An exact resume needs the same number: change devices or num_nodes of the Trainer, or start a new run from the "
    "weights alone."
)


def warn_of_move(saved_by: SavedBy, dealt: Dealt, trainer: Trainer) -> None:
    """Warn that a run goes on with other batches of each process than before.

    Args:
        saved_by: The processes that have saved the checkpoint.
        dealt: How the loaders of this process deal out global batches.
        trainer: The trainer.
    """
    before, now = (saved_by.world_size, saved_by.per_window), (trainer.world_size, dealt.per_window)
    if before == now:
        return
    normed = any(isinstance(part, _BatchNorm) for part in trainer.lightning_module.modules())
    why = ["Sums are added in another order"]
    why += ["new processes draw other random numbers"] if trainer.world_size > saved_by.world_size else []
    why += ["the statistics of BatchNorm are those of other batches"] if normed else []
    rank_zero_warn(
        f"The checkpoint was saved by {_counted(*before)} for each global batch, and this run has {_counted(*now)}: it "
        f"continues with the same samples, but its results will not be bit-identical. {'; '.join(why)}."
    )


def _counted(world_size: int, per_window: int) -> str:
    return (
        f"{world_size} process{'es' if world_size > 1 else ''} with {per_window} batch{'es' if per_window > 1 else ''}"
    )
