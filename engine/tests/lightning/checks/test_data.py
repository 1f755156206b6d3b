"""Loaders that are not Cairn's: each that may not be exact is named before the first batch."""

import random
import time
import uuid
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

import cairn
from cairn.data import iterable_position
from cairn.data.hidden_state import hidden_state
from cairn.lightning.checks import data as data_checks


class Numbers(Dataset):
    def __init__(self, rng=None):
        self.rng = rng

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.tensor(float(index) + (self.rng.random() if self.rng else 0.0))


class Lines(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(4.0))


class Vocabulary(DataLoader):
    """Its state has nothing to do with its position."""

    def state_dict(self):
        return {"words": 10}

    def load_state_dict(self, state):
        pass


class OnlySaves(DataLoader):
    """Its state is not loaded."""

    def state_dict(self):
        return {}


class Counts(Numbers):
    read = 0

    def __getitem__(self, index):
        self.read += 1
        return super().__getitem__(index) + self.read


class Follows(Numbers):
    last = 0.0

    def __getitem__(self, index):
        self.last, sample = float(index), super().__getitem__(index) + self.last
        return sample


class Iterates(Numbers):
    def __init__(self):
        super().__init__()
        self.numbers = iter(range(1000))

    def __getitem__(self, index):
        return torch.tensor(float(next(self.numbers)))


class Keeps(Numbers):
    """Keeps its samples, which it has drawn, or computed."""

    def __init__(self, noise):
        super().__init__()
        self.noise, self.kept = noise, {}

    def __getitem__(self, index):
        if index not in self.kept:
            self.kept[index] = super().__getitem__(index) + self.noise * torch.rand(())
        return self.kept[index]


class OpensLate(Numbers):
    """Opens its file at the first sample, and draws from several generators."""

    file = None

    def __getitem__(self, index):
        self.file = self.file or Path(__file__).open()  # noqa: SIM115
        self.file.seek(index)
        return super().__getitem__(index) + random.random() + (torch.nan if index else 0.0)


class Ramps(Numbers):
    """A sample changes only after many reads."""

    read = 0

    def __getitem__(self, index):
        self.read += 1
        return super().__getitem__(index) * (1 if self.read < 1000 else 2)


class HoldsTheTime(Numbers):
    """A sample has the time at which it was read, in seconds."""

    def __getitem__(self, index):
        return super().__getitem__(index) + int(time.time())


class HoldsTheHour(Numbers):
    """A sample has the hour of the day, from a class that its module has imported by name."""

    def __getitem__(self, index):
        assert isinstance(datetime(2020, 1, 1), datetime)
        return super().__getitem__(index) + datetime.now().hour


class HoldsAnId(Numbers):
    def __getitem__(self, index):
        return super().__getitem__(index) + uuid.uuid4().int % 1000


class TimedLines(IterableDataset):
    """Holds its position, and the time of each sample."""

    position = 0

    def __iter__(self):
        while self.position < 12:
            self.position += 1
            yield float(time.time())

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def timed(samples):
    return torch.stack(samples) + time.time_ns() % 1000


class Stacks:
    calls = 0

    def __call__(self, samples):
        self.calls += 1
        return torch.stack(samples) * self.calls


class Hidden(IterableDataset):
    """Shuffles with a buffer that its state may hold."""

    def __init__(self, is_saved):
        self.is_saved, self.position, self.held, self.is_loaded = is_saved, 0, [], False

    def __iter__(self):
        if not self.is_loaded:
            self.position, self.held = 0, []
        held = self.held if self.is_saved else []
        self.is_loaded = False
        while self.position < 12:
            self.position += 1
            held.append(self.position)
            if len(held) > 3:
                yield float(held.pop(random.randrange(len(held))))
        while held:
            yield float(held.pop())

    def state_dict(self):
        return {"position": self.position, "held": list(self.held)}

    def load_state_dict(self, state):
        self.position, self.held, self.is_loaded = state["position"], list(state["held"]), True


class Shuffles(list):
    def __iter__(self):
        return iter(random.sample(range(4), 4))


def _of(package, name, base=Vocabulary):
    return type(name, (base,), {"__module__": f"{package}.somewhere"})


def jittered(samples):
    return torch.stack(samples) + torch.rand(())


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return (self.weight - batch.mean()) ** 2

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Validated(Net):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        pass


class Own(cairn.DataModule):
    """Returns torch's loader from Cairn's datamodule."""

    def setup(self, stage=None):
        self.train_set, self.val_set = Numbers(), Numbers()

    def train_dataloader(self):
        return DataLoader(self.train_set, self.batch_size, shuffle=True)


def _fit(tmp_path, model, *arguments, datamodule=None, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    checkpoints = cairn.Checkpointer(tmp_path, writing=cairn.Writing(writer="sync"))
    trainer = Trainer(**{"max_epochs": 1, "num_sanity_val_steps": 0, "callbacks": [checkpoints], **quiet, **options})
    trainer.fit(model, *arguments, datamodule=datamodule)


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (lambda: Vocabulary(Numbers(), 2), r"loader \(Vocabulary\) has a state of its own.*assert_exact finds out"),
        (lambda: OnlySaves(Numbers(), 2), r"does not save its position \(OnlySaves\)"),
        (lambda: _of("litdata", "StreamingDataLoader")(Numbers(), 2), r"StreamingDataLoader of litdata.*skipped"),
        (lambda: _of("torchdata", "StatefulDataLoader")(Lines(), 2), "over an iterable.*random numbers.*next epoch"),
        (lambda: [cairn.DataLoader(Numbers(), 2), DataLoader(Numbers(), 2)], r"save its position \(DataLoader\)"),
        (lambda: {"a": {"b": DataLoader(Numbers(), 2)}, "c": cairn.DataLoader(Numbers())}, r"\(DataLoader\)"),
    ],
)
def test_a_training_loader_that_may_not_be_exact_is_named(loader, words, tmp_path):
    model = Net()
    model.training_step = lambda batch, batch_idx: model.weight**2
    with pytest.warns(UserWarning, match=words):
        _fit(tmp_path, model, loader())


def test_a_generator_of_the_training_data_that_is_not_seeded_is_named(tmp_path):
    with pytest.warns(UserWarning, match=r"own \(dataset\.rng\).*Set seeded_items=True"):
        _fit(tmp_path, Net(), cairn.DataLoader(Numbers(random.Random(1)), 2, seeded_items=False))


def test_the_loader_that_training_uses_counts_and_not_the_datamodule(tmp_path):
    with pytest.warns(UserWarning, match=r"does not save its position \(DataLoader\)"):
        _fit(tmp_path, Validated(), datamodule=Own(2))


def test_a_stateful_loader_of_torchdata_is_exact_in_the_main_process_and_not_named(tmp_path):
    _fit(tmp_path, Net(), _of("torchdata", "StatefulDataLoader")(Numbers(), 2))


@pytest.mark.filterwarnings("ignore:Your `val_dataloader`'s sampler has shuffling enabled")
@pytest.mark.parametrize(
    ("loader", "named"),
    [
        (lambda: DataLoader(Numbers(random.Random(1)), 2), r"generator of its own \(dataset\.rng\)"),
        (lambda: DataLoader(Numbers(), 2, shuffle=True, generator=torch.Generator()), r"\(generator\)"),
        (lambda: cairn.DataLoader(Numbers(random.Random(1)), 2, seeded_items=False), r"\(dataset\.rng\)"),
        (lambda: cairn.DataLoader(Numbers(random.Random(1)), 2), ""),
        (lambda: DataLoader(Numbers(), 2, shuffle=True), ""),
        (lambda: DataLoader(Numbers(), 2, generator=torch.Generator()), ""),
        (lambda: DataLoader(Numbers(), 2, num_workers=1, generator=torch.Generator()), r"\(generator\)"),
        (
            lambda: cairn.DataLoader(
                Numbers(), 2, num_workers=1, seeded_items=False, persistent_workers=True, collate_fn=jittered
            ),
            r"in workers that it keeps between validations \(collate_fn\)",
        ),
    ],
)
def test_a_validation_loader_with_a_generator_of_its_own_is_named(loader, named, tmp_path):
    if not named:
        _fit(tmp_path, Validated(), cairn.DataLoader(Numbers(), 2), loader())
        return
    with pytest.warns(UserWarning, match=named):
        _fit(tmp_path, Validated(), cairn.DataLoader(Numbers(), 2), loader())


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (lambda: cairn.DataLoader(Counts(), 2, num_workers=1), "a sample of Counts depends on which samples"),
        (lambda: cairn.DataLoader(Follows(), 2, num_workers=1), "a sample of Follows depends"),
        (lambda: cairn.DataLoader(Iterates(), 2), "a sample of Iterates depends"),
        (lambda: cairn.DataLoader(Keeps(1), 2, num_workers=1, persistent_workers=True), "a sample of Keeps depends"),
        (lambda: cairn.DataLoader(Ramps(), 2, num_workers=1), r"Ramps\.read changes in the workers"),
        (lambda: cairn.DataLoader(Numbers(), 2, num_workers=1, collate_fn=Stacks()), "what the collate_fn returns"),
        (lambda: cairn.DataLoader(Hidden(False), 2), "A copy of Hidden that is loaded with the state.*yields other"),
    ],
)
def test_data_that_keeps_a_state_of_its_own_is_named(loader, words, tmp_path):
    with pytest.warns(UserWarning, match=words):
        _fit(tmp_path, Net(), loader())


@pytest.mark.parametrize(
    ("loader", "what"),
    [
        (lambda: cairn.DataLoader(HoldsTheTime(), 2), "A sample of HoldsTheTime"),
        (lambda: cairn.DataLoader(HoldsTheHour(), 2), "A sample of HoldsTheHour"),
        (lambda: cairn.DataLoader(HoldsAnId(), 2), "A sample of HoldsAnId"),
        (lambda: cairn.DataLoader(Numbers(), 2, collate_fn=timed), "What the collate_fn returns"),
        (lambda: cairn.DataLoader(TimedLines(), 2), "A sample of TimedLines"),
    ],
)
def test_data_that_depends_on_a_clock_gets_the_right_cause_and_cure(loader, what, tmp_path):
    said = f"{what} differs each time it is made, whatever was read before: it depends on a clock"
    with pytest.warns(UserWarning, match=said) as caught:
        _fit(tmp_path, Net(), loader())
    texts = [str(item.message) for item in caught]
    assert not [text for text in texts if "which samples were read" in text or "Save it in state_dict" in text]


@pytest.mark.parametrize(
    "loader",
    [
        lambda: cairn.DataLoader(Keeps(1), 2, num_workers=1),  # its workers live for one epoch
        lambda: cairn.DataLoader(Keeps(0), 2, num_workers=1, persistent_workers=True),
        lambda: cairn.DataLoader(OpensLate(), 2, num_workers=1),
        lambda: cairn.DataLoader(Numbers(random.Random(1)), 2, num_workers=1, collate_fn=jittered),
        lambda: cairn.DataLoader(Hidden(True), 2),
    ],
)
def test_data_that_depends_on_the_index_and_draws_alone_is_not_named(loader, tmp_path):
    _fit(tmp_path, Net(), loader())


def test_a_trial_of_the_data_leaves_it_and_its_generators_alone():
    rng, loader = random.Random(1), cairn.DataLoader(data := Counts(random.Random(1)), 2)
    data.rng = rng
    before = (rng.getstate(), random.getstate(), torch.get_rng_state().tolist(), dict(vars(data)))
    assert "Counts" in hidden_state(loader)
    assert (rng.getstate(), random.getstate(), torch.get_rng_state().tolist(), dict(vars(data))) == before


@pytest.mark.parametrize(("sampler", "is_named"), [(Shuffles(range(4)), True), ([0, 2, 1, 3], False)])
def test_a_sampler_that_draws_in_a_loader_of_torchdata_is_named(sampler, is_named, tmp_path):
    loader = _of("torchdata", "StatefulDataLoader")(Numbers(), 2, sampler=sampler)
    with pytest.warns(UserWarning, match="other samples") if is_named else nullcontext():
        _fit(tmp_path, Net(), loader)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_workers": 1, "seeded_items": False}, True),
        ({"num_workers": 1}, False),
        ({"seeded_items": False}, False),
        ({"num_workers": 1, "seeded_items": False, "collate_fn": torch.stack}, False),
    ],
)
def test_training_data_that_draws_in_workers_without_a_seed_is_named(options, named, tmp_path):
    data = cairn.DataLoader([torch.tensor(1.0)] * 4, 2, **{"collate_fn": jittered, **options})
    words = r"seems to draw random numbers in its workers \(collate_fn\).*Set seeded_items=True"
    with pytest.warns(UserWarning, match=words) if named else nullcontext():
        _fit(tmp_path, Net(), data)


@pytest.mark.parametrize("scale", [0, 0.1])
def test_random_numbers_that_an_option_turns_off_are_not_named(scale, tmp_path):
    class Noisy(Numbers):
        def __getitem__(self, index):
            item = super().__getitem__(index)
            return item + scale * torch.rand(()) if scale else item

    data = cairn.DataLoader(Noisy(), 2, num_workers=1, seeded_items=False)
    with pytest.warns(UserWarning, match="seems to draw") if scale else nullcontext():
        _fit(tmp_path, Net(), data)


def test_each_validation_loader_is_checked_once(tmp_path, monkeypatch):
    searched, owned = [], data_checks._owned_generators
    monkeypatch.setattr(data_checks, "_owned_generators", lambda loader: searched.append(loader) or owned(loader))
    val = cairn.DataLoader(Numbers(), 2)
    _fit(tmp_path, Validated(), cairn.DataLoader(Numbers(), 1), val, val_check_interval=1)
    assert searched == [val]


class Rebuilt(cairn.DataModule):
    """Makes its data again whenever it is asked for a loader."""

    def train_dataloader(self):
        self.train_set = Hidden(True)
        return super().train_dataloader()

    def val_dataloader(self):
        return [cairn.DataLoader(Numbers(), 2), cairn.DataLoader(Numbers(), 1)]


def test_the_kind_of_a_loader_is_that_of_the_users_data():
    kinds = [data_checks._kind(cairn.DataLoader(data, 2)) for data in (Numbers(), Counts(), Hidden(True))]
    assert [kind for _, kind in kinds] == [Numbers, Counts, Hidden]
    assert data_checks._kind(DataLoader(Subset(Counts(), [0]))) == (DataLoader, Counts)


def test_loaders_that_are_built_again_are_tried_once(tmp_path, monkeypatch):
    searched, tried = [], []
    monkeypatch.setattr(data_checks, "_owned_generators", lambda loader: searched.append(loader.batch_size) or "")
    monkeypatch.setattr(iterable_position, "other_after_state", lambda batches: tried.append(batches) or "")
    _fit(tmp_path, Validated(), datamodule=Rebuilt(2), max_epochs=3, reload_dataloaders_every_n_epochs=1)
    assert searched == [2, 1]  # all loaders of the first validation, and none of the others
    assert len(tried) == 1


class Several:
    """A trainer of two processes."""

    world_size = 2


@pytest.mark.parametrize(
    ("loader", "size", "num_processes", "warns"),
    [
        (DataLoader(Numbers()), 8, 2, True),
        (cairn.DataLoader(Numbers()), 8, 2, True),
        (cairn.DataLoader(Numbers(), global_batch_size=4), 8, 2, False),
        (cairn.DataLoader(Numbers()), None, 2, False),
        (cairn.DataLoader(Numbers()), 8, 1, False),
    ],
)
def test_a_validation_that_depends_on_the_number_of_processes_is_named_once(
    monkeypatch, recwarn, loader, size, num_processes, warns
):
    trainer = Several()
    trainer.world_size = num_processes
    monkeypatch.setattr(data_checks.boundary, "global_batch_size", lambda trainer: size)
    monkeypatch.setattr(data_checks.boundary, "val_loaders", lambda trainer: [loader])
    for _ in range(2):
        data_checks.check_val_data(trainer)
    found = [str(warning.message) for warning in recwarn]
    assert len(found) == warns
    assert all("no global_batch_size" in text and "global_batch_size=8" in text for text in found)
