"""A sharded run is exact on the same processes, and goes on with any number of them, with DDP and back."""

import multiprocessing

import pytest
import torch
from tests.support.sharded_fit import HybridNet, Net, ParallelNet, saved, start

from cairn import Writing
from cairn.store.catalog import Catalog

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="forks processes"),
]
RANDOM = {"dropout": 0.3, "statistics": True}


def flat(value, path=""):
    """Tensors and other values of a state by their paths."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: item for key, part in items for name, item in flat(part, f"{path}/{key}").items()}
    return {path: value}


def newest(folder):
    """Path of the newest checkpoint."""
    return folder / "checkpoints" / Catalog(folder / "checkpoints").committed()[-1].name


def assert_equal(found, expected):
    found, expected = flat(found), flat(expected)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value, name


def test_a_resumed_run_is_exact_on_the_same_processes(tmp_path):
    whole = start(tmp_path / "whole", 2, {}, RANDOM)
    start(tmp_path / "run", 2, {}, RANDOM, max_steps=3)
    # as single files, which hold what the shards hold
    rest = start(tmp_path / "run", 2, {"meta_init": True}, RANDOM, saving={"writing": Writing(sharded=False)})
    assert newest(tmp_path / "whole").is_dir()
    assert newest(tmp_path / "run").is_file()
    assert_equal(saved(tmp_path / "run"), saved(tmp_path / "whole"))
    assert_same_run(rest, whole)
    # state_dict() frees gathered parameters: on some ranks only, the next step would wait for ever
    assert whole[0]["calls"] == whole[1]["calls"] > 0


def test_the_memory_is_shared_and_the_numbers_are_those_of_ddp(tmp_path):
    ddp = start(tmp_path / "ddp", 2, "ddp", RANDOM)
    found = start(tmp_path / "run", 2, {}, RANDOM, saving={"writing": Writing(overlap=True)})
    assert found[0]["rows"] != found[1]["rows"]
    for before, after in zip(ddp, found, strict=True):
        assert after["losses"][0] == before["losses"][0]
        assert after["losses"] == pytest.approx(before["losses"], rel=1e-3)
    torch.testing.assert_close(saved(tmp_path / "run")["state_dict"], saved(tmp_path / "ddp")["state_dict"])


class UsesSome(Net):
    """Each rank uses another layer of one shape in its loss, every second batch, and none uses a third one."""

    def __init__(self, **options):
        super().__init__(**options)
        self.some, self.never = torch.nn.ModuleList(torch.nn.Linear(4, 1) for _ in range(2)), torch.nn.Linear(4, 1)

    def forward(self, x):
        found = super().forward(x)
        return found + self.some[self.global_rank](x) if self.training and self.global_step % 2 else found


def test_layers_that_some_processes_use_are_trained_as_with_ddp_and_others_stay(tmp_path):
    start(tmp_path / "ddp", 2, "ddp_find_unused_parameters_true", {"kind": UsesSome})
    start(tmp_path / "run", 2, {}, {"kind": UsesSome})
    found, expected = saved(tmp_path / "run"), saved(tmp_path / "ddp")
    assert_close(found, expected)
    assert torch.equal(found["state_dict"]["never.weight"], expected["state_dict"]["never.weight"])
    assert found["optimizer_states"][0]["state"].keys() == expected["optimizer_states"][0]["state"].keys()


class LeavesOut(Net):
    """From its third step on, each rank uses one of two blocks of one size."""

    def forward(self, x):
        if self.training and self.global_step > 1:
            return self.leave(self.norm(self.blocks[self.global_rank](self.enter(x))))
        return super().forward(x)


def test_processes_that_use_different_blocks_are_refused(tmp_path):
    text = "Processes use different blocks .*: one has come to blocks.0, and another one to blocks.1. With FSDP2"
    with pytest.raises(RuntimeError, match=text):
        start(tmp_path, 2, {}, {"kind": LeavesOut})


MESH = {"data_parallel_size": 2, "tensor_parallel_size": 2}


def assert_same_run(rest, whole):
    """The rest of a run has seen what the whole one has, on each rank."""
    for before, after in zip(whole, rest, strict=True):
        assert after["losses"] == before["losses"][-len(after["losses"]) :]
        assert after["metrics"] == before["metrics"]


def assert_close(found, expected):
    """Two states are equal up to the order of additions."""
    found, expected = flat(found), flat(expected)
    for name in expected:
        if name.startswith(("/state_dict", "/optimizer_states")):
            torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5)


class HasOtherBatches(ParallelNet):
    """It gets other batches on each rank, as from a sampler that knows nothing of groups."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [part + self.global_rank for part in batch]


def test_tensor_parallelism_is_exact_on_the_same_mesh_and_another_one_is_refused(tmp_path):
    net = {"kind": ParallelNet, "width": 6, **RANDOM}  # the rows of a group are divided unequally, with dropout
    whole = start(tmp_path / "whole", 4, MESH, net)
    assert whole[0]["losses"] == whole[1]["losses"] != whole[2]["losses"] == whole[3]["losses"]
    weights = saved(tmp_path / "whole")["state_dict"]
    for name, value in whole[0]["weights"].items():
        assert torch.equal(torch.tensor(value), weights[name]), name
    start(tmp_path / "run", 4, MESH, net, max_steps=3)
    # as single files, which hold what the shards hold
    rest = start(tmp_path / "run", 4, MESH, net, saving={"writing": Writing(sharded=False)})
    assert newest(tmp_path / "whole").is_dir()
    assert newest(tmp_path / "run").is_file()
    assert_equal(saved(tmp_path / "run"), saved(tmp_path / "whole"))
    assert_same_run(rest, whole)
    # the numbers are those of one process, clipped by the same norm
    start(tmp_path / "one", 1, "auto", {"width": 6})
    start(tmp_path / "two", 2, {"tensor_parallel_size": 2}, {"kind": ParallelNet, "width": 6})
    assert_close(saved(tmp_path / "two"), saved(tmp_path / "one"))
    with pytest.raises(RuntimeError, match=r"ConfigError: The processes of a tensor-parallel group have different"):
        start(tmp_path / "other", 2, {"tensor_parallel_size": 2}, {"kind": HasOtherBatches, "width": 6})
    words = "saved with data_parallel_size=2 and tensor_parallel_size=2, and this run has 1 process without"
    with pytest.raises(RuntimeError, match=f"ResumeError: .*{words}.*use 4 processes.*init_weights"):
        start(tmp_path / "whole", 1, "auto", {"width": 6, **RANDOM}, max_epochs=3)


def test_replicas_of_shards_are_exact_and_only_the_first_one_writes(tmp_path):
    net = {"kind": HybridNet, **RANDOM}
    whole = start(tmp_path / "whole", 4, {}, net)
    start(tmp_path / "run", 4, {}, net, max_steps=3)
    rest = start(tmp_path / "run", 4, {}, net)
    assert_equal(saved(tmp_path / "run"), saved(tmp_path / "whole"))
    assert_same_run(rest, whole)
    shards = [torch.load(path, weights_only=True) for path in sorted(newest(tmp_path / "run").iterdir())]
    assert [len(shard["pieces"]) > 0 for shard in shards] == [True, True, False, False]


def read(checkpoint):
    checkpoint["norm"] = float(checkpoint["state_dict"]["enter.weight"].norm())


def change(checkpoint):
    checkpoint["state_dict"]["enter.weight"] = checkpoint["state_dict"]["enter.weight"].half()


@pytest.mark.parametrize(
    ("hook", "message"), [(read, "on_save_checkpoint reads values"), (change, "state_dict/enter.weight .* is made of")]
)
def test_a_hook_that_needs_values_that_no_process_has_is_refused_before_training(tmp_path, hook, message):
    with pytest.raises(RuntimeError, match=f"ConfigError: .*{message}"):
        start(tmp_path, 2, {}, {"hook": hook})
    assert not Catalog(tmp_path / "checkpoints").committed()


def test_a_run_moves_between_ddp_and_shards_of_any_number_of_processes(tmp_path):
    start(tmp_path / "whole", 1)
    for processes, strategy, steps in [
        (2, "ddp", 2),
        (3, {}, 4),
        (1, "auto", 5),
        (4, {"meta_init": True, "activation_checkpointing": True}, 7),
        (2, "ddp", -1),
    ]:
        start(tmp_path / "run", processes, strategy, max_steps=steps)
    assert_close(saved(tmp_path / "run"), saved(tmp_path / "whole"))
