"""The screen of `--help`: groups with their options, and the keys that have a comment in the project's `configs/`.

The comment of a key is its description: a key that the user adds is shown as soon as it has a comment.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cairn.hydra.sweep import plugins

_WIDTH = 100
_KEY_WIDTH = 37
_LINE = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][\w-]*):(?P<value>.*?)(?:\s#\s*(?P<comment>.*))?$")
_HIDDEN = {"local", "paths", "hydra"}
_NAMED = {"callbacks", "logger", "hydra/launcher", "hydra/sweeper"}
"""Groups whose options are shown without their keys."""
_ABOUT = """\
Usage: python {program} [GROUP=OPTION] [GROUP.KEY=VALUE] ...

  python {program} model=mlp seed=1            train with other options and values
  python {program} resume=latest               resume the newest run (or RUN_DIR, ADDRESS, auto)
  python {program} -m seed=1,2,3               a sweep: one run per value
  python {program} eval=RUN_DIR data=OTHER     test its best checkpoint, on these data
  python {program} logger.wandb.offline=false  upload to W&B during training
"""
_MORE = """\
The files are in configs/. +GROUP.KEY=VALUE adds a new key.
--cfg job  shows the whole configuration    --info defaults  how it was composed
-m         runs a sweep                     --hydra-help     options of Hydra
prove=true --help  the flags of prove: --stops, --epochs, --batches, --seed, --keep, --json
cairn --help: commands to inspect and manage runs   cairn check OVERRIDES: what is wrong with them"""


def of(configs: Path, overrides: Sequence[str], config_name: str = "train") -> str | None:
    """Return the screen for these overrides; None if they cannot be composed: Hydra's own error has more detail.

    Args:
        configs: Directory of the project's configuration.
        overrides: Overrides from the command line; the keys of the options that they choose are shown.
        config_name: Name of the primary file.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    try:
        with initialize_config_dir(str(configs.absolute()), version_base="1.3"):
            cfg = compose(config_name, list(overrides), return_hydra_config=True)
    except Exception:
        return None
    choices = {str(group): option for group, option in cfg.hydra.runtime.choices.items()}
    values: Any = OmegaConf.to_container(cfg)
    primary = configs / f"{config_name.removesuffix('.yaml')}.yaml"
    groups = _groups(configs, primary)
    parts = [
        _ABOUT.format(program=Path(sys.argv[0]).name),
        _group_table(groups, choices),
        "Keys, with their values:",
        *_key_tables(configs, primary, groups, choices, values),
        _MORE,
    ]
    return "\n".join(parts)


def _groups(configs: Path, primary: Path) -> dict[str, list[str]]:
    """Return the groups and their options, in the order of the defaults list."""
    found: dict[str, list[str]] = {}
    for file in sorted(configs.rglob("*.yaml")):
        group = file.parent.relative_to(configs).as_posix()
        if group != "." and group not in _HIDDEN:
            found.setdefault(group, []).append(file.stem)
    if "hydra/launcher" in found:
        local = ["submitit_local"] if plugins.is_installed() else []
        found["hydra/launcher"] = ["basic", *found["hydra/launcher"], *local]
        found["hydra/sweeper"] = ["basic", "halving", "optuna"]  # of Hydra, and of this library
    order = list(_defaults(primary))
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def _group_table(groups: Mapping[str, Sequence[str]], choices: Mapping[str, str | None]) -> str:
    lines = ["Groups: [chosen] and other options"]
    for group, options in groups.items():
        chosen = choices.get(group)
        shown = "  ".join(f"[{option}]" if option == chosen else option for option in options)
        lines += textwrap.wrap(f"  {group:<15} {shown}", _WIDTH, subsequent_indent=" " * 18)
    return "\n".join(lines) + "\n"


def _key_tables(
    configs: Path,
    primary: Path,
    groups: Mapping[str, Sequence[str]],
    choices: Mapping[str, str | None],
    values: Mapping[str, Any],
) -> Iterator[str]:
    """Describe the keys at the top, then those of each group's chosen option."""
    tables = {"": [primary]}
    tables |= {group: list(_files(configs, group, choices.get(group))) for group in groups if group not in _NAMED}
    for group, files in tables.items():
        about: dict[str, str] = {}
        for file in files:
            about |= comments(file.read_text(), group)
        rows = [
            line for name, comment in about.items() for line in _row(name, _value(values, name.split(".")), comment)
        ]
        if rows:
            yield "\n".join(rows) + "\n"


def _files(configs: Path, group: str, option: str | None) -> Iterator[Path]:
    """Yield the project's files for an option, the files that it builds on first."""
    file = configs / group / f"{option}.yaml"
    if option is None or not file.is_file() or "@package _global_" in file.read_text().partition("\n")[0]:
        return
    for base in _defaults(file):
        yield from _files(configs, group, base)
    yield file


def _defaults(file: Path) -> Iterator[str]:
    """Yield the entries of a defaults list: groups in train.yaml, options of the same group in other files."""
    for entry in (yaml.safe_load(file.read_text()) or {}).get("defaults", []):
        yield str(next(iter(entry))) if isinstance(entry, dict) else str(entry)


def comments(text: str, group: str) -> dict[str, str]:
    """Return the comments of a file by the full names of their keys."""
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for line in text.splitlines():
        if (match := _LINE.match(line)) is None:
            continue
        indent = len(match["indent"])
        parents = [*(parent for parent in parents if parent[0] < indent), (indent, match["key"])]
        if match["comment"] and match["value"].strip():
            found[".".join(filter(None, [group, *(name for _, name in parents)]))] = match["comment"]
    return found


def _value(values: Any, path: Sequence[str]) -> str | None:
    """Return a value as it is typed on the command line; None if it is not set directly, such as an interpolation."""
    for name in path:
        if not isinstance(values, Mapping) or name not in values:
            return None
        values = values[name]
    if isinstance(values, Mapping) or path[0] in ("defaults", "hydra") or "${" in str(values):
        return None
    if isinstance(values, list):
        return f"[{','.join(map(str, values))}]"
    return json.dumps(values) if values is None or isinstance(values, bool) else str(values)


def _row(name: str, value: str | None, comment: str) -> list[str]:
    if value is None:
        return []
    head = f"  {name}={value}"
    about = textwrap.wrap(comment, _WIDTH - _KEY_WIDTH - 2, break_long_words=False)
    if len(head) > _KEY_WIDTH:
        return [head, *(" " * (_KEY_WIDTH + 2) + line for line in about)]
    return [f"{head:<{_KEY_WIDTH}}  {about[0]}", *(" " * (_KEY_WIDTH + 2) + line for line in about[1:])]
