"""A buffer that holds a setting follows the configuration of a new run, or the run says that it does not."""

import logging

import pytest
import torch
from lightning.pytorch import Trainer
from tests.support.configured import BATCHES, Net, fit
from torch import nn
from torchmetrics.classification import BinaryPrecisionRecallCurve

from cairn.lightning.settings import buffers

FOLLOWS, KEEPS = "run follows its configuration, not its checkpoint: ", "run keeps settings of its checkpoint: "


@pytest.fixture(autouse=True)
def _info(caplog):
    caplog.set_level(logging.INFO, "cairn")
    torch.manual_seed(0)


class Buffered(Net):
    """Module with buffers of each kind, of which training changes one."""

    def __init__(self, mean=0.0, weight=1.0, mask=1, start=0.0, seed=0, in_setup=0.0, thresholds=5):
        super().__init__()
        random = torch.randn(64, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("mean", torch.tensor(mean))
        self.crit = nn.CrossEntropyLoss(weight=torch.full((2,), weight))
        self.register_buffer("mask", torch.ones(8, 8).triu(mask), persistent=False)
        self.register_buffer("running", torch.tensor(start))
        self.register_buffer("projection", random)
        self.in_setup = in_setup
        self.curve = BinaryPrecisionRecallCurve(thresholds=thresholds)
        self.seen = []

    def setup(self, stage):
        self.register_buffer("late", torch.tensor(self.in_setup))

    def training_step(self, batch, batch_idx):
        self.running += 1
        self.seen.append((float(self.mean), float(self.crit.weight[0]), float(self.mask.sum()), float(self.late)))
        self.curve.update(torch.rand(2), torch.ones(2, dtype=torch.long))
        return super().training_step(batch, batch_idx)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    torch.manual_seed(0)
    return fit(tmp_path_factory.mktemp("old"), Buffered())


def new(directory, net, old, **options):
    return fit(directory / "new", net, old.path(), **{"epochs": 3, **options})


def test_what_is_configured_in_another_way_follows(tmp_path, old, caplog):
    run = new(tmp_path, Buffered(mean=0.5, weight=3.0, mask=2, in_setup=2.0), old)
    assert run.net.seen == [(0.5, 3.0, 21.0, 2.0)] * BATCHES
    assert f"The new {FOLLOWS}" in caplog.text
    for said in (
        "buffer mean=0.5 (0.0 in the checkpoint)",
        "buffer crit.weight=[3.0, 3.0] ([1.0, 1.0] in the checkpoint)",
        "buffer mask has other values",
        "buffer late=2.0 (0.0 in the checkpoint)",
    ):
        assert said in caplog.text
    saved = torch.load(run.path(), weights_only=True)["state_dict"]
    assert float(saved["mean"]) == 0.5


def test_what_training_has_changed_stays_and_is_named(tmp_path, old, caplog):
    run = new(tmp_path, Buffered(start=9.0), old)
    assert float(run.net.running) == 3 * BATCHES
    assert f"The new {KEEPS}buffer running={float(2 * BATCHES)} (9.0 is configured)" in caplog.text


def test_under_another_seed_a_saved_buffer_may_be_random_and_stays(tmp_path, old, caplog):
    torch.manual_seed(1)
    run = new(tmp_path, Buffered(mean=0.5, seed=1, mask=2), old)
    assert torch.equal(run.net.projection, Buffered().projection)
    assert run.net.seen == [(0.0, 1.0, 28.0, 0.0)] * BATCHES
    for said in (
        f"The new {KEEPS}buffer mean=0.0 (0.5 is configured)",
        "buffer projection (it is built with other values)",
        "buffer mask (it is built with other values)",
    ):
        assert said in caplog.text


class Normalized(Net):
    """Module with layers whose buffers come with the weights, of which training changes none."""

    def __init__(self, pretrained):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(2) for _ in range(5))
        if pretrained:
            for number, parameter in enumerate([*self.parameters(), *self.buffers()]):
                parameter.data.fill_(number)

    def on_train_epoch_start(self):
        self.norms.eval()


@pytest.mark.parametrize("resumes", [True, False])
def test_what_came_with_weights_stays_without_a_word(tmp_path, resumes, caplog):
    old = fit(tmp_path / "old", Normalized(pretrained=True))
    net = Normalized(pretrained=False)
    fit(tmp_path / ("old" if resumes else "new"), net, "resume" if resumes else old.path(), epochs=3)
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), old.net.buffers(), strict=True))
    assert FOLLOWS not in caplog.text
    assert KEEPS not in caplog.text


def test_many_kept_buffers_are_counted(tmp_path, caplog):
    class Many(Net):
        def __init__(self, value):
            super().__init__()
            for number in range(6):
                self.register_buffer(f"value{number}", torch.tensor(value))

    old = fit(tmp_path / "old", Many(1.0))
    torch.manual_seed(1)
    fit(tmp_path / "new", Many(2.0), old.path(), epochs=3)
    assert "buffer value2=1.0 (2.0 is configured); 3 more buffers." in caplog.text


def test_the_model_of_an_earlier_fit_is_not_freshly_built(tmp_path, caplog):
    net = Buffered()
    old = fit(tmp_path, net)
    fit(tmp_path, net, "resume", epochs=3)
    fit(tmp_path / "new", net, old.path(), epochs=3)
    assert FOLLOWS not in caplog.text
    assert KEEPS not in caplog.text


def test_a_metric_whose_buffers_differ_starts_empty(tmp_path, old, caplog):
    run = new(tmp_path, Buffered(thresholds=7), old)
    assert run.net.curve.thresholds.shape == (7,)
    assert int(run.net.curve.confmat[0].sum()) == 2 * BATCHES  # the epochs before do not count
    assert "curve (a metric) starts empty: thresholds has other values" in caplog.text


def test_without_a_change_buffers_are_state(tmp_path, old, caplog):
    run = new(tmp_path, Buffered(), old)
    assert float(run.net.running) == 3 * BATCHES
    assert int(run.net.curve.confmat[0].sum()) == 6 * BATCHES
    assert FOLLOWS not in caplog.text
    assert KEEPS not in caplog.text


def test_a_resumed_run_keeps_its_buffers_and_says_so_each_time(tmp_path, caplog):
    torch.manual_seed(0)
    fit(tmp_path, Buffered())
    for epochs in (3, 4):
        caplog.clear()
        torch.manual_seed(0)
        run = fit(tmp_path, Buffered(mean=0.5, mask=2), "resume", epochs=epochs)
        assert run.net.seen == [(0.0, 1.0, 28.0, 0.0)] * BATCHES
        assert f"The resumed {KEEPS}buffer mean=0.0 (0.5 is configured)" in caplog.text
        assert "buffer mask (it is built with other values)" in caplog.text
    caplog.clear()
    fit(tmp_path, Buffered(), "resume", epochs=5)
    assert KEEPS not in caplog.text


def test_a_resume_without_a_seed_does_not_name_random_buffers(tmp_path, caplog):
    torch.manual_seed(1)
    fit(tmp_path, Buffered())
    torch.manual_seed(2)
    fit(tmp_path, Buffered(seed=1), "resume", epochs=3)
    assert KEEPS not in caplog.text


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_a_precision_is_not_a_change_of_buffers(tmp_path, precision, caplog):
    seeded = lambda mean: [torch.manual_seed(0), Exact(mean)][1]  # noqa: E731
    old = fit(tmp_path / "old", seeded(0.1))
    for number, before in enumerate((old, fit(tmp_path / "other", seeded(0.1), precision=precision))):
        fit(tmp_path / f"new{number}", seeded(0.1), before.path(), epochs=3, precision=precision)
        assert FOLLOWS not in caplog.text
        assert KEEPS not in caplog.text
    run = fit(tmp_path / "changed", seeded(0.3), before.path(), epochs=3, precision=precision)
    assert float(run.net.mean) == pytest.approx(0.3, rel=1e-2)


class Exact(Net):
    """Module with a buffer that does not have the same value in each precision."""

    def __init__(self, mean):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))

    def training_step(self, batch, batch_idx):
        return self.b(self.a(batch[0].to(self.mean.dtype))).square().mean()


@pytest.mark.parametrize(
    "value",
    [
        torch.eye(3).to_sparse(),
        torch.empty(3, device="meta"),
        torch.ones(2, dtype=torch.cfloat).conj(),
        torch.ones(40).to(torch.float8_e4m3fn),
        torch.zeros(0),
        torch.tensor(True),
    ],
)
def test_any_buffer_can_be_built_with(value):
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    found = buffers.record(value, trainer)
    assert found is None or found == buffers.record(value.clone(), trainer)


def test_a_band_in_a_large_mask_is_seen():
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    ones = torch.ones(2048, 2048, dtype=torch.bool)
    assert buffers.record(ones.tril(), trainer) != buffers.record(ones.tril().triu(-512), trainer)
