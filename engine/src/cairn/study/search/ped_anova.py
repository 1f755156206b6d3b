"""Importance by PED-ANOVA of Optuna: S. Watanabe, A. Bansal, F. Hutter (2023), IJCAI, arXiv:2304.10255.

It compares where the best trials lie with where all lie. Optuna is not required: the caller checks for it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from cairn.study.search.record import Parameter

_FEWEST_BEST, _SHARE_BEST, _MOST_BEST = 5, 0.1, 0.5
"""The best trials are a tenth of all, but at least five, as Optuna advises, and at most half of all."""


def shares(
    parameters: Mapping[str, Parameter], trials: Sequence[Mapping[str, Any]], orders: Sequence[Sequence[float]]
) -> Iterator[dict[str, float]]:
    """Yield the importance of each parameter, for each order of the scores; the scale is that of the method.

    Args:
        parameters: The search space.
        trials: Values of the parameters in each trial.
        orders: Scores of the trials, lower is better; the same scores in other orders show what chance gives.

    Raises:
        Exception: Optuna cannot be imported, is too old, or refuses the values.
    """
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator

    share = min(_MOST_BEST, max(_SHARE_BEST, _FEWEST_BEST / len(trials)))
    with _quiet(optuna):
        evaluator = PedAnovaImportanceEvaluator(target_quantile=share)
        study = optuna.create_study()
        for values in trials:
            spaces = {name: _space(parameters[name], optuna) for name in values}
            plain = {name: _plain(parameters[name], value) for name, value in values.items()}
            study.add_trial(optuna.trial.create_trial(params=plain, distributions=spaces, value=0.0))
        for scores in orders:
            found = evaluator.evaluate(study, target=_target(scores))
            yield {name: float(found.get(name, 0.0)) for name in parameters}


def _target(scores: Sequence[float]) -> Callable[[Any], float]:
    return lambda trial: scores[trial.number]


def _space(parameter: Parameter, optuna: Any) -> Any:
    if parameter.kind == "choice":
        return optuna.distributions.CategoricalDistribution([_text(choice) for choice in parameter.choices])
    low, high, step = parameter.low or 0, parameter.high or 0, parameter.step
    if parameter.kind == "int":
        return optuna.distributions.IntDistribution(int(low), int(high), log=parameter.log, step=int(step or 1))
    return optuna.distributions.FloatDistribution(low, high, log=parameter.log, step=step)


def _plain(parameter: Parameter, value: Any) -> Any:
    return _text(value) if parameter.kind == "choice" else value


def _text(choice: Any) -> str:
    # Optuna compares choices by ==, for which 1, 1.0 and True are the same.
    return json.dumps(choice, sort_keys=True)


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Context without the messages of Optuna; it warns about each use of a target."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
