"""A subclass of Tensor that wraps two tensors, as quantized weights and the states of 8-bit optimizers do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten


class Quantized(Tensor):
    """Numbers that are held as codes of a byte each and one scale."""

    @staticmethod
    def __new__(cls, codes: Tensor, scale: Tensor) -> Quantized:
        made: Quantized = Tensor._make_wrapper_subclass(cls, codes.shape, device=codes.device, dtype=torch.float32)
        return made

    def __init__(self, codes: Tensor, scale: Tensor) -> None:
        self.codes, self.scale = codes, scale

    @classmethod
    def of(cls, values: Tensor) -> Quantized:
        """Round numbers to codes."""
        scale = values.abs().amax().clamp(min=1e-8) / 127
        return cls((values / scale).round().to(torch.int8), scale)

    def numbers(self) -> Tensor:
        """Return what it stands for."""
        return self.codes.float() * self.scale

    def __repr__(self) -> str:
        return f"Quantized({self.numbers()})"

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["codes", "scale"], (torch.float32, None)

    @classmethod
    def __tensor_unflatten__(cls, parts: dict[str, Tensor], context: Any, size: Any, stride: Any) -> Quantized:
        assert context == (torch.float32, None)
        return cls(parts["codes"], parts["scale"])

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = args[0]
        if function in (_aten.detach.default, _aten.alias.default, _aten.clone.default, _aten._to_copy.default):
            copied = function in (_aten.clone.default, _aten._to_copy.default)
            return cls(*((part.clone() if copied else part) for part in (first.codes, first.scale)))
        if function is _aten.copy_.default:
            other = args[1] if isinstance(args[1], cls) else cls.of(args[1])
            first.codes.copy_(other.codes)
            first.scale.copy_(other.scale)
            return first
        plain = [value.numbers() if isinstance(value, cls) else value for value in args]
        return function(*plain, **(kwargs or {}))


class QuantizedMomentum(torch.optim.Optimizer):
    """SGD with a momentum that is held in 8 bits."""

    def __init__(self, parameters: Any, lr: float = 0.1) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                before = state["momentum"].numbers() if state else torch.zeros_like(parameter)
                momentum = 0.9 * before + parameter.grad
                state["momentum"] = Quantized.of(momentum)
                parameter -= group["lr"] * state["momentum"].numbers()
        return loss
