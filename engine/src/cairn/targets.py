"""Resolves the names under `_target_`: where a moved class is today, and what a configuration may call.

A configuration also comes out of run directories and checkpoint files, and those may come from other people. So it may
name classes, except those that could run any code, and functions of the project itself. A project adds to both rules
in its pyproject.toml:

    [tool.cairn]
    allow = ["timm.create_model", "our_models.*"]

    [tool.cairn.moved]
    "project.models.net" = "project.models.cnn"

The rules are a second line of defence: a class of an installed package can do harm that no list foresees.
"""

from __future__ import annotations

import functools
import os
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import BuiltinFunctionType, ModuleType
from typing import Any, NamedTuple

from cairn.errors import ConfigError, SpecError

TARGET = "_target_"
_PARTIAL = "_partial_"
_RECURSIVE = "_recursive_"
_HYDRA_KEYS = {TARGET, _PARTIAL, _RECURSIVE, "_convert_"}

MOVED: Mapping[str, str] = {
    "cairn.checkpoint.schedule": "cairn.policy.when",
    "cairn.checkpoint.retention": "cairn.policy.keep",
    "cairn.lightning.csv_logger": "cairn.lightning.logs.csv_logger",
    "cairn.logging.csv": "cairn.lightning.logs.csv_logger",
    "cairn.logging.wandb": "cairn.wandb.logger",
    "cairn.command": "cairn.hydra.command_line",
}
"""Modules of earlier versions that configurations name, and where their contents are now."""

_DISCOVERY = {f"hydra.utils.get_{what}" for what in ("class", "method", "static_method", "object")}
"""These return what another name refers to, which has to be allowed as well."""
_VALUES = {
    *("builtins.bool", "builtins.bytes", "builtins.complex", "builtins.dict", "builtins.float", "builtins.frozenset"),
    *("builtins.int", "builtins.list", "builtins.range", "builtins.set", "builtins.slice", "builtins.str"),
    *("builtins.tuple", "collections.Counter", "collections.OrderedDict", "collections.defaultdict"),
    *("collections.deque", "datetime.date", "datetime.datetime", "datetime.time", "datetime.timedelta"),
    *("decimal.Decimal", "fractions.Fraction", "functools.partial", "pathlib.Path", "pathlib.PosixPath"),
    *("pathlib.PurePath", "pathlib.PurePosixPath", "random.Random", "types.SimpleNamespace", "uuid.UUID"),
}
"""Classes of the standard library that a configuration may build; the others are refused."""
_FUNCTIONS = (
    *("cairn.load_model", "os.cpu_count", "re.compile", "timm.create_model", "timm.models.*"),
    *("torch.arange", "torch.eye", "torch.full", "torch.linspace", "torch.ones", "torch.rand", "torch.randn"),
    *("torch.relu", "torch.sigmoid", "torch.tanh", "torch.tensor", "torch.zeros"),
    *("torch.nn.functional.*", "torch.nn.init.*", "torch.nn.utils.parametrizations.*", "torch.optim.swa_utils.*"),
    *("torchmetrics.functional.*", "torchvision.models.*", "torchvision.transforms.*", "transformers.optimization.*"),
)
"""Functions of other packages that a configuration may call: they build a value, a model or a schedule."""
TRUSTED = "CAIRN_TRUST_TARGETS"
"""Environment variable with the names that the command trusts (`trust_targets=`), separated by commas."""
_UNPICKLE = (
    *("cloudpickle", "dill", "joblib", "jsonpickle", "pandas.io.pickle", "submitit"),
    *("torch.PyTorchFileReader", "torch._C.PyTorchFileReader", "torch.hub", "torch.jit", "torch.package"),
    "torch.serialization",
)
"""Packages that load pickles or code: what inherits from their classes is refused as well."""
_REFUSED = (
    *_UNPICKLE,
    # run code that is given as text, or commands
    *("IPython", "cffi", "git", "invoke", "numba", "pexpect", "pip", "psutil", "ptyprocess", "setuptools", "sh"),
    *("lightning.pytorch.serve", "lightning.pytorch.strategies.launchers", "lightning.fabric.strategies.launchers"),
    *("pytorch_lightning.serve", "pytorch_lightning.strategies.launchers"),
    *("torch._inductor", "torch.cuda.memory.CUDAPluggableAllocator", "torch.utils.benchmark"),
    "torch.utils.cpp_extension",
    # call what they are given by name
    *("hydra", "hydra_plugins", "jsonargparse", "lightning.fabric.cli", "lightning.pytorch.cli", "omegaconf", "yaml"),
    *("_pytest", "pkg_resources", "pytest"),
    *("torch.distributed.elastic", "torch.distributed.launcher", "torch.distributed.rpc"),
)
"""Packages whose classes are refused as well."""
_REFUSED_BASES = {"subprocess.Popen", "multiprocessing.process.BaseProcess", "_pickle.Unpickler", "pickle._Unpickler"}


@dataclass(frozen=True)
class Project:
    """What the project's pyproject.toml says about targets."""

    root: Path
    moved: Mapping[str, str] = field(default_factory=dict)
    allow: tuple[str, ...] = ()


def project() -> Project:
    """The project at `PROJECT_ROOT`, else the one around the working directory.

    Raises:
        ConfigError: Its pyproject.toml cannot be read.
    """
    if named := os.environ.get("PROJECT_ROOT"):
        return _read_project(Path(named).resolve())
    here = Path.cwd()
    around = [_read_project(folder) for folder in (here, *here.parents) if (folder / "pyproject.toml").is_file()]
    # A project may contain others, such as a copy of this library.
    speaking = [found for found in around if found.moved or found.allow]
    return next(iter(speaking or around), Project(here))


@functools.cache
def _read_project(root: Path) -> Project:
    file = root / "pyproject.toml"
    try:
        table = tomllib.loads(file.read_text()).get("tool", {}).get("cairn", {}) if file.is_file() else {}
        allow = table.get("allow", [])
        if not isinstance(allow, list):
            raise ValueError("allow in [tool.cairn] must be a list of names")
        return Project(root, dict(table.get("moved", {})), tuple(allow))
    except (OSError, ValueError) as error:
        raise ConfigError(f"Could not read {file}: {str(error).rstrip('.')}.") from error


def current_name(name: str) -> str:
    """The name that a target has today, also if it was stored before its module was moved or renamed."""
    table = {**MOVED, **project().moved}
    used: set[str] = set()
    # Several times, because a project may be renamed again. Each line counts once: they could name one another.
    while (old := max((o for o in table if _is_under(name, o) and o not in used), key=len, default=None)) is not None:
        used.add(old)
        name = table[old] + name[len(old) :]
    return name


def with_current_names(config: Any) -> Any:
    """A plain configuration with the names that its targets have today."""
    if isinstance(config, Mapping):
        dropped = {_RECURSIVE} if took_specs(config.get(TARGET)) else {}
        return {
            key: current_name(value) if key == TARGET and isinstance(value, str) else with_current_names(value)
            for key, value in config.items()
            if key not in dropped
        }
    return [with_current_names(item) for item in config] if isinstance(config, list | tuple) else config


def took_specs(name: Any) -> bool:
    """Whether a stored target is a model of version 0.1, which took the specs of its parts (`_recursive_: false`).

    The models of today take built parts, so that `_recursive_` does not count for these names.
    """
    return isinstance(name, str) and name.startswith("cairn.models.")


def resolve(name: str) -> Callable[..., Any]:
    """Return the class or function with this dotted name, if a configuration may call it.

    Args:
        name: For example `torch.optim.AdamW`; a name from before a move is understood as well.

    Returns:
        The class or function.

    Raises:
        SpecError: There is no such thing, or a configuration may not call it.
    """
    if is_discovery(name):
        return find
    found = find(name)
    if not callable(found):
        raise SpecError(f"{TARGET}={name} is neither a class nor a function, but a {type(found).__name__}.")
    return found


def is_discovery(name: str) -> bool:
    """Return whether a target returns what another name refers to, such as `hydra.utils.get_method`."""
    return current_name(name) in _DISCOVERY


def is_allowed(current: str) -> bool:
    """Return whether the project or the command allows a name, whatever it is."""
    return current in project().allow or matches(current, os.environ.get(TRUSTED, "").split(","))


_own: frozenset[str] = frozenset()


def trust_own(names: Iterable[str]) -> None:
    """Let the functions that these names mean be called, although another package defines them.

    Args:
        names: Targets that the owner of this project has written: in its files, or in the command. A function that
            loads pickles or runs commands is refused nevertheless.
    """
    global _own
    _own = frozenset(map(current_name, names))


def find(path: str) -> Any:
    """Return what a name refers to: a class, a function or a value such as `torch.bfloat16`.

    Args:
        path: The name. (`path` is Hydra's word.)

    Raises:
        SpecError: There is no such thing, or a configuration may not name it.
    """
    name, current = path, current_name(path)
    allowed = is_allowed(current)
    if not allowed and (why := _refused_name(current)):
        raise _refusal(name, why)
    try:
        found = _locate(current)
    except (ImportError, AttributeError, ValueError) as error:
        raise SpecError(f"There is no {TARGET}={name}: {str(error).rstrip('.')}.") from error
    if callable(found) and not allowed and (why := _refused_object(found, current)):
        raise _refusal(name, why)
    return found


def _refusal(name: str, why: str) -> SpecError:
    file = project().root / "pyproject.toml"
    return SpecError(f'{TARGET}={name} is refused: {why}. To allow it: [tool.cairn] allow = ["{name}"] in {file}.')


def why_refused(name: str) -> str:
    """Return why a name is refused before anything is imported; empty if it is not, so far.

    Args:
        name: The name that the target has today.
    """
    return "" if is_allowed(name) else _refused_name(name)


def _refused_name(name: str) -> str:
    """Why a name is refused before anything is imported; empty if it is not."""
    if any(part.startswith("__") and part != "__main__" for part in name.split(".")):
        return "it reaches into the internals of Python"
    package = name.partition(".")[0]
    is_known = name in _VALUES or matches(name, _FUNCTIONS)
    if package in sys.stdlib_module_names and not is_known:
        return "a configuration may not call the standard library"
    refused = next((prefix for prefix in _REFUSED if _is_under(name, prefix)), None)
    return f"{refused} could run any code" if refused else ""


def _refused_object(found: Any, name: str) -> str:
    """Why an object is refused whatever it was called: `project.os.system` is `os.system`; empty if it is not."""
    while isinstance(found, functools.partial):
        found = found.func
    module, home = home_of(found)
    if is_of_project(module) or matches(home, [entry for entry in project().allow if entry.endswith(".*")]):
        return _refused_bases(found)
    package = module.partition(".")[0]
    if isinstance(found, type):
        # The module of a standard class may be private: pathlib._local.Path.
        if package in sys.stdlib_module_names and f"{package}.{found.__qualname__}" not in _VALUES:
            return "a configuration may not call the standard library"
        if package in sys.stdlib_module_names:
            return _refused_bases(found)
        return _refused_name(home) or _refused_bases(found) or _refused_packages(found)
    if is_known_function(name, home):
        return ""
    if name in _own and (module or not isinstance(found, BuiltinFunctionType)):
        return _refused_name(home)
    return f"it is a function of {package or 'another package'}, not of this project"


def _refused_bases(found: Any) -> str:
    bases = {f"{base.__module__}.{base.__qualname__}" for base in getattr(found, "__mro__", ())}
    return "it could run any code" if bases & _REFUSED_BASES else ""


def _refused_packages(found: Any) -> str:
    """Why a class is refused because of what it inherits: `sklearn.utils.parallel.Parallel` is `joblib.Parallel`."""
    homes = [home_of(base).name for base in found.__mro__]
    return next(
        (f"{name} could run any code" for name in _UNPICKLE if any(_is_under(home, name) for home in homes)), ""
    )


class Home(NamedTuple):
    """Where an object is defined, whatever it was called."""

    module: str
    name: str


def home_of(found: Any) -> Home:
    """Return where an object is defined."""
    module = str(getattr(found, "__module__", None) or "")
    return Home(module, f"{module}.{getattr(found, '__qualname__', type(found).__qualname__)}")


def is_value(name: str) -> bool:
    """Return whether a name is a class of the standard library that a configuration may build."""
    return name in _VALUES


def is_known_function(name: str, home: str) -> bool:
    """Return whether a function of another package builds a value, a model or a schedule, and nothing else."""
    return name in _FUNCTIONS or matches(home, _FUNCTIONS)


def is_of_project(module: str) -> bool:
    """Return whether a module's file lies in the project, and not in an environment or a copy of this library."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file or module.partition(".")[0] in {"cairn", *sys.stdlib_module_names}:
        return False
    return is_file_of_project(Path(file))


def is_file_of_project(file: Path) -> bool:
    """Return whether a file lies in the project, and not in an environment."""
    path = file.resolve()
    return path.is_relative_to(project().root) and not {"site-packages", "dist-packages"} & set(path.parts)


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a name is one of the patterns, or below one that ends with `.*`."""
    return any(name == entry or (entry.endswith(".*") and name.startswith(entry[:-1])) for entry in patterns)


def _is_under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _locate(name: str) -> Any:
    parts = name.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ValueError("expected a dotted name such as torch.optim.AdamW")
    found: Any = _import(parts[0])
    for at, part in enumerate(parts[1:], start=2):
        try:
            found = getattr(found, part)
        except AttributeError:
            if not isinstance(found, ModuleType):
                raise
            found = _import(".".join(parts[:at]))
    return found


def _import(name: str) -> ModuleType:
    """Import a module, unless its file came with a run directory: `logs` is below the root, and so can be imported."""
    spec = None if name in sys.modules else find_spec(name)
    if spec is not None and spec.origin is not None:
        for folder in Path(spec.origin).parents:
            is_of_run = any((folder / name).is_file() for name in ("run.json", "multirun.yaml"))
            if is_of_run or folder == project().root / "logs":
                raise ValueError(f"{spec.origin} lies in a run directory, from which no code is imported")
    return import_module(name)


def build(spec: Any, *kinds: type) -> Any:
    """Build `{"_target_": "torch.optim.AdamW", "lr": 1e-3, "_partial_": True}` as Hydra would, but only `kinds`.

    For specs out of checkpoint files: the target has to be a class that `resolve` returns and a subclass of one of
    `kinds`, and those of nested mappings modules, optimizers or schedulers. With `_recursive_: false` nested mappings
    are passed on as they are; `_convert_` is ignored.

    Args:
        spec: A mapping with `_target_`; anything else is returned as it is.
        kinds: Base classes; without any, modules, optimizers and schedulers.

    Returns:
        The object, or with `_partial_: true` a `functools.partial` that makes it.

    Raises:
        SpecError: The target may not be built here, or does not exist, or is missing from a mapping.
    """
    if not isinstance(spec, Mapping):
        return spec
    cls = _class_of(spec, kinds or _modules_and_optimizers())
    arguments = {str(key): value for key, value in spec.items() if key not in _HYDRA_KEYS}
    if spec.get(_RECURSIVE, True) or took_specs(spec[TARGET]):
        arguments = {key: _nested(value) for key, value in arguments.items()}
    return functools.partial(cls, **arguments) if spec.get(_PARTIAL, False) else cls(**arguments)


def _modules_and_optimizers() -> tuple[type, ...]:
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    return nn.Module, Optimizer, LRScheduler


def _nested(value: Any) -> Any:
    if isinstance(value, Mapping):
        return build(value) if TARGET in value else {key: _nested(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_nested(item) for item in value]
    return value


def _class_of(spec: Mapping[Any, Any], kinds: tuple[type, ...]) -> type:
    name = spec.get(TARGET)
    if not isinstance(name, str):
        raise SpecError(f"A spec must name its class under {TARGET}; this one has only the keys {list(spec)}.")
    target = resolve(name)
    if not (isinstance(target, type) and issubclass(target, kinds)):
        allowed = " or ".join(kind.__name__ for kind in kinds)
        raise SpecError(f"{TARGET}={name} cannot be built here: it must be a subclass of {allowed}.")
    return target
