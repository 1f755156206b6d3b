"""Why weights do not fit a model: torch's list of all names, reduced to what matters.

torch reports every name that is missing or unexpected. What helps is the one cause behind them, in this order:

    a prefix      "net._orig_mod." in the file, "net." in the model: the same weights, under other names
    a part        a head that only one side has, or an encoder of 148 weights
    a shape       a head with another number of classes
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch.nn.parameter import is_lazy

_BEGIN = "Error(s) in loading state_dict for "
_NUM_PARTS = 4
"""Parts of a model that a message lists."""
_NUM_TRIED = 8
"""Names that are compared with one name of the file to find a common prefix."""
_WRAPPERS = ("_orig_mod.", "module.", "_forward_module.")
"""Parts of names that wrappers of a module insert: torch.compile, DDP, Fabric."""
COMPILED = _WRAPPERS[0]
_SIZES = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\((\[.*?\])\) from checkpoint, "
    r"the shape in current model is torch\.Size\((\[.*?\])\)"
)


@dataclass(frozen=True)
class Renaming:
    """What has to be replaced in the names of the file to get those of the model."""

    old: str
    """Part of the names in the file, such as `net._orig_mod.`; empty: the model adds `new`."""
    new: str
    is_wrapper: bool = False
    """Whether it may occur anywhere in a name, because a wrapper inserts it."""

    def __call__(self, name: str) -> str:
        """Return the name in the model of a name in the file; where a wrapper is left out, neither has it."""
        if self.is_wrapper:
            return name.replace(self.old or self.new, "")
        return self.new + name[len(self.old) :] if name.startswith(self.old) else name

    def __str__(self) -> str:
        if self.old and self.new:
            return f"'{self.old}' in the file is '{self.new}' in the model"
        return f"only those in the {'file' if self.old else 'model'} have '{self.old or self.new}'"


@dataclass(frozen=True)
class Mismatch:
    """Names and shapes in which a file and a model differ, in the order of the file and of the model."""

    missing: tuple[str, ...] = ()
    """Only in the model."""
    unexpected: tuple[str, ...] = ()
    """Only in the file."""
    shapes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Shapes in the file and in the model, by name."""
    others: tuple[str, ...] = ()
    """What else torch reports."""
    model: str = ""
    """Class of the model."""

    def renaming(self) -> Renaming | None:
        """Return what makes most of the names equal; None if nothing does."""
        if not self.missing or not self.unexpected:
            return None
        ours = set(self.missing)
        for wrapper in _WRAPPERS:
            if any(wrapper in name for name in self.unexpected) != any(wrapper in name for name in self.missing):
                in_file = any(wrapper in name for name in self.unexpected)
                found = Renaming(wrapper if in_file else "", "" if in_file else wrapper, is_wrapper=True)
                if self._is_enough({found(name) for name in self.unexpected} & {found(name) for name in ours}):
                    return found
        first = self.unexpected[0]
        by_suffix = sorted(self.missing, key=lambda name: -_common_suffix(first, name))[:_NUM_TRIED]
        for name in by_suffix:
            length = _common_suffix(first, name)
            if not length:
                return None
            found = Renaming(_head(first, length), _head(name, length))
            if self._is_enough({found(item) for item in self.unexpected} & ours):
                return found
        return None

    def with_shapes(self, file: Mapping[str, Any], model: Mapping[str, Any]) -> Mismatch:
        """Return this with the weights whose shapes differ once the names of the file are changed.

        torch compares the shapes of equal names only: a change of the names alone may not be enough.

        Args:
            file: The weights in the file.
            model: Those in the model.
        """
        if (renaming := self.renaming()) is None:
            return self
        ours = {renaming(name) if renaming.is_wrapper else name: name for name in self.missing}
        pairs = {name: ours[renaming(name)] for name in self.unexpected if renaming(name) in ours}
        shapes = {mine: (shape_of(file.get(name)), shape_of(model.get(mine))) for name, mine in pairs.items()}
        differing = {name: both for name, both in shapes.items() if all(both) and both[0] != both[1]}
        return replace(self, shapes={**self.shapes, **differing})

    def _is_enough(self, equal: set[str]) -> bool:
        return 2 * len(equal) >= max(len(self.missing), len(self.unexpected))

    def without(self, renaming: Renaming) -> Mismatch:
        """Return what is left when the names of the file are changed."""
        if renaming.is_wrapper:
            ours = {renaming(name) for name in self.missing}
            theirs = {renaming(name) for name in self.unexpected}
            missing = tuple(name for name in self.missing if renaming(name) not in theirs)
            unexpected = tuple(name for name in self.unexpected if renaming(name) not in ours)
        else:
            renamed = {renaming(name) for name in self.unexpected}
            missing = tuple(name for name in self.missing if name not in renamed)
            unexpected = tuple(name for name in self.unexpected if renaming(name) not in self.missing)
        # BatchNorm reports this counter as unexpected only: it makes up for a missing one.
        unexpected = tuple(name for name in unexpected if not name.endswith(".num_batches_tracked"))
        return Mismatch(missing, unexpected, self.shapes, self.others, self.model)

    def __str__(self) -> str:
        rest, parts = self, []
        if (renaming := self.renaming()) is not None:
            rest = self.without(renaming)
            equal = len(self.unexpected) - len(rest.unexpected)
            which = "all names" if not rest.unexpected and not rest.missing else f"{equal} names"
            parts.append(f"{which} are equal except for a prefix: {renaming}")
        parts += _only(rest.missing, "model") + _only(rest.unexpected, "file")
        shapes = [
            f"{name} is {file} in the file and {model} in the model" for name, (file, model) in rest.shapes.items()
        ]
        # The last layers come last, and they are the ones that differ between two uses of a model.
        parts += shapes[-_NUM_PARTS:]
        if len(shapes) > _NUM_PARTS:
            parts.append(f"and {len(shapes) - _NUM_PARTS} more differ in shape")
        return "; ".join(parts) or "; ".join(rest.others[:1])


def shape_of(value: Any) -> str:
    """Return the shape of a weight as text; empty if it has none yet."""
    return "" if value is None or is_lazy(value) else str(tuple(getattr(value, "shape", ())))


def mismatch(error: BaseException) -> Mismatch | None:
    """Return what torch's `load_state_dict` reports; None if the error is another one."""
    text = str(error)
    if not isinstance(error, RuntimeError) or not text.startswith(_BEGIN):
        return None
    head, _, body = text.partition(":\n\t")
    missing: list[str] = []
    unexpected: list[str] = []
    shapes: dict[str, tuple[str, str]] = {}
    others: list[str] = []
    for line in body.split("\n\t"):
        if line.startswith("Missing key(s)"):
            missing += re.findall(r'"(.*?)"', line)
        elif line.startswith("Unexpected key(s)"):
            unexpected += re.findall(r'"(.*?)"', line)
        elif sizes := _SIZES.match(line):
            shapes[sizes[1]] = (_shape(sizes[2]), _shape(sizes[3]))
        else:
            others.append(line.strip().rstrip("."))
    return Mismatch(tuple(missing), tuple(unexpected), shapes, tuple(others), head.removeprefix(_BEGIN))


def _shape(text: str) -> str:
    """Write `[2, 3]` as a tuple."""
    return str(tuple(int(number) for number in re.findall(r"\d+", text)))


def listed(names: Iterable[str]) -> list[str]:
    """Return the last parts of a model that these names belong to, and how many more names there are."""
    groups = _parts(list(names))
    more = sum(list(groups.values())[:-_NUM_PARTS])
    return [*list(groups)[-_NUM_PARTS:], *([f"and {more} more"] if more else [])]


def _only(names: Iterable[str], side: str) -> list[str]:
    """Return sentences about the parts that only one side has."""
    return [f"{part} {'are' if part.startswith('and ') else 'is'} only in the {side}" for part in listed(names)]


def _parts(names: list[str]) -> dict[str, int]:
    """Return the numbers of names by a description of the part of the model that they belong to.

    Parts are as deep as possible, and at most as many as a message lists, unless the model is that flat.
    """
    groups: dict[str, list[str]] = {}
    for depth in range(max((name.count(".") for name in names), default=0), 0, -1):
        groups = {}
        for name in names:
            groups.setdefault(".".join(name.split(".")[:-1][:depth]), []).append(name)
        if len(groups) <= _NUM_PARTS:
            break
    else:
        groups = groups or {name: [name] for name in names}
    return {_part(part, members): len(members) for part, members in groups.items()}


def _part(part: str, members: list[str]) -> str:
    if len(members) == 1:
        return members[0]
    leaves = [name[len(part) + 1 :] if part else name for name in members]
    inside = ", ".join(leaves) if len(leaves) <= _NUM_PARTS else f"{len(leaves)} weights"
    return f"{part} ({inside})" if part else inside


def _common_suffix(one: str, other: str) -> int:
    """Return the number of characters of the last parts that two names share."""
    length = 0
    for mine, theirs in zip(reversed(one.split(".")), reversed(other.split(".")), strict=False):
        if mine != theirs:
            break
        length += len(mine) + 1
    return min(length, len(one), len(other)) if length else 0


def _head(name: str, length: int) -> str:
    """Return what comes before the last `length` characters, with the dot at its end."""
    head = name[: len(name) - length]
    return f"{head.rstrip('.')}." if head else ""
