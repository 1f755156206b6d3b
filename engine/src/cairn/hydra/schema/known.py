"""The arguments of a target: from its source, or by importing it where the source does not show them."""

from __future__ import annotations

import inspect

from cairn import targets
from cairn.errors import ConfigError, SpecError, first_line
from cairn.hydra.command.suggest import nearest
from cairn.hydra.schema import definitions, signatures
from cairn.hydra.schema.signatures import Parameter, Signature

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def signature(name: str) -> Signature:
    """Return the arguments of a target.

    Args:
        name: Dotted name, as a configuration has it; one from before a move is understood.

    Raises:
        ConfigError: There is no such class or function, or a configuration may not name it.
    """
    current = targets.current_name(name)
    if why := targets.why_refused(current):
        raise ConfigError(f"{targets.TARGET}={name} is refused: {why}.")
    found = signatures.of(current)
    return found if found is not None else _imported(name, current)


def _imported(name: str, current: str) -> Signature:
    # A name that a module makes when it is imported, or a class in C. It may also not exist.
    try:
        parameters = inspect.signature(targets.resolve(name)).parameters.values()
    except SpecError as error:
        raise ConfigError(f"{str(error).removesuffix('.')}.{_meant(current)}") from error
    except (ValueError, TypeError):  # it does not say
        return Signature({}, is_open=True)
    except Exception as error:  # importing a module may raise anything
        raise ConfigError(f"{targets.TARGET}={name} cannot be imported: {first_line(error)}.") from error
    is_open = any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters)
    # Whether an argument is required is left to the class itself.
    return Signature(
        {item.name: Parameter("", is_required=False) for item in parameters if item.kind in _BY_NAME}, is_open
    )


def _meant(name: str) -> str:
    """Return the name that was probably meant, as a sentence; empty if none is similar."""
    module = definitions.module_of(name)
    rest = name[len(module) + 1 :].partition(".")[0]
    if not module or not rest:
        return ""
    near = nearest(rest, [*definitions.names_in(module), *definitions.modules_in(module)])
    return f" Did you mean {module}.{near}?" if near else ""
