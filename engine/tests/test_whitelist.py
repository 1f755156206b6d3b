"""What a stored configuration may name: parts of a training, and nothing that runs code or opens files."""

import os
import sys

import pytest

from cairn import targets, whitelist


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A project with one module of its own, and nothing that the command trusts."""
    monkeypatch.setenv("PROJECT_ROOT", str(tmp_path))
    monkeypatch.delenv(whitelist.ENVIRONMENT, raising=False)
    monkeypatch.setattr(targets, "_own", frozenset())
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    monkeypatch.delitem(sys.modules, "own_models", raising=False)  # that of the test before
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "own_models.py").write_text(
        "import os, torch\nfrom joblib import load\nfrom cairn.store.history import History\n"
        "class Net(torch.nn.Module): pass\ndef make(): return Net()\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        *("torch.optim.AdamW", "torch.nn.functional.relu", "torch.tensor", "torch.Generator", "torch.bfloat16"),
        *("torch.utils.data.DataLoader", "torch.utils.data.TensorDataset", "torch.utils.data.RandomSampler"),
        *("torch.optim.lr_scheduler.LambdaLR", "torch.optim.swa_utils.get_ema_avg_fn", "torch.distributions.Normal"),
        *("torch.nn.utils.parametrizations.weight_norm", "torch.nn.init.zeros_", "lightning.pytorch.Trainer"),
        *("lightning.Trainer", "lightning.pytorch.callbacks.EarlyStopping", "lightning.pytorch.loggers.CSVLogger"),
        *("lightning.pytorch.strategies.DDPStrategy", "lightning.pytorch.profilers.SimpleProfiler"),
        *("torchmetrics.classification.MulticlassAccuracy", "torchmetrics.Accuracy", "cairn.Every", "cairn.DataLoader"),
        *("cairn.wandb.WandbLogger", "cairn.lightning.csv_logger.CSVLogger", "cairn.checkpoint.schedule.Every"),
        *("builtins.dict", "pathlib.Path", "datetime.timedelta", "functools.partial", "os.cpu_count"),
        *("own_models.Net", "own_models.make", "hydra.utils.get_method", "no_such_package.Net", "torch.nn.Nope"),
    ],
)
def test_listed(name):
    assert whitelist.why_not_listed(name) == ""


@pytest.mark.parametrize(
    "name",
    [
        # load pickles, or code
        *("submitit.core.utils.pickle_load", "joblib.load", "torch.load", "torch.serialization.load", "torch.jit.load"),
        *("torch.hub.load", "torch.jit.ScriptModule", "torch.package.PackageImporter", "torch.PyTorchFileReader"),
        *(
            "numpy.load",
            "own_models.load",
            "own_models.History",
            "lightning.fabric.utilities.cloud_io._load",
            "pickle.load",
        ),
        *("lightning.pytorch.LightningModule.load_from_checkpoint", "torch._inductor.codecache.PyCodeCache"),
        *("torch.cuda.CUDAPluggableAllocator", "torchmetrics.text.bert.BERTScore", "torch.fx.GraphModule"),
        # run commands, or what they are given
        *(
            "os.system",
            "subprocess.Popen",
            "torch.os.system",
            "own_models.os.system",
            "builtins.eval",
            "builtins.getattr",
        ),
        *("importlib.import_module", "torch.nn.functional.importlib.import_module", "torch.distributed.run.main"),
        *("hydra.utils.instantiate", "hydra.utils.call", "lightning.pytorch.cli.LightningCLI"),
        *("lightning.pytorch.strategies.launchers._SubprocessScriptLauncher", "sklearn.utils.parallel.Parallel"),
        *(
            "torch.nn.functional.handle_torch_function",
            "torch.nn.Linear.__init__",
            "torch.utils.data.dataloader.os.system",
        ),
        # open files
        *("torch.utils.data.datapipes.iter.FileOpener", "numpy.memmap", "torch.storage.UntypedStorage.from_file"),
        *("pathlib.Path.write_text", "cairn.store.history.History", "cairn.store.disk.put", "cairn.hydra.Run"),
        *("torchmetrics.functional.image.lpips._LPIPS", "torchmetrics.functional.audio.dnsmos._prepare_dnsmos"),
        *("torch.nn.modules.module.torch", "torch.nn", "lightning.pytorch.trainer.trainer.os"),
        # packages that may be harmless, but that only a run directory names
        *("sklearn.linear_model.LogisticRegression", "matplotlib.pyplot.figure", "wandb.Table"),
    ],
)
def test_not_listed(name):
    assert whitelist.why_not_listed(name) != ""


def test_a_name_is_allowed_by_the_project_or_by_the_command(project):
    name = "sklearn.linear_model.LogisticRegression"
    assert whitelist.why_not_listed(name)
    whitelist.trust(f"[ 'a.b',{name}]")
    assert whitelist.why_not_listed(name) == ""
    assert os.environ[whitelist.ENVIRONMENT] == f"a.b,{name}"
    (project / "pyproject.toml").write_text('[tool.cairn]\nallow = ["sklearn.svm.SVC"]\n')
    targets._read_project.cache_clear()
    assert whitelist.why_not_listed("sklearn.svm.SVC") == ""


def test_all_names_are_found_wherever_they_stand():
    config = {
        "model": {"_target_": "a.A", "_recursive_": False, "optimizer": {"_target_": "b.B", "_partial_": True}},
        "callbacks": [{"x": [{"_target_": "c.C"}]}, {"_target_": 3}],
        "f": {"_target_": "hydra.utils.get_method", "path": "d.d", "_args_": ["e.e", 1]},
    }
    assert list(whitelist.named_in(config)) == ["a.A", "b.B", "c.C", "hydra.utils.get_method", "d.d", "e.e"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"path": {"_target_": "builtins.str", "_args_": ["numpy.memmap"]}},
        {"_args_": [{"_target_": "builtins.str", "_args_": ["numpy.memmap"]}]},
        {"_args_": {"_target_": "builtins.list", "_args_": [["numpy.memmap"]]}},
        {"path": 1, "_args_": ["torch.relu"]},
        {"_partial_": True},
    ],
)
def test_a_name_that_is_built_where_it_is_looked_up_is_not_listed(arguments):
    config = {"_target_": "hydra.utils.get_class", **arguments}
    assert [name for name in whitelist.named_in(config) if whitelist.why_not_listed(name)] == [
        "hydra.utils.get_class(...)"
    ]


def test_the_functions_that_an_owner_has_written_are_called():
    with pytest.raises(targets.SpecError, match="it is a function of sklearn, not of this project"):
        targets.resolve("sklearn.datasets.load_digits")
    targets.trust_own(["sklearn.datasets.load_digits", "joblib.load", "torch.load", "os.system", "torch.hub.load"])
    assert targets.resolve("sklearn.datasets.load_digits").__name__ == "load_digits"
    for name in ("joblib.load", "torch.load", "os.system", "torch.hub.load", "torch.os.system"):
        with pytest.raises(targets.SpecError, match="is refused"):
            targets.resolve(name)
