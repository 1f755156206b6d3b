"""What a configuration out of a run directory may name: a whitelist, because the directory may come from other people.

    local source code               all of it: the project, and what else its owner has on the path
    cairn                           public names, policies, data, loggers
    torch, lightning, torchmetrics  the kinds of parts that a training is made of, below
    the standard library            values, such as a path or a duration
    anything else                   what the project's own files or the command itself name, or `trust_targets=NAME`

A package on the list holds more than parts of a training: `torch.load` reads pickles, `torch.hub.load` runs code from
the network, `torch.os` is the module `os`. So the list names places inside of the packages, and an object counts by the
module that defines it, whatever it was called.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import cairn
from cairn import targets
from cairn.errors import SpecError

ENVIRONMENT = targets.TRUSTED
_PYTHON = {Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib")}
_TORCH = (
    *("torch.nn.*", "torch.optim.*", "torch.distributions.*", "torch.distributed.fsdp.*"),
    *("torch.utils.data.dataset.*", "torch.utils.data.sampler.*", "torch.utils.data.distributed.*"),
    *("torch.utils.data.dataloader.DataLoader", "torch.amp.grad_scaler.GradScaler"),
)
_VALUES_OF_TORCH = {"torch.Generator", "torch.Size", "torch.device", "torch.dtype"}
_FUNCTIONS_OF_PYTHON = {"os.cpu_count", "re.compile"}
_LIGHTNING = tuple(
    f"{package}.{place}.*"
    for package, places in {
        "lightning.pytorch": "accelerators callbacks core demos loggers plugins profilers strategies trainer",
        "lightning.fabric": "accelerators loggers plugins strategies",
    }.items()
    for place in places.split()
)
_LIGHTNING_ALONE = tuple(entry.replace("lightning.pytorch", "pytorch_lightning") for entry in _LIGHTNING)
_CAIRN = (
    *("cairn.policy.*", "cairn.data.*", "cairn.lightning.logs.*"),
    *("cairn.wandb.logger.*", "cairn.mlflow.logger.*", "cairn.trackio.logger.*"),
)
_PLACES = (*_TORCH, *_LIGHTNING, *_LIGHTNING_ALONE, *_CAIRN, "torchmetrics.*")
_EXCEPT = (
    # load a model by a name or a path
    *("torchmetrics.text.bert.*", "torchmetrics.text.infolm.*", "torchmetrics.multimodal.*"),
    *("torchmetrics.functional.text.bert.*", "torchmetrics.functional.text.infolm.*"),
    "torchmetrics.functional.multimodal.*",
)
_PACKAGES = {"cairn", "lightning", "pytorch_lightning", "torch", "torchmetrics"}
_PUBLIC = {f"cairn.{module}.{name}" for name, module in cairn._MODULES.items()}


def named_in(config: Any) -> Iterator[str]:
    """Yield the names of all targets in plain values, wherever they stand, as they are written there.

    Also those that nothing here would build: a class of the project may build its own arguments (`_recursive_: false`).
    What `hydra.utils.get_method` and its relatives look up counts as a name as well. Where that is not written, because
    another node builds it or `_partial_` leaves it open, the name is that of the function with `(...)`.

    Args:
        config: A resolved configuration.
    """
    if isinstance(config, Mapping):
        name = config.get(targets.TARGET)
        if isinstance(name, str):
            yield name
            if targets.is_discovery(name):
                yield from _looked_up(name, config)
        for value in config.values():
            yield from named_in(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from named_in(value)


def _looked_up(name: str, node: Mapping[Any, Any]) -> Iterator[str]:
    arguments = node.get("_args_") or []
    found = [node["path"]] if "path" in node else []
    found += arguments if isinstance(arguments, list | tuple) else [arguments]
    yield from (item for item in found if isinstance(item, str))
    if not found or not isinstance(found[0], str):
        yield f"{name}(...)"


def why_not_listed(name: str) -> str:
    """Return why a name is not on the whitelist; empty if it is. Imports only packages that are on it.

    Args:
        name: A target, as it is written in a configuration.
    """
    current = targets.current_name(name)
    if targets.is_allowed(current) or targets.is_discovery(name):
        return ""
    package = current.partition(".")[0]
    if current in _FUNCTIONS_OF_PYTHON:
        return ""
    if not (package in _PACKAGES or targets.is_value(current) or _may_be_local(package)):
        return f"{package} is not on the list"
    try:
        found = targets.find(name)
    except SpecError as error:
        # There is no such thing: nothing to run, and the message about it comes where it would be built.
        return "" if error.__cause__ is not None else "it could run any code"
    except Exception:  # a module of the project may raise anything; so it will where it would be built
        return ""
    home = targets.home_of(found)
    file = getattr(sys.modules.get(home.module), "__file__", None)
    is_local = file is not None and home.module.partition(".")[0] not in _PACKAGES and _is_local(Path(file))
    if is_local or targets.is_value(current) or current in _VALUES_OF_TORCH:
        return ""
    if targets.matches(home.name, _EXCEPT):
        return "it loads a model by a name or a path"
    if isinstance(found, ModuleType):
        return "it is a whole module"
    # Some functions and classes behind the metrics take the path of a model.
    is_private = home.module.startswith("torchmetrics.") and home.name.rpartition(".")[2].startswith("_")
    is_part = isinstance(found, type) and targets.matches(home.name, _PLACES)
    is_listed = (is_part or targets.is_known_function(current, home.name)) and not is_private
    if is_listed or home.name in _PUBLIC or not callable(found):
        return ""
    return f"{home.name} is not a part of a training that the list knows"


def _may_be_local(package: str) -> bool:
    """Return whether a package is local source code, or does not exist; imports nothing."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return True
    if spec is None:
        return True
    places = [spec.origin] if spec.has_location else list(spec.submodule_search_locations or ())
    return any(_is_local(Path(str(place))) for place in places)


def _is_local(file: Path) -> bool:
    """Return whether a file is neither of an installed package nor of Python.

    The owner has put its folder on the path: the project, or one that it shares code with. (From a run directory no
    module is imported, wherever it lies.)
    """
    path = file.resolve()
    return not {"site-packages", "dist-packages"} & set(path.parts) and not any(map(path.is_relative_to, _PYTHON))


def trust(names: str) -> None:
    """Trust names in this process and in those that it starts.

    Args:
        names: Separated by commas, as in `trust_targets=timm.create_model,sklearn.decomposition.PCA`; brackets around
            them are ignored.
    """
    given = [name.strip(" '\"") for name in names.strip(" '\"[]").split(",")]
    before = os.environ.get(ENVIRONMENT, "").split(",")
    os.environ[ENVIRONMENT] = ",".join(dict.fromkeys(filter(None, [*before, *given])))
