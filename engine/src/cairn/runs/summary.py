"""What a person sees: the configuration at the start, and at the end what is kept, why, and how to go on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from cairn.store import names
from cairn.types import Saved
from cairn.units import size

_FIRST = ("task_name", "seed", "data", "model", "trainer", "checkpoint", "callbacks", "logger")


@dataclass(frozen=True)
class Ending:
    """How a run ended."""

    run: Path
    checkpoints: Path
    status: str
    saved: Sequence[Saved] = ()
    best: str = ""
    """File name of the best checkpoint."""
    monitor: str | None = None
    test: Mapping[str, float] | None = None
    num_saves: int = 0
    num_failed: int = 0
    """Saves that failed, in this process."""
    num_skipped: int = 0
    """Interval saves that were left out, because the writer was busy."""
    stall_s: float = 0.0
    """Training stood still for saves, in all."""
    overhead: float = 0.0
    """What saving has cost, as a share of the time that the run would have taken without."""
    at_risk_s: float = 0.0
    """Work that a failure would have lost, on average."""
    more: str = ""
    """The override without which going on would do nothing."""


def show_config(config: Mapping[str, Any], console: Console) -> None:
    """Print the resolved configuration as a tree, a branch per group."""
    from omegaconf import OmegaConf

    tree = Tree("config", guide_style="dim")
    for name in sorted(config, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)):
        value = config[name]
        if isinstance(value, dict) and value:
            text = OmegaConf.to_yaml(OmegaConf.create(value)).rstrip()
            tree.add(str(name)).add(Syntax(text, "yaml", background_color="default"))
        else:
            tree.add(Text(f"{name}: {value}"))
    console.print(tree)


def show_ending(ending: Ending, console: Console) -> None:
    """Print what is kept in `checkpoints/`, the scores, what saving cost, and the command that goes on from here."""
    if ending.saved:
        console.print(checkpoint_table(ending))
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(ending):
        facts.add_row(f"[dim]{name}", escape(value))
    console.print(facts)
    if ending.saved:
        # On a line of its own, however long, so that it can be copied.
        console.print(Text("go on   " + command(ending.run, *filter(None, [ending.more]))), soft_wrap=True)


def checkpoint_table(ending: Ending) -> Table:
    """A row per kept checkpoint, oldest first."""
    title = escape(relative(ending.checkpoints))
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    table.add_column("file", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("saved because")
    table.add_column(ending.monitor or "score", justify="right", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("link", no_wrap=True)
    for item in ending.saved:
        score = "" if item.score is None else f"{item.score:.4g}"
        step, why = str(item.position.step), ", ".join(item.reasons)
        table.add_row(item.name, step, why, score, size(item.num_bytes), _links(item, ending))
    return table


def _links(item: Saved, ending: Ending) -> str:
    links = {names.BEST: ending.best, names.LAST: ending.saved[-1].name}
    return " ".join(link.removesuffix(".ckpt") for link, name in links.items() if name == item.name)


def duration(seconds: float) -> str:
    """`5.8 ms`, `12.3 s`, `4 min`, `2.5 h`."""
    for unit, factor, limit in (("ms", 1e-3, 1.0), ("s", 1.0, 120.0), ("min", 60.0, 7200.0)):
        if seconds < limit:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds / 3600:.3g} h"


def relative(path: Path) -> str:
    """The path as one would type it here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def command(run: Path, *overrides: str) -> str:
    """The command that goes on with a run."""
    return " ".join(["python train.py", shlex.quote(f"resume={relative(run)}"), *overrides])


def _facts(ending: Ending) -> list[tuple[str, str]]:
    facts = [("run", f"{relative(ending.run)} ({ending.status})")]
    best = next((item for item in ending.saved if item.name == ending.best), None)
    if best is not None:
        facts.append(
            ("best", f"{ending.monitor} {best.score:.6g} at epoch {best.position.epoch}, batch {best.position.batch}")
        )
    if ending.test:
        facts.append(("test", ", ".join(f"{name} {value:.4g}" for name, value in ending.test.items())))
    if ending.num_saves:
        saves = "1 save" if ending.num_saves == 1 else f"{ending.num_saves} saves"
        less = {"failed": ending.num_failed, "skipped": ending.num_skipped}
        but = ", ".join(f"{count} {what}" for what, count in less.items() if count)
        cost = f"overhead {100 * ending.overhead:.2g} %, of which {duration(ending.stall_s)} standing still"
        facts.append(("saving", f"{saves}{f' ({but})' if but else ''}, {cost}"))
        facts.append(("at risk", f"{duration(ending.at_risk_s)} of work, on average"))
    return facts
