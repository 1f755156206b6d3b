"""The arguments of a class or function, read from its source: their names, types, defaults and descriptions."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from cairn.hydra.schema import definitions, docstrings
from cairn.hydra.schema.definitions import Definition


@dataclass(frozen=True)
class Parameter:
    """One argument.

    Attributes:
        module: Where its annotation was written.
        annotation: Its type; None without one.
        default: Its default; None: it has none, or it is not known.
        about: Its description; empty without one.
        is_required: Whether it has no default.
    """

    module: str
    annotation: ast.expr | None = None
    default: ast.expr | None = None
    about: str = ""
    is_required: bool = True


@dataclass(frozen=True)
class Signature:
    """The arguments that a configuration can give by name.

    Attributes:
        parameters: The arguments by their names.
        is_open: Whether it may take more: `**options` of which the source does not say what they are.
        about: Summary of the docstring.
    """

    parameters: Mapping[str, Parameter]
    is_open: bool = False
    about: str = ""

    @property
    def required(self) -> list[str]:
        """Names of the arguments without a default."""
        return [name for name, parameter in self.parameters.items() if parameter.is_required]


_UNKNOWN = Signature({}, is_open=True)


@functools.lru_cache(maxsize=512)
def of(target: str) -> Signature | None:
    """Return the arguments of a target; None if its source does not show it.

    Args:
        target: Dotted name of a class or function.
    """
    found = definitions.find(target)
    return None if found is None else _of(found)


def _of(found: Definition) -> Signature:
    if not isinstance(found.node, ast.ClassDef):
        return _function(found.module, found.node, is_method=False)
    text = ast.get_docstring(found.node)
    about = docstrings.arguments(text)
    signature = _class(found)
    described = {
        name: parameter if parameter.about or name not in about else replace(parameter, about=about[name])
        for name, parameter in signature.parameters.items()
    }
    return replace(signature, parameters=described, about=docstrings.summary(text) or signature.about)


def _class(found: Definition) -> Signature:
    node = found.node
    assert isinstance(node, ast.ClassDef)
    methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}  # the last of overloads
    if (init := methods.get("__init__")) is not None:
        own = _function(found.module, init, is_method=True)
        passed = _passed_on(init)
        if passed is None:
            return own
        base = _base(found)
        more = {name: item for name, item in base.parameters.items() if name not in passed}
        return replace(own, parameters={**more, **own.parameters}, is_open=base.is_open)
    if "__new__" in methods or _assigns_init(node):
        return _UNKNOWN
    if any(_name(item) == "dataclass" for item in node.decorator_list):
        return _dataclass(found)
    # Another decorator may make an `__init__`, as those of attrs do.
    return _UNKNOWN if node.decorator_list else _base(found)


def _assigns_init(node: ast.ClassDef) -> bool:
    """Return whether a class gets its `__init__` by an assignment or under a condition."""
    inner = [item for item in node.body if not isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    found = (part for item in inner for part in ast.walk(item))
    return any(getattr(part, "id", getattr(part, "name", "")) == "__init__" for part in found)


def _base(found: Definition) -> Signature:
    """Return the arguments of the first base class that has any of its own."""
    assert isinstance(found.node, ast.ClassDef)
    for expression in found.node.bases:
        expression = expression.value if isinstance(expression, ast.Subscript) else expression  # Dataset[int]
        if _name(expression) in ("object", "ABC", "Generic", "Protocol"):
            continue
        base = definitions.find_in(found.module, expression)
        if not isinstance(base, Definition) or not isinstance(base.node, ast.ClassDef):
            return _UNKNOWN
        signature = _of(base)
        if signature.parameters or signature.is_open:
            return signature
    return Signature({})


def _function(module: str, node: ast.FunctionDef | ast.AsyncFunctionDef, is_method: bool) -> Signature:
    arguments = node.args
    about = docstrings.arguments(ast.get_docstring(node))
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    by_place = dict(zip((item.arg for item in plain), zip(plain, defaults, strict=True), strict=True))
    for item in [*arguments.posonlyargs, *plain[: int(is_method)]]:
        by_place.pop(item.arg, None)  # cannot be given by name
    by_name = {item.arg: (item, value) for item, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)}
    parameters = {
        name: Parameter(module, item.annotation, default, about.get(name, ""), default is None)
        for name, (item, default) in {**by_place, **by_name}.items()
    }
    return Signature(parameters, arguments.kwarg is not None, docstrings.summary(ast.get_docstring(node)))


def _dataclass(found: Definition) -> Signature:
    base = _base(found)
    own: dict[str, Parameter] = {}
    assert isinstance(found.node, ast.ClassDef)
    for item in found.node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        kind = item.annotation.value if isinstance(item.annotation, ast.Subscript) else item.annotation
        if _name(kind) == "ClassVar":
            continue
        default = _field_default(item.value)
        own[item.target.id] = Parameter(found.module, item.annotation, default, is_required=default is None)
    return Signature({**base.parameters, **own}, base.is_open)


def _field_default(value: ast.expr | None) -> ast.expr | None:
    """Return the default of a field, which `field(...)` may hold."""
    if not isinstance(value, ast.Call) or _name(value.func) != "field":
        return value
    given = {item.arg: item.value for item in value.keywords}
    return given.get("default") or given.get("default_factory")


def _passed_on(init: ast.FunctionDef) -> set[str] | None:
    """Return what `super().__init__(x=1, **options)` gives besides all options; None if options are not passed on."""
    if init.args.kwarg is None:
        return None
    for call in _super_calls(init):
        if any(item.arg is None and _name(item.value) == init.args.kwarg.arg for item in call.keywords):
            return {item.arg for item in call.keywords if item.arg is not None}
    return None


def _super_calls(init: ast.FunctionDef) -> Iterator[ast.Call]:
    for node in ast.walk(init):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "__init__":
            target = node.func.value
            if isinstance(target, ast.Call) and _name(target.func) == "super":
                yield node


def _name(expression: ast.expr) -> str:
    """Return the last part of a name, of what is called or of what is subscripted; empty for anything else."""
    if isinstance(expression, ast.Call):
        expression = expression.func
    return (definitions.dotted(expression) or [""])[-1]
