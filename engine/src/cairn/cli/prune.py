"""`cairn prune RUN`: delete all checkpoints except the newest and the best."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cairn.account import progress
from cairn.cli.arguments import CheckpointDirectory, add_run, find_checkpoints, find_run
from cairn.cli.output import print_json
from cairn.errors import ConfigError, ResumeError
from cairn.policy.keep import Best, Latest, Rule
from cairn.remote import address, origin, owner, pruned
from cairn.remote.address import Address, is_address
from cairn.run import status, terminal
from cairn.run.claimed import claimed
from cairn.run.directory import RunDirectory
from cairn.store import audit, disk, earlier
from cairn.store.catalog import Catalog, Rejected, refuse_newer
from cairn.store.history import History
from cairn.trackers.deleted import note_in_all
from cairn.units import format_bytes, format_duration

HELP = "delete all checkpoints except the newest and the best; asks first"


@dataclass(frozen=True)
class Proposal:
    """What prune proposes to keep and to delete in the checkpoint directory of a run."""

    directory: CheckpointDirectory
    rules: Sequence[Rule]
    checkpoints: audit.PrunePlan
    leftovers: Sequence[Path]
    """Files that interrupted saves left behind."""

    @property
    def freed_bytes(self) -> int:
        """Size of the checkpoints to delete."""
        return sum(item.num_bytes for item in self.checkpoints.to_delete)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_run(parser)
    parser.add_argument("--keep-last", type=int, default=1, metavar="N", help="keep the newest N (default 1; -1: all)")
    parser.add_argument("--keep-best", type=int, default=1, metavar="K", help="keep the best K (default 1; -1: all)")
    parser.add_argument("--yes", action="store_true", help="delete without asking")


def run(arguments: argparse.Namespace) -> int:
    """Show what would be deleted, ask, delete, and return 0. The newest and the best are always kept."""
    try:
        rules: list[Rule] = [Latest(arguments.keep_last), Best(arguments.keep_best)]
    except ValueError as error:
        raise ConfigError(f"--keep-last and --keep-best: {error}") from error
    if is_address(arguments.named):
        return _run_in_mirror(arguments, rules)
    directory, owner = find_run(arguments.named, "prune needs the checkpoint.monitor of the run")
    with claimed(owner, directory.path):
        proposal = collect(directory, rules)
        if not arguments.json:
            show(proposal)
        if approved := arguments.yes or _is_approved(proposal, arguments.json):
            _delete(proposal, owner)
    _report(proposal, approved, arguments.json)
    return 0


def _run_in_mirror(arguments: argparse.Namespace, rules: list[Rule]) -> int:
    """Do as `run` in a mirror. It has no lock that could keep a run away: one that seems to train is not touched."""
    directory = find_checkpoints(arguments.named)
    where = address.parse(arguments.named)
    _check_mirror_is_free(directory, where)
    chosen = origin.asked(where, lambda objects: pruned.plan(objects, rules, directory.mode))
    if chosen.broken and not chosen.kept:
        raise ResumeError(f"No checkpoint in {where} is intact: nothing was deleted.")
    broken = [Rejected(Path(name), why) for name, why in chosen.broken]
    kept, to_delete = [item.saved for item in chosen.kept], [item.saved for item in chosen.to_delete]
    leftovers = [Path(name) for name in chosen.leftovers]
    proposal = Proposal(directory, rules, audit.PrunePlan(kept, to_delete, broken), leftovers)
    if not arguments.json:
        show(proposal)
        if to_delete:
            print("A mirror has no lock: do not start this run meanwhile.")
        if chosen.is_open:
            print(
                "This run was killed, or still trains somewhere. Only checkpoints are deleted, and no other leftovers."
            )
    if approved := arguments.yes or _is_approved(proposal, arguments.json):
        origin.asked(where, lambda objects: pruned.delete(objects, chosen))
    _report(proposal, approved, arguments.json)
    return 0


def _check_mirror_is_free(directory: CheckpointDirectory, where: Address) -> None:
    if directory.run is None or not origin.asked(where, owner.open_since):
        return
    run = directory.run
    if status.from_files(run.record(), progress.read(run.progress_file), status.known_attempts(run)) == "running":
        raise ResumeError(
            f"{where} is the mirror of a run that seems to train: stop it first. If it was killed, wait until its last "
            f"sign of life is {format_duration(status.SILENT_S)} old. Nothing was deleted."
        )


def _report(proposal: Proposal, approved: bool, json: bool) -> None:
    if json:
        print_json(as_json(proposal, approved))
    elif approved and proposal.checkpoints.to_delete:
        print(f"Deleted {len(proposal.checkpoints.to_delete)}, freed {format_bytes(proposal.freed_bytes)}.")


def collect(directory: CheckpointDirectory, rules: Sequence[Rule]) -> Proposal:
    """Decide what to delete. Only intact checkpoints count; corrupt ones are not deleted.

    Args:
        directory: Checkpoint directory of a run.
        rules: Keep rules.

    Raises:
        ResumeError: No checkpoint is intact, they belong to another run, or a later version of Cairn wrote one.
    """
    _check_owner(directory)
    refuse_newer(Catalog(directory.path).rejected(), " Nothing was deleted.")
    earlier.settle_all(directory.path)
    found = audit.plan_prune(directory.path, rules, directory.mode)
    if found.broken and not found.kept:
        raise ResumeError(f"No checkpoint in {directory.path} is intact: nothing was deleted.")
    return Proposal(directory, rules, found, Catalog(directory.path).leftovers())


def _check_owner(directory: CheckpointDirectory) -> None:
    # The configuration in a run directory may name any other directory, and the run directory may come from others.
    if directory.run is None or directory.path.resolve().is_relative_to(directory.run.path.resolve()):
        return
    record = directory.run.record()
    others = {item.run for item in Catalog(directory.path).committed()} - {"", record.id if record else ""}
    if record is not None and others:
        raise ResumeError(
            f"{directory.path} holds checkpoints of another run ({', '.join(map(ascii, sorted(others)))}): nothing was "
            f"deleted. Name the directory of that run."
        )


def as_json(proposal: Proposal, deleted: bool) -> dict[str, Any]:
    """Return the proposal as JSON values.

    Args:
        proposal: The proposal.
        deleted: True if the proposed deletions were made.
    """
    found = proposal.checkpoints
    return {
        "kept": [item.name for item in found.kept],
        "deleted" if deleted else "would_delete": [item.name for item in found.to_delete],
        "broken": [{"name": item.path.name, "why": item.why} for item in found.broken],
        "leftovers": [path.name for path in proposal.leftovers],
        "freed_bytes": proposal.freed_bytes,
    }


def show(proposal: Proposal) -> None:
    """Print the proposal, a line per checkpoint."""
    found = proposal.checkpoints
    for item in found.broken:
        terminal.line(f"corrupt {item.path.name}: {item.why}; not counted, not deleted")
    for saved in found.kept:
        terminal.line(f"keep    {saved.name}")
    for saved in found.to_delete:
        terminal.line(f"delete  {saved.name}  {format_bytes(saved.num_bytes)}")
    if not found.to_delete:
        print("There is nothing to delete.")
    if proposal.directory.mode is None:
        print("This run has no checkpoint.monitor: no checkpoint is best, and --keep-best has no effect.")


def _is_approved(proposal: Proposal, as_json: bool) -> bool:
    if as_json or not proposal.checkpoints.to_delete:
        return False
    if not sys.stdin.isatty():
        raise ConfigError("Nothing was deleted: prune asks first, and there is no terminal to answer on. Pass --yes.")
    return input("Delete them? [y/N] ").strip().lower() in ("y", "yes")


def _delete(proposal: Proposal, run: RunDirectory) -> None:
    found = proposal.checkpoints
    note_in_all(run.path, found.to_delete)
    History(proposal.directory.path, list(proposal.rules), proposal.directory.mode).retain(found.kept, found.to_delete)
    for path in proposal.leftovers:
        disk.remove(path)
