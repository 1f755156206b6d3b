"""The search in Optuna's journal, for Optuna's own tools. It follows `sweep.json`, from which it can be made again."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cairn.errors import first_line
from cairn.search import sampler
from cairn.search.space import Space
from cairn.search.state import Search, Trial

NAME = "optuna.log"
STUDY = "search"

log = logging.getLogger(__name__)


class _Unlocked:
    """Locks nothing: the search has a lock of its own, and a kill would leave Optuna's behind."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None: ...


class Journal:
    """Optuna's journal of a search.

    Args:
        directory: That of the search.
        space: What it varies.
    """

    def __init__(self, directory: Path, space: Space) -> None:
        self.path, self._space = directory / NAME, space
        self._study: Any = None

    def follow(self, search: Search) -> None:
        """Add what the journal does not have yet. Without it, the search goes on all the same."""
        try:
            with _quiet():
                try:
                    self._add(search)
                except Exception:  # a kill has cut it, or it is of another search
                    self._study = None
                    self.path.unlink(missing_ok=True)
                    self._add(search)
        except Exception as error:
            log.warning("%s could not be written (%s). The search does not need it.", self.path, first_line(error))
            self._study = None

    def _add(self, search: Search) -> None:
        if self._study is None:
            self._study = _opened(self.path, search)
        study = self._study
        there = study.get_trials(deepcopy=False)
        for trial in search.trials:
            if trial.number >= len(there):
                study.add_trial(_created(self._space, trial))
        for trial, known in zip(search.trials, study.get_trials(deepcopy=False), strict=True):
            if not known.state.is_finished():
                _complete(study, trial, known)


def _opened(path: Path, search: Search) -> Any:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    unlocked: Any = _Unlocked()
    storage = JournalStorage(JournalFileBackend(str(path), lock_obj=unlocked))
    return optuna.create_study(
        storage=storage, study_name=STUDY, direction=sampler.direction(search.mode), load_if_exists=True
    )


def _created(space: Space, trial: Trial) -> Any:
    from optuna.trial import TrialState, create_trial

    return create_trial(
        state=TrialState.RUNNING,
        params=sampler.to_optuna(space, trial.parameters),
        distributions=sampler.distributions(space),
        user_attrs={"directory": trial.directory, "bracket": trial.bracket},
    )


def _complete(study: Any, trial: Trial, known: Any) -> None:
    """Report the scores of a trial, and how it has ended."""
    from optuna.trial import Trial as OptunaTrial
    from optuna.trial import TrialState

    own = OptunaTrial(study, known._trial_id)
    for item in trial.rungs:
        if item.rung not in known.intermediate_values and item.score is not None:
            own.report(item.score, item.rung)
    score = trial.score
    if trial.state == "failed" or (trial.state in ("finished", "stopped") and score is None):
        study.tell(trial.number, state=TrialState.FAIL)
    elif trial.state == "finished":
        study.tell(trial.number, score)
    elif trial.state == "stopped":
        study.tell(trial.number, state=TrialState.PRUNED)


@contextmanager
def _quiet() -> Iterator[None]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
