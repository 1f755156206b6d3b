"""`python train.py --check [OVERRIDES]`: compose a configuration and say what is wrong with it, without training.

Nothing is built and nothing is written. torch is imported only if the source of a target does not show its arguments.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dotenv import load_dotenv
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from cairn.errors import CairnError, first_line
from cairn.hydra import command_line
from cairn.hydra.command import overrides, suggest
from cairn.hydra.command.arguments import Arguments, file
from cairn.hydra.compose.source import Source
from cairn.hydra.parse import settings
from cairn.hydra.run import pausing
from cairn.hydra.schema import files, problems
from cairn.hydra.schema.problems import Problem
from cairn.hydra.sweep import job_name, plugins

FLAG = "--check"
_JSON = "--json"
_MOST = 64
"""Upper limit for the values of a sweep that are checked: each is composed, which takes a fraction of a second."""
_PLACE = "RUN"
"""Stands for the run directory, which only a run has."""


@dataclass(frozen=True)
class Found(Problem):
    """A problem, and where it was written.

    Attributes:
        where: File and line, or the override; empty if it is not known.
    """

    where: str = ""


def main(root: Path, config_path: str, config_name: str, argv: Sequence[str]) -> int:
    """Check the configuration that a command line describes.

    Args:
        root: Directory of the project.
        config_path: Directory of the YAML files, relative to `root`.
        config_name: Name of the primary file.
        argv: Command-line arguments.

    Returns:
        Exit code: 0 if nothing is wrong, else 1.
    """
    load_dotenv(root / ".env")
    job_name.register()
    plugins.register()
    os.environ.setdefault(command_line.ROOT, str(root))
    given = Arguments.split([item for item in argv if item not in (FLAG, _JSON)])
    source = Source.of(given, root / config_path, config_name, root)
    found: list[Found] = []
    variants = _variants(given.overrides)
    for variant in variants[:_MOST]:
        found += [item for item in _check(variant, source) if item.message not in {known.message for known in found}]
    if _JSON in argv:
        print(json.dumps({"valid": not found, "problems": [asdict(item) for item in found]}, indent=2))
    else:
        _show(found, source)
        if len(variants) > _MOST:
            print(f"Checked were the first {_MOST} of {len(variants)} values of this sweep.", file=sys.stderr)
    return int(bool(found))


def _show(found: Sequence[Found], source: Source) -> None:
    for item in found:
        print(f"Error: {item.message}{f' ({item.where})' if item.where else ''}", file=sys.stderr)
    if found:
        count = len(found)
        print(f"{count} error{'s' * (count != 1)} in the configuration.", file=sys.stderr)
    else:
        print(f"The configuration of {source.configs.name}/{source.name} with these overrides is valid.")


def _variants(given: Sequence[str]) -> list[list[str]]:
    """Return the overrides of single runs: of a sweep, each of its values appears in one of them."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(given))
    except HydraException:  # the composition reports it
        return [list(given)]
    values = [found for item in parsed if (found := _values(item))]
    first = [options[0] for options in values]
    more = [
        [*first[:number], option, *first[number + 1 :]]
        for number, options in enumerate(values)
        for option in options[1:]
    ]
    return [first, *more]


def _values(override: Any) -> list[str]:
    """Return the override for each value of a sweep; any other override as it is. Without values, it is left out."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    key = override.get_key_element()
    if override.is_interval_sweep():  # any number between the two
        return [f"{key}={end}" for end in (override.value().start, override.value().end)]
    try:
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    except HydraException:  # `glob(*)` takes all options of a group, which are there
        return []


def _check(given: Sequence[str], source: Source) -> list[Found]:
    """Return what is wrong with the configuration of one run."""
    named = [file(item) if overrides.key(item) in overrides.FILES and "=" in item else item for item in given]
    found, rest = _refused(overrides.renamed(named), source)
    cfg: DictConfig | None = None
    choices: Mapping[str, str | None] = {}
    errors: list[tuple[str, Exception]] = []
    while cfg is None:
        try:
            cfg, choices = source.compose_with_choices(rest)
        except Exception as error:  # of Hydra, or of YAML
            culprit = _culprit(str(error), rest)
            errors.append((culprit or "", error))
            if culprit is None:
                break
            rest.remove(culprit)
    for wrong, refusal in errors:
        suggest.add(refusal, [*rest, wrong], source.compose)  # what is left composes, so that its keys are known
        found.append(Found(overrides.key(wrong), _in_words(refusal), wrong))
    if cfg is None:
        return found
    inside = problems.find(cfg)
    found += [Found(**asdict(item), where=_where(item.key, rest, source, choices)) for item in inside]
    if not any(item.key.startswith(_BUILT) for item in inside) and (why := _wrong_value(cfg)):
        key = why.partition("=")[0]  # as all messages about a value begin
        found.append(Found(key if key.replace(".", "").isidentifier() else "", why, _where(key, rest, source, choices)))
    return found


_BUILT = ("checkpoint.triggers.", "checkpoint.keep.")
"""Objects that are built where values are checked, so that each problem of one would be named twice."""


def _refused(given: Sequence[str], source: Source) -> tuple[list[Found], list[str]]:
    """Return the overrides that are refused before anything is composed, and the others."""
    found: list[Found] = []
    rest: list[str] = []
    known = command_line.known(source)
    options = [item for item in given if (source.configs / f"{item.replace('=', '/', 1)}.yaml").is_file()]
    for item in given:
        try:
            OverridesParser.create().parse_overrides([item])
            overrides.check([item], known, lambda some: command_line.try_to_compose([*options, *some], source))
            rest.append(item)
        except (CairnError, HydraException) as error:
            found.append(Found(overrides.key(item), f"{first_line(error)}.", item))
    return found, rest


def _culprit(message: str, given: Sequence[str]) -> str | None:
    """Return the override that an error of Hydra is about; None if it is about a file."""
    for item in given:
        name, _, value = item.partition("=")
        name = name.lstrip("+~")
        quoted = (f"'{name}'", f"'{name}/{value}'", f"'{item}'", f" {name}.", f"'{name}={value}'")
        if name and any(text in message for text in quoted):
            return item
    return given[0] if len(given) == 1 and "verride" in message.partition("\n")[0] else None


def _in_words(error: Exception) -> str:
    """Return an error of Hydra in one line: its first sentence, and what was probably meant."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    meant = [line for line in lines if line.startswith("Did you mean")]
    return " ".join([f"{first_line(error)}.", *meant])


def _where(key: str, given: Sequence[str], source: Source, choices: Mapping[str, str | None]) -> str:
    """Return where a key was written: the override, or file and line; empty if it is not found."""
    if typed := [item for item in given if overrides.key(item) == key]:
        return typed[-1]
    for item in files.chosen(files.below(source.configs), choices):
        if (line := item.lines().get(key)) is not None:
            return f"{item.path.relative_to(source.configs.parent)}, line {line}"
    return ""


def _wrong_value(cfg: DictConfig) -> str:
    """Return what the library says about a value that it reads itself; empty if all of them are valid."""
    cfg = cfg.copy()
    with open_dict(cfg):
        if "paths" in cfg:
            cfg.paths.output_dir = _PLACE
        cfg["logger"] = {}  # building one may import torch
        for key in ("resume", "prove"):
            cfg.pop(key, None)
        try:
            plain: Any = OmegaConf.to_container(cfg, resolve=True)
        except Exception:  # a resolver that only a run has
            return ""
    try:
        pausing.requested(cfg, settings.parse(OmegaConf.create(plain)))
    except CairnError as error:
        return str(error)
    except Exception as error:  # a key that is missing, or an object of the project that refuses its arguments
        return f"{type(error).__name__}: {first_line(error)}"
    return ""
