"""A new run takes its weights from a file: all of them, a part, under other names, or once `setup` has run."""

import logging
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from cairn.errors import ModelError
from cairn.hydra.run.init_weights import InitWeights
from cairn.lightning.saved import as_built, resized
from cairn.store.resume import ResumePoint


class Plain(LightningModule):
    def __init__(self, num_classes=3, name="net"):
        super().__init__()
        self.num_classes, self.name = num_classes, name
        self.build()

    def build(self):
        setattr(self, self.name, nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 4)))
        self.head = nn.Linear(4, self.num_classes)

    def forward(self, x):
        return self.head(getattr(self, self.name)(x))

    def training_step(self, batch, batch_idx):
        return self(batch).sum()

    def test_step(self, batch, batch_idx):
        self.log("test/out", self(batch).sum())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class BuiltInSetup(Plain):
    def build(self):
        pass

    def setup(self, stage):
        if not hasattr(self, "head"):
            super().build()


class BuiltInConfigureModel(Plain):
    def build(self):
        pass

    def configure_model(self):
        if not hasattr(self, "head"):
            super().build()


class CompiledInSetup(Plain):
    def setup(self, stage):
        self.net = torch.compile(self.net, backend="eager")


class Renamed(Plain):
    """Reads files of an earlier version, in which its network had another name."""

    def __init__(self):
        super().__init__(name="body")

    def on_load_checkpoint(self, checkpoint):
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name.replace("net.", "body."): value for name, value in weights.items()}


class Lenient(Plain):
    """Leaves a frozen part out of its checkpoints."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(1, 1)
        self.strict_loading = False

    def state_dict(self, *args, **options):
        return {key: value for key, value in super().state_dict(*args, **options).items() if "frozen" not in key}


class Lazy(Plain):
    def build(self):
        self.net = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 4))
        self.head = nn.LazyLinear(self.num_classes)


class Counting(Plain):
    def __init__(self):
        super().__init__()
        self.count = 0

    def get_extra_state(self):
        return {"count": self.count}

    def set_extra_state(self, state):
        self.count = state["count"]


@pytest.fixture
def give(tmp_path, caplog):
    """Return a function that gives a model the weights of a file, and returns the callback."""
    caplog.set_level(logging.INFO, logger="cairn")

    def give(model, source, strict=True, prefix=None, contents=None):
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in source.parameters():
                parameter.fill_(7)
        made = {"state_dict": source.state_dict(), "pytorch-lightning_version": "2.6"}
        torch.save(made if contents is None else contents(source), tmp_path / "a.ckpt")
        settings = SimpleNamespace(
            init_weights=str(tmp_path / "a.ckpt"), init_weights_strict=strict, init_weights_prefix=prefix
        )
        start = SimpleNamespace(settings=settings, plan=ResumePoint(None), directory=SimpleNamespace(path=tmp_path))
        weights = InitWeights(start)
        weights.give(model)
        return weights

    return give


def taken(model):
    """Names of the parameters that have the values of the file."""
    return {
        name.replace("_orig_mod.", "") for name, value in model.named_parameters() if torch.equal(value, 0 * value + 7)
    }


ALL = {"net.0.weight", "net.0.bias", "net.1.weight", "net.1.bias", "head.weight", "head.bias"}
NET = {name for name in ALL if name.startswith("net.")}


@pytest.mark.parametrize("make", [Plain, Lenient, Lazy, CompiledInSetup])
def test_all_weights_are_taken_when_the_model_is_built(give, make, caplog):
    model = make()
    give(model, Plain())
    assert taken(model) == ALL
    assert "Loaded weights from" in caplog.text


@pytest.mark.parametrize(
    "contents", [lambda model: model.state_dict(), lambda model: {"model": model.state_dict(), "optimizer": {}}]
)
def test_a_file_of_weights_alone_is_taken(give, contents):
    model = Plain()
    give(model, Plain(), contents=contents)
    assert taken(model) == ALL


def test_extra_state_is_taken(give):
    model, source = Counting(), Counting()
    source.count = 5
    give(model, source)
    assert (taken(model), model.count) == (ALL, 5)


def test_names_that_the_model_changes_itself_are_taken(give):
    model = Renamed()
    give(model, Plain())
    assert taken(model) == {name.replace("net.", "body.") for name in ALL}


@pytest.mark.parametrize("into", [Plain, CompiledInSetup])
def test_compiled_weights_are_taken_without_being_asked(give, into):
    source, model = CompiledInSetup(), into()
    source.setup("fit")
    give(model, source)
    assert taken(model) == ALL


@pytest.mark.parametrize("make", [BuiltInSetup, BuiltInConfigureModel])
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_layers_that_are_built_later_get_their_weights_before_the_first_batch(give, make, stage, tmp_path):
    model = make()
    weights = give(model, Plain())
    assert taken(model) == set()
    trainer = Trainer(
        max_steps=1,
        callbacks=[weights],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
    )
    getattr(trainer, stage)(model, DataLoader([torch.ones(2)]))
    assert taken(model) == ALL


def test_layers_that_are_built_later_and_do_not_fit_are_refused_by_name(give):
    model = BuiltInSetup(num_classes=5)
    weights = give(model, Plain())
    model.setup("fit")
    with pytest.raises(ModelError, match=r"head\.weight is \(3, 4\) in the file and \(5, 4\) in the model"):
        weights.on_fit_start(None, model)


def test_a_part_is_taken_where_asked_to(give, caplog):
    model = Plain(num_classes=5)
    give(model, Plain(), strict=False)
    assert taken(model) == NET
    assert "Loaded 4 of 6 weights from" in caplog.text
    assert "the model has 6; not used: head.weight is (3, 4) in the file and (5, 4) in the model" in caplog.text


def test_what_the_file_lacks_is_not_called_unused(give, caplog):
    give(Plain(), nn.ModuleDict({"net": Plain().net, "old": nn.ParameterDict({"scale": torch.ones(1)})}), strict=False)
    assert "; not used: old.scale is only in the file; not in the file: head (weight, bias)" in caplog.text
    caplog.clear()
    give(Plain(), nn.ModuleDict({"net": Plain().net}), strict=False)
    assert "the model has 6; not in the file: head (weight, bias)" in caplog.text
    assert "not used" not in caplog.text


@pytest.mark.parametrize(
    ("source", "prefix", "expected"),
    [
        (Plain(num_classes=9), "net.", NET),  # selects
        (nn.ModuleDict({"model": Plain()}), "model.", ALL),  # strips
        (Plain().net, "net.", NET),  # adds
        (Plain(name="body"), "body.:net.", ALL),  # replaces, and keeps the others
        (nn.ModuleDict({"model": Plain()}), "model.:", ALL),
        (Plain().net, ":net.", NET),
    ],
    ids=["selects", "strips", "adds", "replaces", "removes", "puts before"],
)
def test_a_prefix_selects_or_changes_names(give, source, prefix, expected):
    model = Plain()
    give(model, source, prefix=prefix, strict=prefix != ":net.", contents=lambda source: source.state_dict())
    assert taken(model) == expected


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        (Plain(num_classes=5), {}, r"head\.weight is \(5, 4\) in .*take what fits with init_weights_strict=false"),
        (Plain(name="body"), {}, "'body.' in the file is 'net.' in the model. Set init_weights_prefix=body.:net. to"),
        (nn.ModuleDict({"model": Plain()}), {}, "have 'model.'. Set init_weights_prefix=model.: to change these names"),
        (nn.Linear(9, 9), {"strict": False}, "no weight that fits Plain: .* Choose the model that"),
        (Plain(num_classes=5), {"prefix": "head."}, r"head\.weight is \(5, 4\) in the file"),
        (Plain(), {"prefix": "encoder."}, "is only in the file"),
        (
            nn.ModuleDict({"model": Plain(num_classes=5)}),
            {},
            r"have 'model\.'; head\.weight is \(5, 4\) in the file and \(3, 4\) in the model.* Choose the model .*"
            r"init_weights_strict=false and init_weights_prefix=model\.:\.$",
        ),
    ],
    ids=["a head", "a name", "a prefix", "nothing", "a part", "no such prefix", "a prefix and a head"],
)
def test_what_does_not_fit_is_refused_with_the_cure(give, source, options, words):
    with pytest.raises(ModelError, match=words):
        give(Plain(), source, contents=lambda source: source.state_dict(), **options)


class KeepsState(Renamed):
    """Takes state of the old run when it loads a checkpoint."""

    def on_load_checkpoint(self, checkpoint):
        super().on_load_checkpoint(checkpoint)
        self.history = checkpoint["history"]
        self.head.bias.data.fill_(-1)


@pytest.mark.parametrize(
    ("source", "options", "expected"),
    [
        (Plain(name="body"), {"strict": False}, {"body", "head"}),
        (Plain(), {"strict": False}, {"body", "head"}),
        (Plain(), {}, {"body", "head"}),
        (Plain(), {"prefix": "net:body"}, {"body", "head"}),
    ],
)
def test_no_state_of_the_old_run_enters_with_its_weights(give, source, options, expected):
    model = KeepsState()
    give(
        model,
        source,
        contents=lambda source: {"state_dict": source.state_dict(), "epoch": 1, "history": [1]},
        **options,
    )
    assert {name.partition(".")[0] for name in taken(model)} == expected
    assert not hasattr(model, "history")
    assert torch.equal(model.head.bias, torch.full((3,), 7.0))


def test_a_hook_that_the_file_does_not_suit_is_not_the_end(give):
    model = KeepsState()
    give(model, Plain(), strict=False)
    assert {name.partition(".")[0] for name in taken(model)} == {"head"}


class Resizes(Plain):
    """Its buffers get other forms in training."""

    def __init__(self):
        super().__init__()
        self.net.register_buffer("mean", None)
        self.register_buffer("seen", torch.zeros(0))

    def train_on(self):
        as_built.note(self, is_complete=True)
        self.net.mean, self.seen = torch.ones(2), torch.ones(3)
        self.register_buffer("late", torch.ones(1))
        return self


class ResizesAndSetsUp(Resizes):
    def setup(self, stage):
        pass


def with_record(source):
    model = getattr(source, "model", source)
    changed = {f"{'model.' * (model is not source)}{name}": both for name, both in resized.record(model).items()}
    return {"state_dict": source.state_dict(), "cairn": {"growth": {"buffers": changed}}}


@pytest.mark.parametrize(
    ("wrap", "options"),
    [
        (lambda model: model, {}),
        (lambda model: model, {"strict": False}),
        (lambda model: nn.ModuleDict({"model": model}), {"prefix": "model."}),
        (lambda model: nn.ModuleDict({"model": model}), {"prefix": "model.:", "strict": False}),
    ],
    ids=["all", "a part", "without a prefix", "other names"],
)
def test_buffers_that_training_has_resized_are_taken_with_the_weights(give, wrap, options):
    model = Resizes()
    give(model, wrap(Resizes().train_on()), contents=with_record, **options)
    assert (taken(model), model.net.mean.tolist(), model.seen.tolist()) == (ALL, [1, 1], [1, 1, 1])
    assert model.late.tolist() == [1]
    as_built.note(model, is_complete=True)
    # A resume of the new run builds the model without them.
    assert set(resized.record(model)) == {"net.mean", "seen", "late"}


def test_resized_buffers_are_taken_once_the_model_is_set_up(give):
    model = ResizesAndSetsUp()
    weights = give(model, Resizes().train_on(), contents=with_record)
    weights.on_fit_start(None, model)
    assert (taken(model), model.seen.tolist()) == (ALL, [1, 1, 1])


def test_a_buffer_of_another_size_is_not_taken_because_training_had_resized_it(give):
    model = Resizes()
    model.seen = torch.zeros(9)
    with pytest.raises(ModelError, match=r"seen is \(3,\) in the file and \(9,\) in the model"):
        give(model, Resizes().train_on(), contents=with_record)
