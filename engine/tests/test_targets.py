"""Which targets a configuration may name, and what a spec out of a checkpoint may build."""

import functools
import sys
from importlib import import_module
from types import ModuleType

import pytest
import torch
from lightning.pytorch import LightningModule
from omegaconf import OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cairn.errors import ConfigError, SpecError
from cairn.targets import MOVED, build, current_name, resolve, with_current_names
from project.models.mlp import MLP

LINEAR = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}


def test_a_module():
    assert build(LINEAR, nn.Module).weight.shape == (3, 2)


def test_hydra_keys_are_not_arguments():
    assert isinstance(build(LINEAR | {"_convert_": "all", "_recursive_": True}), nn.Linear)


def test_a_partial_optimizer_and_scheduler():
    make = build({"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.5}, Optimizer)
    assert isinstance(make, functools.partial)
    optimizer = make([torch.zeros(1, requires_grad=True)])
    spec = {"_target_": "torch.optim.lr_scheduler.StepLR", "_partial_": True, "step_size": 2}
    assert build(spec, LRScheduler)(optimizer).step_size == 2


def test_anything_but_a_mapping_is_returned():
    net = nn.Linear(1, 1)
    assert build(net, nn.Module) is net
    assert build(None) is None


class Holder(LightningModule):
    def __init__(self, net, nets=()):
        super().__init__()
        self.net, self.nets = net, nets


def holder(**spec):
    return {"_target_": f"{__name__}.Holder", **spec}


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    # Test files are not importable by their name: give this one the name that the specs above use.
    import sys
    from types import SimpleNamespace

    monkeypatch.setitem(sys.modules, __name__, SimpleNamespace(Holder=Holder))


def test_nested_specs_are_built():
    made = build(holder(net=LINEAR, nets=[LINEAR, {"deeper": LINEAR}]), LightningModule)
    assert isinstance(made.net, nn.Linear)
    assert isinstance(made.nets[0], nn.Linear)
    assert isinstance(made.nets[1]["deeper"], nn.Linear)


def test_nested_specs_are_passed_on_if_the_spec_says_so():
    assert build(holder(net=LINEAR, _recursive_=False)).net == LINEAR


def test_a_spec_can_be_a_config_of_omegaconf():
    spec = OmegaConf.create(
        {"_target_": "project.models.mlp.MLP", "input_size": 4, "hidden_sizes": [3], "num_classes": 2}
    )
    assert isinstance(build(spec), MLP)


@pytest.mark.parametrize(
    "target",
    ["os.system", "builtins.eval", "subprocess.Popen", "pathlib.Path", "torch.load", "torch.Tensor", "torch.nn"],
)
@pytest.mark.parametrize("extra", [{}, {"_partial_": True}])
def test_a_spec_builds_nothing_else(target, extra):
    with pytest.raises(SpecError, match=f"_target_={target} (is refused|cannot be built here|is neither)") as caught:
        build({"_target_": target, **extra}, nn.Module)
    assert "\n" not in str(caught.value)


def test_a_nested_spec_builds_nothing_else():
    with pytest.raises(TypeError, match=r"os\.system is refused"):
        build(holder(net=[{"_target_": "os.system", "command": "true"}]))


def test_another_kind_is_refused():
    with pytest.raises(TypeError, match="must be a subclass of Optimizer"):
        build(LINEAR, Optimizer)


@pytest.mark.parametrize("target", ["torch.nn.Lineal", "no_such_module.Net", "not a name", ""])
def test_a_target_that_does_not_exist(target):
    with pytest.raises(SpecError, match="There is no _target_="):
        build({"_target_": target})


@pytest.mark.parametrize("spec", [{}, {"lr": 1}, {"_target_": None}])
def test_a_mapping_without_a_target(spec):
    with pytest.raises(TypeError, match="_target_"):
        build(spec)


# Names


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Write a project's pyproject.toml, and an importable module `mine` in it; returns the module's name."""

    def make(toml="", source=""):
        root = tmp_path / f"project{len(list(tmp_path.iterdir()))}"
        root.mkdir()
        (root / "pyproject.toml").write_text(toml)
        (root / "mine.py").write_text(source)
        monkeypatch.setenv("PROJECT_ROOT", str(root))
        monkeypatch.syspath_prepend(str(root))
        monkeypatch.delitem(sys.modules, "mine", raising=False)
        return root

    yield make
    sys.modules.pop("mine", None)


@pytest.mark.parametrize(
    ("name", "today"),
    [
        ("cairn.checkpoint.schedule.Every", "cairn.policy.when.Every"),
        ("cairn.checkpoint.schedule.AtEnd", "cairn.policy.when.AtEnd"),
        ("cairn.checkpoint.schedule.OnStop", "cairn.policy.when.OnStop"),
        ("cairn.checkpoint.schedule.BestValidation", "cairn.policy.when.BestValidation"),
        ("cairn.checkpoint.retention.Latest", "cairn.policy.keep.Latest"),
        ("cairn.checkpoint.retention.Best", "cairn.policy.keep.Best"),
        ("cairn.logging.csv.CSVLogger", "cairn.lightning.logs.csv_logger.CSVLogger"),
        ("cairn.lightning.csv_logger.CSVLogger", "cairn.lightning.logs.csv_logger.CSVLogger"),
        ("cairn.logging.wandb.WandbLogger", "cairn.wandb.logger.WandbLogger"),
        ("cairn.command.CheckRunDirectory", "cairn.hydra.command_line.CheckRunDirectory"),
        ("cairn.commander.X", "cairn.commander.X"),
        ("torch.nn.Linear", "torch.nn.Linear"),
    ],
)
def test_a_moved_name_is_found_at_its_new_place(name, today):
    assert current_name(name) == today
    if name != today:
        assert resolve(name) is resolve(today)


@pytest.mark.parametrize("module", sorted(MOVED.values()))
def test_the_table_of_moved_modules_is_up_to_date(module):
    import_module(module)


def test_a_project_declares_its_own_moves(project):
    project('[tool.cairn.moved]\n"cairn.models" = "project.models"\n"cairn.models.big" = "x"\nproject = "mine"\n')
    assert current_name("cairn.models.cnn.CNN") == "mine.models.cnn.CNN", "renamed twice"
    assert current_name("cairn.models.big.CNN") == "x.CNN", "the longest prefix counts"
    assert current_name("project") == "mine"


def test_moves_that_name_one_another_end(project):
    project('[tool.cairn.moved]\na = "b"\nb = "a"\n')
    assert current_name("a.X") == "a.X"


def test_a_stored_configuration_gets_current_names():
    old = {"a": [{"_target_": "cairn.checkpoint.retention.Best", "count": 1}], "name": "cairn.command.X"}
    assert with_current_names(old) == {
        "a": [{"_target_": "cairn.policy.keep.Best", "count": 1}],
        "name": "cairn.command.X",
    }


@pytest.mark.parametrize(
    "name",
    [
        "torch.optim.AdamW",
        "torch.nn.functional.relu",
        "torch.tensor",
        "torch.Generator",
        "lightning.pytorch.Trainer",
        "lightning.pytorch.callbacks.EarlyStopping",
        "torchmetrics.classification.MulticlassAccuracy",
        "sklearn.linear_model.LogisticRegression",
        "project.models.mlp.MLP",
        "cairn.load_model",
        "builtins.dict",
        "pathlib.Path",
        "datetime.timedelta",
    ],
)
def test_a_configuration_may_name(name):
    assert callable(resolve(name))


@pytest.mark.parametrize(
    "name",
    [
        "builtins.eval",
        "builtins.getattr",
        "os.system",
        "subprocess.Popen",
        "shutil.rmtree",
        "importlib.import_module",
        "pickle.load",
        "pickle.Unpickler",
        "ctypes.CDLL",
        "code.InteractiveConsole",
        "threading.Thread",
        "joblib.load",
        "joblib.Parallel",
        "cloudpickle.loads",
        "submitit.core.utils.pickle_load",
        "torch.load",
        "torch.serialization.load",
        "torch.jit.load",
        "torch.hub.load",
        "torch.package.PackageImporter",
        "torch.multiprocessing.Process",
        "torch.ops.aten.add",
        "torch.os.system",
        "torch.utils.data.dataloader.os.system",
        "torch.nn.Linear.__init__",
        "torch.nn.Module.__subclasses__",
        "lightning.pytorch.LightningModule.load_from_checkpoint",
        "lightning.pytorch.cli.LightningCLI",
        "psutil.Popen",
        "hydra.utils.instantiate",
        "yaml.UnsafeLoader",
        "numpy.load",
        "cairn.store.disk.put",
        "project.models.cnn.nn.Module.__init__",
    ],
)
def test_a_configuration_may_not_name(name):
    with pytest.raises(SpecError, match=r"is refused: .* To allow it: \[tool\.cairn\] allow = ") as caught:
        resolve(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["hydra.utils.get_class", "hydra.utils.get_method", "hydra.utils.get_object"])
def test_discovery_obeys_the_same_rules(name):
    assert resolve(name)(path="torch.nn.functional.relu") is torch.nn.functional.relu
    with pytest.raises(SpecError, match="is refused"):
        resolve(name)(path="os.system")


def test_discovery_finds_values():
    assert resolve("hydra.utils.get_object")(path="torch.bfloat16") is torch.bfloat16


SOURCE = """
import functools, os, subprocess
from torch import load
def make(): return 3
def also(): return 4
quick = functools.partial(make)
bad = functools.partial(os.system)
class Mine:
    @classmethod
    def create(cls): return cls()
class Runner(subprocess.Popen): pass
"""


def test_functions_of_the_project_are_allowed(project):
    project(source=SOURCE)
    assert resolve("mine.make")() == 3
    assert resolve("mine.quick")() == 3
    assert type(resolve("mine.Mine.create")()).__name__ == "Mine"


@pytest.mark.parametrize("name", ["mine.load", "mine.os.system", "mine.bad", "mine.subprocess.Popen", "mine.Runner"])
def test_what_the_project_imports_is_not_its_own(project, name):
    project(source=SOURCE)
    with pytest.raises(SpecError, match="is refused"):
        resolve(name)


def test_a_project_allows_more(project):
    project('[tool.cairn]\nallow = ["torch.normal", "sklearn.datasets.*"]\n')
    assert resolve("torch.normal") is torch.normal
    assert resolve("sklearn.datasets.load_digits").__name__ == "load_digits"
    with pytest.raises(SpecError, match="is refused"):
        resolve("sklearn.utils.shuffle")


def test_no_code_is_imported_from_a_run_directory(project):
    root = project()
    for folder in (root / "logs" / "a", root / "elsewhere", root / "sweep"):
        folder.mkdir(parents=True)
        (folder / "evil.py").write_text("raise SystemExit('executed')")
    (root / "elsewhere" / "run.json").write_text("{}")
    (root / "sweep" / "multirun.yaml").write_text("{}")
    for name in ("logs.a.evil.Net", "elsewhere.evil.Net", "sweep.evil.Net"):
        with pytest.raises(SpecError, match="lies in a run directory, from which no code is imported"):
            resolve(name)


@pytest.mark.parametrize("toml", ["[tool", '[tool.cairn]\nallow = "x"', "[tool.cairn]\nmoved = 'x'"])
def test_a_broken_pyproject_is_one_sentence(project, toml):
    project(toml)
    with pytest.raises(ConfigError, match=r"Could not read .*pyproject\.toml"):
        resolve("torch.nn.Linear")


def test_a_missing_dependency_is_named(project):
    project(source="import no_such_dependency")
    with pytest.raises(SpecError, match=r"There is no _target_=mine\.Net: No module named 'no_such_dependency'"):
        resolve("mine.Net")


def test_without_a_project_root_the_one_around_the_working_directory_counts(project, monkeypatch):
    root = project('[tool.cairn.moved]\nold = "new"\n')
    monkeypatch.delenv("PROJECT_ROOT")
    (root / "deep").mkdir()
    (root / "deep" / "pyproject.toml").write_text("[project]\n")
    monkeypatch.chdir(root / "deep")
    assert current_name("old.X") == "new.X"


def test_an_object_that_is_not_callable(monkeypatch):
    module = ModuleType("some_module")
    module.number = 3
    monkeypatch.setitem(sys.modules, "some_module", module)
    with pytest.raises(SpecError, match="neither a class nor a function, but a int"):
        resolve("some_module.number")


@pytest.mark.parametrize("name", ["torch.optim.swa_utils.get_ema_avg_fn", "os.cpu_count"])
def test_a_configuration_may_call_functions_that_build_a_value(name):
    assert callable(resolve(name))
