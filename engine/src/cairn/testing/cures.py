"""Likely causes of a difference, and their cures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cairn.testing import path


@dataclass(frozen=True)
class Advice:
    """Why two runs differ, and what to change."""

    cause: str
    cure: str


NO_ADVICE = Advice("", "")

_LOST = "It is not in a checkpoint."
_MODEL = (
    "In {owner}, keep it in a buffer (register_buffer); or save it in on_save_checkpoint, as "
    "checkpoint[{key!r}] = {code}, and set it in on_load_checkpoint."
)
_COLLECTION = (
    "In {owner}, save it in on_save_checkpoint, as checkpoint[{key!r}] = {code}, and set it in "
    "on_load_checkpoint. Values that are gathered for the end of an epoch: self.log(..., on_epoch=True), or a "
    "torchmetrics object. Tensors that are there from the beginning: a buffer for each (register_buffer)."
)
_OBJECT = (
    "In {owner}, save what describes it in on_save_checkpoint (a generator: its state; an iterator: its position, from "
    "which it is built again; an object: its state_dict()), and set it in on_load_checkpoint."
)
_STATE_DICT = "Give {owner} state_dict(), which returns {{{key!r}: {code}}}, and load_state_dict(state), which sets it."
_NOT_AN_ATTRIBUTE = (
    "{attribute} is a variable of a function, or an item without a name, which a hook cannot set: keep it "
)
_IN_A_BUFFER = (
    f"{_NOT_AN_ATTRIBUTE}in a buffer of {{owner}} (register_buffer); or in an attribute of {{owner}}, and save that in "
    f"on_save_checkpoint and set it in on_load_checkpoint."
)
_IN_AN_ATTRIBUTE = (
    f"{_NOT_AN_ATTRIBUTE}in an attribute of {{owner}}, and save that in state_dict() and set it in "
    f"load_state_dict(state)."
)
_OWNERS: Mapping[str, str] = {
    "callback": _STATE_DICT,
    "datamodule": _STATE_DICT,
    "scheduler": "Return it from state_dict() of {owner}, and set it in load_state_dict(state).",
    "optimizer": "Keep it in self.state or in param_groups, which the state_dict of {owner} contains.",
    "dataset": (
        "A sample must be a function of (epoch, index): use the index, or draw from the global generators of torch, "
        "numpy or random, which cairn.DataLoader seeds for each sample. A dataset that has to change during training: "
        "save {attribute} in state_dict and load_state_dict of a callback."
    ),
    "collate": (
        "A batch must be a function of its samples: draw random numbers from the global generators, which "
        "cairn.DataLoader seeds for each batch, and keep nothing in {owner} from one batch to the next."
    ),
    "sampler": (
        "The order must be a function of (seed, epoch): draw from the global generators, which cairn.DataLoader seeds "
        "for each epoch. Or give {owner} state_dict() and load_state_dict(state)."
    ),
    "module": (
        "A new process starts with the value in the source. Keep it in a buffer of the model (register_buffer), or "
        "save it in state_dict and set it in load_state_dict of a callback."
    ),
}
_SEEDED = (
    "A sample must be a function of (epoch, index): draw random numbers in __getitem__ from the global generators of "
    "torch, numpy or random, which are seeded for each sample; not from a generator, a counter or a cache that the "
    "dataset owns."
)
_DROP_IN = "cairn.DataLoader is a drop-in for torch's that saves its position: use it for the training data."
_HIDDEN = (
    "State that is not in a checkpoint has changed {what}, and none of it was found in attributes or global variables: "
    "look for open files, iterators, caches, and state in other processes; and for hooks at the start of an epoch."
)
_KINDS: Mapping[str, Advice] = {
    "callback": Advice(
        "The state of a callback depends on something that is not in a checkpoint.",
        "Return all that it depends on from its state_dict(), and set it in load_state_dict(state).",
    ),
    "mode": Advice(
        "A hook has changed it in one run only.",
        "Change modes and requires_grad in on_train_epoch_start, from current_epoch, or in configure_optimizers.",
    ),
    "tensor": Advice(
        _HIDDEN.format(what="the weights"), "Keep it in a buffer, or save it in on_save_checkpoint of the model."
    ),
    "optimizer": Advice(
        _HIDDEN.format(what="the optimizer"), "Keep it in a buffer, or save it in on_save_checkpoint of the model."
    ),
    "scheduler": Advice(
        _HIDDEN.format(what="the scheduler"),
        "Return it from state_dict() of the scheduler, and set it in load_state_dict.",
    ),
    "metric": Advice(
        "It depends on state that is not in a checkpoint.",
        "Log the value of each batch with self.log, or keep the state in a torchmetrics object that is an attribute of "
        "the model.",
    ),
    "loop": Advice(
        "The loop has taken another course, for example after a decision of a callback that is not in a checkpoint.",
        "Save what the decision depends on in state_dict of the callback.",
    ),
    "generator": Advice(
        "Random numbers were drawn in one run and not in the other.",
        "Look for draws in hooks that a resume repeats or leaves out, and draw them from a generator of their own.",
    ),
    "rows": Advice("", "Log only from hooks of training and validation; a value must not depend on the process."),
    "kept": Advice("", "Log the monitored metric in every validation."),
}


def advice(kind: str, name: str, whole: Mapping[str, Any], lost: Sequence[str] = ()) -> Advice:
    """Return the likely cause of a difference, and its cure.

    Args:
        kind: Kind of the first fact that differs.
        name: Its name.
        whole: Report of the undisturbed run.
        lost: Attributes that differed before the batch, when the resume alone can have changed them.
    """
    if kind == "attribute":
        return _of_attribute(name, whole)
    if kind == "sample":
        return _of_sample(name, whole, lost)
    if lost and kind in ("tensor", "optimizer", "scheduler", "metric", "callback", "loop", "generator", "mode"):
        first = _of_attribute(lost[0], whole)
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        return Advice(f"{lost[0]}{more} had another value after the resume: it is not in a checkpoint.", first.cure)
    return _KINDS.get(kind, NO_ADVICE)


def _of_attribute(name: str, whole: Mapping[str, Any]) -> Advice:
    roles: Mapping[str, str] = whole.get("roles", {})
    owners = [owner for owner in roles if name.startswith(f"{owner}.")]
    owner = max(owners, key=len, default="")
    attribute = name.removeprefix(f"{owner}.") if owner else name.rpartition(".")[2]
    role, holder = roles.get(owner, ""), owner.partition(" #")[0] or "the model"
    if role == "model":
        holder, _, inner = owner.partition(".")  # a hook of the whole model
        attribute = f"{inner}.{attribute}" if inner else attribute
    cure = _of_model(name, whole) if role == "model" else _OWNERS.get(role, _OBJECT)
    code = path.code(attribute)
    if "{code}" in cure and (code is None or name in whole.get("hidden", ())):
        cure = _IN_A_BUFFER if role == "model" else _IN_AN_ATTRIBUTE
    return Advice(_LOST, cure.format(owner=holder, attribute=attribute, key=attribute, code=code))


def _of_model(name: str, whole: Mapping[str, Any]) -> str:
    """Return the cure that suits the kind of value."""
    facts = [value["attribute"] for part in ("starts", "batches") for value in whole.get(part, {}).values()]
    value = str(next((item[name] for item in reversed(facts) if name in item), ""))
    if value.startswith(("[", "(", "{", "<list", "<tuple", "<dict", "<set", "<deque")):
        return _COLLECTION
    return _MODEL if not value.startswith("<") or value.startswith(("<Tensor", "<ndarray")) else _OBJECT


def _of_sample(name: str, whole: Mapping[str, Any], lost: Sequence[str]) -> Advice:
    if name.startswith("validation"):
        cause = "The validation used different samples."
        return Advice(cause, f"Use shuffle=False, or cairn.DataLoader, for the validation data. {_SEEDED}")
    foreign = [item for item in whole.get("loaders", []) if not item["is_ours"]]
    if foreign and not foreign[0]["has_state"]:
        cause = f"Training used different samples: {foreign[0]['class']} does not save its position."
        return Advice(cause, _DROP_IN)
    if foreign:
        cause = f"Training used different samples: the state of {foreign[0]['class']} does not describe its position."
        return Advice(cause, f"{_DROP_IN} An iterable dataset needs state_dict() and load_state_dict(state) for it.")
    if lost:
        first = _of_attribute(lost[0], whole)
        return Advice(f"Training used different samples: {lost[0]} is not in a checkpoint.", first.cure)
    return Advice("Training used different samples.", _SEEDED if whole.get("loaders") else f"{_DROP_IN} {_SEEDED}")
