"""Goodput on paper: from one node to 16,384, with published failure rates. `python -m benchmarks.goodput` renews it.

The simulator is `cairn.study.simulate`, which a test validates against real kills. This writes the tables in
`docs/goodput.md`, between their marks, and `docs/goodput.png`; the page names every assumption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cairn.policy import auto
from cairn.study.failures import Exponential, Failures, Weibull, mtbf_of_nodes_s
from cairn.study.simulate import Plan, Spent, predict
from cairn.units import format_duration

DOCS = Path(__file__).parents[1] / "docs"
NODES = tuple(2**power for power in range(15))
RATES = {
    "RSC-2": 2.34,
    "Llama 3": 419 / 54 / 2048 * 1000,
    "BLOOM": 1.5 / 7 / 48 * 1000,
    "RSC-1": 6.50,
}
"""Failures per 1,000 node-days."""
RATE = RATES["Llama 3"]
GPUS_PER_NODE, NODES_OF_LLAMA = 8, 2048
_NODE_BYTES = GPUS_PER_NODE * 4e9
_COPY_BYTES_PER_S = GPUS_PER_NODE * 10e9
_STORAGE_BYTES_PER_S = 2e12
_SLOWDOWN = 0.02
"""How much slower batches are while a file is written."""


@dataclass(frozen=True)
class Policy:
    """A way to save and restart, on any number of nodes. Times in seconds."""

    name: str
    in_background: bool
    interval_s: float | None = None
    """None: Young and Daly's optimum, but at least `auto.ROOM` writes."""
    wait_s: float = 300.0
    start_s: float = 300.0

    def plan(self, num_nodes: int, mtbf_s: float) -> Plan:
        """Return what it means for a job of this size."""
        write_s = write_time_s(num_nodes)
        save_s = _NODE_BYTES / _COPY_BYTES_PER_S + _SLOWDOWN * write_s if self.in_background else write_s
        best_s = max(auto.daly_s(save_s, mtbf_s), auto.ROOM * write_s if self.in_background else 0.0)
        return Plan(self.interval_s or best_s, save_s, write_s, self.start_s, self.wait_s)


POLICIES = (
    Policy("training waits for a save, every 3 h", in_background=False, interval_s=3 * 3600.0),
    Policy("training waits for a save, best interval", in_background=False),
    Policy("saves in the background, best interval", in_background=True),
    Policy("the same, restarts in 2 min", in_background=True, wait_s=60.0, start_s=60.0),
)
BACKGROUND = POLICIES[2]


def write_time_s(num_nodes: int) -> float:
    """Return how long a checkpoint is written: all nodes share the storage, each has at most its part of 2,048."""
    return max(num_nodes, NODES_OF_LLAMA) * _NODE_BYTES / _STORAGE_BYTES_PER_S


def goodput(
    policy: Policy, num_nodes: int, rate: float = RATE, failures: Callable[[float], Failures] | None = None
) -> Spent:
    """Predict what the time of a long run is spent on."""
    mtbf_s = mtbf_of_nodes_s(rate, num_nodes)
    return predict(policy.plan(num_nodes, mtbf_s), (failures or Exponential)(mtbf_s))


def row(num_nodes: int) -> str:
    """Return a row of the table."""
    mtbf_s = mtbf_of_nodes_s(RATE, num_nodes)
    cells = [f"{num_nodes:,}", f"{num_nodes * GPUS_PER_NODE:,}", format_duration(mtbf_s, 2)]
    for policy in POLICIES:
        share = percent(goodput(policy, num_nodes).goodput)
        at = "" if policy.interval_s else f" ({format_duration(policy.plan(num_nodes, mtbf_s).interval_s, 2)})"
        cells.append(share + at)
    return _line(cells)


def table() -> str:
    """Return the goodput of each policy by the number of nodes."""
    head = ["nodes", "GPUs", "a failure each", *(policy.name for policy in POLICIES)]
    return "\n".join([_line(head), _line(["---"] * len(head)), *map(row, NODES)])


def sensitivity(num_nodes: int = NODES_OF_LLAMA) -> str:
    """Return what changes the goodput of the third policy on this number of nodes."""
    best_s = BACKGROUND.plan(num_nodes, mtbf_of_nodes_s(RATE, num_nodes)).interval_s
    cases: Sequence[tuple[str, Spent]] = [
        ("as in the table above", goodput(BACKGROUND, num_nodes)),
        ("a restart takes 2 min instead of 10 min", goodput(POLICIES[3], num_nodes)),
        ("a restart takes 30 min", goodput(replace(BACKGROUND, wait_s=1500.0), num_nodes)),
        ("the interval is half as long", goodput(replace(BACKGROUND, interval_s=best_s / 2), num_nodes)),
        ("the interval is 4 times as long", goodput(replace(BACKGROUND, interval_s=best_s * 4), num_nodes)),
        ("failures in bursts (Weibull, shape 0.7)", goodput(BACKGROUND, num_nodes, failures=lambda m: Weibull(m, 0.7))),
        *(
            (f"failure rate of {name} ({rate:.2f})", goodput(BACKGROUND, num_nodes, rate))
            for name, rate in RATES.items()
        ),
    ]
    head = ["case", "goodput", "saving", "lost and trained again", "starting", "waiting"]
    lines = [_line([name, *map(percent, shares(spent))]) for name, spent in cases]
    return "\n".join([_line(head), _line(["---"] * len(head)), *lines])


def shares(spent: Spent) -> list[float]:
    """Return the shares of the time: counted, saving, lost, starting, waiting."""
    parts = (spent.counted_s, spent.saving_s, spent.lost_s, spent.starting_s, spent.waiting_s)
    return [seconds / spent.total_s for seconds in parts]


def draw(path: Path) -> None:
    """Draw the goodput of each policy over the number of nodes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4.4), layout="constrained")
    styles = (("#8c8c8c", "--"), ("#2e6f95", "-"), ("#d1495b", "-"), ("#3c8d5a", "-"))
    for policy, (colour, line) in zip(POLICIES, styles, strict=True):
        axes.plot(NODES, [goodput(policy, number).goodput for number in NODES], line, color=colour, label=policy.name)
    low, high = ([goodput(BACKGROUND, number, rate).goodput for number in NODES] for rate in (6.50, 2.34))
    axes.fill_between(
        NODES, low, high, color=styles[2][0], alpha=0.15, lw=0, label="2.34 to 6.50 failures per 1,000 node-days"
    )
    axes.errorbar([NODES_OF_LLAMA], [0.90], yerr=0.035, lolims=True, fmt="k_", ms=12, capsize=3)
    arrow = {"arrowstyle": "-", "color": "#555555", "lw": 0.8, "shrinkB": 6}
    note, place = "reported for Llama 3:\nover 90 %", (64.0, 0.66)
    axes.annotate(note, (NODES_OF_LLAMA, 0.90), place, arrowprops=arrow, fontsize=9, ha="right")
    axes.set_xscale("log", base=2)
    axes.set_xticks(NODES[::2], [f"{number:,}" for number in NODES[::2]])
    axes.set(xlabel="nodes of 8 GPUs", ylabel="goodput: share of the time in training that counted", ylim=(0, 1.02))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize=8, frameon=False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def percent(share: float) -> str:
    """Format a share."""
    return f"{100 * share:.1f} %"


def filled(page: str, **tables: str) -> str:
    """Return the page with new tables between its marks.

    Args:
        page: Text with `<!-- NAME -->` before and `<!-- end of NAME -->` after each table.
        tables: The tables by name.
    """
    for name, text in tables.items():
        head, _, rest = page.partition(f"<!-- {name} -->\n")
        page = f"{head}<!-- {name} -->\n{text}\n<!-- end of {name} -->{rest.partition(f'<!-- end of {name} -->')[2]}"
    return page


def _line(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    path = DOCS / "goodput.md"
    path.write_text(filled(path.read_text(), goodput=table(), sensitivity=sensitivity()))
    draw(DOCS / "goodput.png")
