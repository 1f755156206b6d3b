"""Which parameters the next trial has: asked of Optuna, or of a grid.

The answer follows from the seed, the number of the trial and the scores so far, and from nothing else: a search that
was killed and repeated asks for the same trials as an undisturbed one. So each question is put to a new study in
memory, with the trials so far.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Literal, get_args

from cairn import extras
from cairn.errors import ConfigError
from cairn.search.space import Choice, Int, Parameter, Space
from cairn.search.state import Search, Trial
from cairn.types import Mode

Kind = Literal["tpe", "random", "grid", "gp"]

_STARTUP = 10
"""Trials before a model of the scores is worth more than chance, as in Optuna."""
_TRIES = 20
"""Questions before a trial that was asked for already is replaced by any other one."""


def check(kind: Any) -> Kind:
    """Return the name of a sampler, which can work here.

    Raises:
        ConfigError: There is no such sampler, or Optuna is missing.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"sampler={kind!r} must be {', '.join(get_args(Kind))}.", parameter="sampler")
    if find_spec("optuna") is None:
        raise ConfigError(f"A search needs Optuna: {extras.how_to_install('sweep')}")
    return kind


def ask(space: Space, search: Search) -> dict[str, Any]:
    """Return the parameters of the next trial, which no trial of the search has.

    Args:
        space: What the search varies.
        search: The search so far.
    """
    number, taken = len(search.trials), {tuple(space.overrides(trial.parameters)) for trial in search.trials}
    if search.sampler == "grid":
        return space.grid(search.seed)[number]
    for attempt in range(_TRIES):
        found = _asked(space, search, _seed(search.seed, number, attempt))
        if tuple(space.overrides(found)) not in taken:
            return found
    # What is left of a small space. A range that can be sampled twenty times without a new value is small.
    return next(space.unused(taken), found)


def _seed(*parts: int) -> int:
    """Return a seed that is different for each trial: with one seed, a repeated command would ask for the same."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def _asked(space: Space, search: Search, seed: int) -> dict[str, Any]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # nothing that a user could change
        study = optuna.create_study(sampler=_sampler(search.sampler, seed), direction=direction(search.mode))
        study.add_trials(_known(space, search))
        asked = study.ask(distributions(space)).params
    return {key: from_optuna(item, asked[key]) for key, item in space.parameters.items()}


def _sampler(kind: str, seed: int) -> Any:
    import optuna

    samplers = optuna.samplers
    if kind == "tpe":
        return samplers.TPESampler(n_startup_trials=_STARTUP, seed=seed)
    if kind == "gp":
        return samplers.GPSampler(n_startup_trials=_STARTUP, seed=seed)
    return samplers.RandomSampler(seed=seed)


def _known(space: Space, search: Search) -> list[Any]:
    """Return the trials so far as trials of Optuna: with their scores at one rung, or as running ones."""
    from optuna.trial import TrialState, create_trial

    rung = compared_at(search.trials, len(search.rungs))
    found = []
    for trial in search.trials:
        there = trial.at(rung)
        is_known = there is not None and there.score is not None
        if not is_known and (trial.state != "running" or trial.rungs):
            continue
        state = TrialState.COMPLETE if is_known else TrialState.RUNNING
        value = there.score if there is not None else None
        params = to_optuna(space, trial.parameters)
        found.append(create_trial(state=state, value=value, params=params, distributions=distributions(space)))
    return found


def compared_at(trials: Sequence[Trial], num_rungs: int) -> int:
    """Return the rung whose scores say most: the last one that enough trials have come to, or else the fullest one.

    Scores of different rungs are never compared: longer training is not a better choice of parameters.
    """
    counts = [sum(trial.at(rung) is not None for trial in trials) for rung in range(num_rungs)]
    enough = [rung for rung, count in enumerate(counts) if count >= _STARTUP]
    return enough[-1] if enough else counts.index(max(counts))


def direction(mode: Mode) -> Literal["minimize", "maximize"]:
    """Return the mode in Optuna's words."""
    return "minimize" if mode == "min" else "maximize"


def distributions(space: Space) -> dict[str, Any]:
    """Return the parameters as distributions of Optuna."""
    return {key: _distribution(item) for key, item in space.parameters.items()}


def _distribution(item: Parameter) -> Any:
    from optuna import distributions as known

    if isinstance(item, Choice):
        return known.CategoricalDistribution(item.texts)
    if isinstance(item, Int):
        return known.IntDistribution(item.low, item.high, log=item.log, step=item.step)
    return known.FloatDistribution(item.low, item.high, log=item.log, step=item.step)


def to_optuna(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of a trial as Optuna has them: a choice is known by its text."""
    items = space.parameters.items()
    return {key: item.text_of(values[key]) if isinstance(item, Choice) else values[key] for key, item in items}


def from_optuna(item: Parameter, value: Any) -> Any:
    """Return a value of a trial."""
    return item.choices[item.texts.index(value)] if isinstance(item, Choice) else item.rounded(value)
