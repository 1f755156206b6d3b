"""A run and W&B: what W&B is told of it, which of its checkpoints it gets, where it may start from, and a later `sync`.

Imports wandb only where somebody wants it: it takes a second.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch import loggers
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from cairn.errors import CheckpointError, ResumeError, first_line
from cairn.hydra import job_name, settings
from cairn.hydra.provenance import StartedFrom as Start
from cairn.jobs.signals import exit_code
from cairn.lightning.agreement import TIME_LIMIT
from cairn.lightning.state import KEY
from cairn.runs.directory import Record, RunDirectory
from cairn.store import disk, history
from cairn.store.catalog import Catalog, verify
from cairn.store.listener import UNTRACKED, Tracker
from cairn.types import Saved
from cairn.wandb.logger import WandbLogger, prepare, read, why_not

if TYPE_CHECKING:
    from cairn.wandb.artifacts import Place, Wishes

from cairn.units import parse_duration_s, parse_size

log = logging.getLogger(__name__)

PREFIX = "wandb:"
"""`ckpt_path=wandb:entity/project/name:alias` names a checkpoint that lies in W&B."""
_VERSION = "version.txt"
STOP_S = 10.0
"""Who was stopped by a signal has little time left for uploads: the next start, or `sync`, makes up for them."""
_FINISH_S = 2.0
"""Of these, no checkpoint is waited for: history and exit code need them."""
_TEARDOWN_S = 1.0
"""On top of these, for what is left of a client whose process has been killed; it takes milliseconds."""


# What W&B is told


def node(cfg: DictConfig) -> DictConfig | None:
    """The configuration of our W&B logger, under whatever name; None if there is none."""
    nodes = cfg.get("logger", {}).values()
    return next(
        (
            node
            for node in nodes
            if str(node.get("_target_")).endswith(("cairn.wandb.logger.WandbLogger", "logging.wandb.WandbLogger"))
        ),
        None,
    )


def set_up(cfg: DictConfig, directory: RunDirectory) -> None:
    """Before the logger is made: where W&B's files go, and that it stays off the network if it shall."""
    if (found := node(cfg)) is not None:
        prepare(directory.path, bool(found.get("offline")))


def own(given: DictConfig, run_id: str, directory: RunDirectory) -> dict[str, Any]:
    """What the configuration leaves to the run: its id; in a sweep, a name that says what is special, and the group."""
    before = _recall(directory)
    found = {"id": given.get("id") or run_id, "forget": _forget}
    found |= {key: given.get(key) or before.get(key) for key in ("name", "group")}
    found["project"] = _project(given)
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    if hydra is not None and hydra.mode == RunMode.MULTIRUN:
        sweep = Path(hydra.sweep.dir).absolute()
        found["group"] = found["group"] or _short(f"{sweep.parent.name}-{sweep.name}")
        special = job_name.special(hydra.overrides.task, _begun_with(sweep))
        found["name"] = found["name"] or _short(" ".join(special)) or directory.path.name
    _remember(directory, name=found["name"], group=found["group"])
    return found


def _begun_with(sweep: Path) -> list[str]:
    """The overrides of the command line that began a sweep, as far as its sweeper has written them down."""
    file = sweep / "multirun.yaml"
    return list(OmegaConf.select(OmegaConf.load(file), "hydra.overrides.task") or []) if file.is_file() else []


def _short(name: str) -> str:
    """What W&B takes as a name; one that is longer would keep the run from being logged at all."""
    return name if len(name) <= settings.LONGEST_NAME else f"{name[: settings.LONGEST_NAME - 3]}..."


def _project(given: DictConfig) -> str | None:
    """A task's name may be one that W&B takes for no project: `digits/cnn` makes folders, here."""
    named = given.get("project")
    return None if named is None else _short(re.sub(f"[{re.escape(settings.NOT_IN_A_PROJECT)}]", "-", str(named)))


def introduce(
    directory: RunDirectory, given: Sequence[Any], settings: Mapping[str, Any], facts: dict[str, Any]
) -> None:
    """Tell the loggers what run this is; what a later start, or `sync`, cannot find out any more is noted down."""
    if "started_from" not in facts and (before := _recall(directory).get("facts", {}).get("started_from")):
        facts["started_from"] = before
    if any(isinstance(logger, WandbLogger) for logger in given):
        _remember(directory, facts=facts)
    for logger in given:
        logger.log_hyperparams({**settings, "run": facts})


@rank_zero_only
def _remember(directory: RunDirectory, **what: Any) -> None:
    path = directory.path / "wandb" / "run.json"
    if path.parent.is_dir():
        try:
            disk.put(path, json.dumps(_recall(directory) | what, indent=2, default=str).encode())
        except OSError as error:
            log.error("%s cannot be written (%s): `sync` will know less of this run.", path, error.strerror)


def _recall(directory: RunDirectory) -> dict[str, Any]:
    path = directory.path / "wandb" / "run.json"
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def _forget() -> None:
    from cairn.wandb import artifacts

    artifacts.forget()


def is_preempted(stopped_by: str) -> bool:
    """Was a run stopped by somebody who does not sit before it? `stopped_by`: a signal, a limit, or empty."""
    return stopped_by not in ("", "SIGINT", TIME_LIMIT)


@dataclass(frozen=True)
class Ending:
    """How a run has ended."""

    code: int = 1
    """Of the process."""
    stopped_by: str = ""
    """A signal, or what else has stopped it; empty if nothing did."""
    finished: bool = False


def end(
    cfg: DictConfig, tracker: Tracker, given: Sequence[Any], how: Ending, now: Callable[[], float] = time.monotonic
) -> None:
    """Let W&B have what is left of a run, and end it there.

    Who was stopped has `STOP_S` for all of it, whatever hangs: SIGKILL may come next, and the job is not yet requeued.
    W&B's client would be waited for once more when the process ends, and without a limit: one that has used up its time
    is ended, too.
    """
    until = now() + STOP_S
    if is_preempted(how.stopped_by):  # first of all: nothing of it may be left to be done
        for logger in given:
            if isinstance(logger, WandbLogger):
                logger.preempt()
    limit_s = wait_s(cfg, bool(how.stopped_by))
    try:
        tracker.close(how.finished, limit_s - _FINISH_S if how.stopped_by else limit_s)
    finally:
        ours = [logger for logger in given if isinstance(logger, loggers.WandbLogger)]
        have_ended = [_close(logger, how.code, max(0.0, until - now()) if how.stopped_by else None) for logger in ours]
        if not all(have_ended) or (ours and how.stopped_by and now() >= until):
            _abandon()


def _abandon() -> None:
    """Its client hangs: what it has written to its file is kept, and `sync` sends it."""
    from cairn.wandb import artifacts

    if artifacts.kill():
        why_not(artifacts.forget, _TEARDOWN_S)


def _close(logger: loggers.WandbLogger, code: int, limit_s: float | None) -> bool:
    """End W&B's run, whoever has begun it: the next job of a sweep would log into it. Has it ended?"""
    if isinstance(logger, WandbLogger):
        logger.close(code, limit_s)
        return logger.has_ended
    if logger._experiment is None:
        return True
    if why := why_not(partial(logger.experiment.finish, exit_code=code), limit_s):
        log.error("W&B: its run could not be ended (%s).", why)
    return not why


# Its checkpoints


def tracker(cfg: DictConfig, given: Sequence[Any], directory: RunDirectory, facts: Mapping[str, Any]) -> Tracker:
    """Who has the checkpoints of a run beside its disk: W&B, if it is among the loggers and shall have any."""
    logger = next((item for item in given if isinstance(item, WandbLogger)), None)
    if logger is None or not cfg.get("train") or logger.mode == "disabled":
        return UNTRACKED
    start = Start(**facts["started_from"]) if "started_from" in facts else None
    any_wanted = _any_wanted(cfg.checkpoint)
    if not any_wanted and (start is None or logger.mode != "online"):
        return UNTRACKED
    from cairn.wandb import artifacts

    run = logger.experiment
    if logger.mode == "disabled":  # it does not take the run
        return UNTRACKED
    uses = [artifact] if start and (artifact := _artifact(start, run.entity, run.project)) else []
    wishes = _wishes(cfg) if any_wanted else replace(_wishes(cfg), which="none")  # what is there stays as it was wished
    return artifacts.WandbTracker(run, _place(directory, Path(cfg.checkpoint.dirpath), facts), wishes, uses)


def _any_wanted(group: DictConfig) -> bool:
    return bool(group.triggers) and "artifacts" in group and group.artifacts.which != "none"


def _place(directory: RunDirectory, checkpoints: Path, facts: Mapping[str, Any]) -> Place:
    from cairn.wandb.artifacts import Place

    told = {key: facts[key] for key in ("git_commit", "started_from") if key in facts}
    return Place(directory.path, checkpoints, told)


def _artifact(start: Start, entity: str, project: str) -> str:
    """The version that a run has started from; empty if its file says nothing of a run."""
    if start.version:
        return start.version
    if start.named.startswith(PREFIX):
        return start.named.removeprefix(PREFIX)
    if not start.run:
        return ""
    from cairn.wandb.artifacts import alias, collection

    *place, name = (start.known_as or start.run).split("/")
    place = [entity, project][: 2 - len(place)] + place
    return f"{'/'.join(place)}/{collection(name)}:{alias(start.step)}"


def _wishes(cfg: DictConfig) -> Wishes:
    """What of the checkpoints shall be in W&B; `config.check` has seen it. Runs from before there was a choice: all."""
    from cairn.wandb.artifacts import Wishes

    if "artifacts" not in cfg.checkpoint:
        return Wishes()
    group = cfg.checkpoint.artifacts
    return Wishes(group.which, group.every, group.pruned, None if group.queue is None else parse_size(group.queue))


def wait_s(cfg: DictConfig, stopped: bool) -> float:
    """How long the end of a run may wait for uploads, in seconds."""
    if stopped or "artifacts" not in cfg.checkpoint:
        return STOP_S
    return parse_duration_s(cfg.checkpoint.artifacts.wait, name="checkpoint.artifacts.wait")


# What a run starts from


def local(named: str, directory: RunDirectory) -> Path:
    """The file that a run starts from; one that lies in W&B is fetched into the run directory, once.

    Raises:
        ResumeError: it is not to be had.
    """
    if not named.startswith(PREFIX):
        return Path(named)
    folder = _start_folder(named, directory)
    if there := sorted(folder.glob("whole/*.ckpt")):
        return there[0]
    from cairn.wandb import artifacts

    prepare(directory.path, offline=False)
    path, found = artifacts.download(named.removeprefix(PREFIX), folder)
    (folder / _VERSION).write_text(found)
    (folder / "whole").mkdir(exist_ok=True)
    return path.rename(folder / "whole" / path.name)


def version(named: str, directory: RunDirectory) -> str:
    """Which version `local` has fetched, `entity/project/name:v3`; empty if it has fetched none."""
    path = _start_folder(named, directory) / _VERSION
    return path.read_text() if named.startswith(PREFIX) and path.is_file() else ""


def known_as(contents: Mapping[str, Any]) -> str:
    """What W&B calls the run that has saved these: its project may be another than that of who starts from them.

    Returns:
        `entity/project/id`, or without what its configuration leaves open; empty if it was not logged to W&B.
    """
    ours = contents.get(KEY, {})
    given = node(OmegaConf.create({"logger": ours.get("config", {}).get("logger") or {}}))
    if given is None:
        return ""
    place = [given.get("entity"), _project(given)] if given.get("project") else []
    return "/".join([*filter(None, place), given.get("id") or ours["run"]])


def _start_folder(named: str, directory: RunDirectory) -> Path:
    return directory.path / "start" / hashlib.sha256(named.encode()).hexdigest()[:8]


# Later


@dataclass(frozen=True)
class Synced:
    """What W&B has of a run after a `sync`."""

    run: str
    """entity/project/id."""
    num_rows: int
    """Of the history, sent now."""
    has_history: bool
    """W&B has taken all of it."""
    states: Sequence[tuple[Saved, str]]
    """Each kept checkpoint that shall be there, and its version, empty if there is none."""


def sync(run: RunDirectory, limit_s: float) -> Synced:
    """Send a run to W&B, or what W&B lacks of it; nothing is taken back but what retention has deleted.

    The history is that of the journal: pictures, the console and the system's load stay in W&B's own files.

    Raises:
        ResumeError: it has never been logged to W&B, or W&B cannot be reached.
    """
    cfg, record = OmegaConf.create(run.config()), run.record()
    if (given := node(cfg)) is None or record is None:
        raise ResumeError(f"{run.path} has no W&B logger in its configuration: there is nothing to send.")
    os.environ.pop("WANDB_MODE", None)  # whatever the runs do: this command goes to the network
    prepare(run.path, offline=False, finish_s=max(1.0, limit_s))  # 0 would be no limit
    logger = _logger(given, record, run)
    rows = list(read(logger.journal.path))
    num_rows = sum(logger.deliver(row) for row in rows)
    logger.log_hyperparams({**OmegaConf.to_container(cfg, resolve=True), "run": _recall(run).get("facts", {})})  # type: ignore[dict-item]
    try:
        return _send_checkpoints(cfg, run, record, logger, num_rows, limit_s)
    finally:
        if not logger.has_ended:
            _abandon()


def _logger(given: DictConfig, record: Record, run: RunDirectory) -> WandbLogger:
    """Online, or not at all."""
    names = {key: given.get(key) or _recall(run).get(key) for key in ("name", "group")}
    more = {"id": given.get("id") or record.id, "project": _project(given), "save_dir": str(run.path), "offline": False}
    logger: WandbLogger = instantiate(given, **more, **names)
    try:
        _ = logger.experiment
    except Exception as error:
        raise ResumeError(f"W&B cannot be reached: {first_line(error)}.") from error
    return logger


def _send_checkpoints(
    cfg: DictConfig, run: RunDirectory, record: Record, logger: WandbLogger, num_rows: int, limit_s: float
) -> Synced:
    from cairn.wandb import artifacts

    kept = Catalog(run.checkpoints()).committed()
    links = history.links(kept, cfg.checkpoint.mode if cfg.checkpoint.monitor else None)
    wishes, finished, experiment = _wishes(cfg), record.status == "finished", logger.experiment
    sender = artifacts.WandbTracker(experiment, _place(run, run.checkpoints(), _recall(run).get("facts", {})), wishes)
    sender.opened([saved for saved in kept if _is_whole(run.checkpoints(), saved)], links)
    sender.close(finished, limit_s)
    name = f"{experiment.entity}/{experiment.project}"
    run_name, artifact = f"{name}/{experiment.id}", f"{name}/{artifacts.collection(experiment.id)}"
    if record.status == "stopped" and is_preempted(record.why):
        logger.preempt()
    has_history = logger.close(_exit_code(record))
    try:
        there = artifacts.versions(artifact)
    except Exception as error:
        raise ResumeError(f"W&B does not say what it has: {first_line(error)}.") from error
    wanted = [saved for saved in kept if wishes.wants(saved, links, finished)]
    found = {saved.name: next((v.version for v in there if _is_version(v, saved)), "") for saved in wanted}
    return Synced(run_name, num_rows, has_history, [(saved, found[saved.name]) for saved in wanted])


def _is_version(version: Any, saved: Saved) -> bool:
    from cairn.wandb import artifacts

    return artifacts.digest_of(version) == saved.digest and artifacts.holds(version, saved)


def _is_whole(folder: Path, saved: Saved) -> bool:
    try:
        verify(folder / saved.name, saved)
    except CheckpointError:
        return False  # told as missing
    return True


def _exit_code(record: Record) -> int:
    """As the run itself would have said."""
    if record.status == "stopped" and record.why != TIME_LIMIT:
        return exit_code(record.why)
    return 0 if record.status in ("finished", "stopped") else 1
