"""The model card: README.md of an exported folder, with what is known about the run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from lightning.pytorch import LightningModule

from cairn.export.facts import Facts
from cairn.units import format_duration
from cairn.writing import exported


def text(model: LightningModule, facts: Facts, folder: str, removed: Sequence[str]) -> str:
    """Return the card.

    Args:
        model: The model.
        facts: Where it comes from.
        folder: Name of the folder.
        removed: Keys of its configuration that were secrets.
    """
    name = type(model).__name__
    front = {"library_name": "lightning", "tags": ["lightning", "cairn", "safetensors"], "model_name": folder}
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        f"# {_plain(folder)}",
        f"`{name}` of the package `{type(model).__module__.partition('.')[0]}`, exported by Cairn and verified: loaded"
        " from this folder, it has the weights of the checkpoint.",
        "## Training\n" + _table(_training(model, facts)),
    ]
    if metrics := _metrics(facts):
        parts.append("## Metrics\n" + _table(metrics))
    if facts.data:
        parts.append("## Data\n" + _code("yaml", yaml.safe_dump(facts.data, sort_keys=False, allow_unicode=True)))
    if facts.packages:
        parts.append("## Packages\n" + _table({name: _code_span(value) for name, value in facts.packages.items()}))
    parts.append("## Use\n" + _use(model, folder))
    if removed:
        named = ", ".join(map(_code_span, removed))
        parts.append(f"`{exported.CONFIG}` has null in place of values that may be secrets: {named}.")
    parts.append("The run does not state a license, an intended use or limits: add them here.")
    return "\n\n".join(parts) + "\n"


def _training(model: LightningModule, facts: Facts) -> dict[str, str]:
    position = facts.position
    length = ""
    if position is not None:
        length = f"{position.total_batches} batches, {position.step} optimizer steps, {position.samples} samples"
        length += f" (batch {position.batch} of epoch {position.epoch})"
    found = {
        "task": facts.task,
        "run": facts.run,
        "checkpoint": facts.checkpoint + (" (the best of its run)" if facts.is_best else ""),
        "length": length,
        "time": "" if facts.training_s is None else format_duration(facts.training_s),
        "saved": facts.created,
        "code": facts.commit.rstrip("+") + (" (files had changed since)" if facts.commit.endswith("+") else ""),
        "seed": "" if facts.seed is None else str(facts.seed),
        "parameters": f"{sum(value.numel() for value in model.parameters()):,}",
    }
    return {name: _code_span(value) for name, value in found.items() if value}


def _metrics(facts: Facts) -> dict[str, str]:
    """Return the metrics at the checkpoint; the score that ranks it comes first."""
    first = {facts.monitor: facts.score} if facts.monitor and facts.score is not None else {}
    return {f"`{_plain(name)}`": f"{value:.6g}" for name, value in {**first, **facts.metrics}.items()}


def _use(model: LightningModule, folder: str) -> str:
    module, name = type(model).__module__, type(model).__qualname__
    return _code(
        "python",
        f"""\
import cairn  # with the package `{module.partition(".")[0]}` of the project installed

model = cairn.load_model({json.dumps(folder)})  # {exported.CONFIG} names its classes and their arguments""",
    ) + (
        f"\n\n`{exported.WEIGHTS}` has the names of `{name}.state_dict()`: "
        f'`safetensors.torch.load_model(model, "{exported.WEIGHTS}")` loads it into a model that you have built.'
    )


def _table(rows: Mapping[str, str]) -> str:
    return "| | |\n| --- | --- |\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _plain(value: Any) -> str:
    """Return a text that does not end a cell, a line or a code span: names in a checkpoint may hold anything."""
    return " ".join(str(value).replace("|", "/").replace("`", "'").split())


def _code_span(value: str) -> str:
    return f"`{_plain(value)}`"


def _code(language: str, content: str) -> str:
    return f"```{language}\n{content.rstrip().replace('```', chr(39) * 3)}\n```"
