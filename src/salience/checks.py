"""What a model, an input and an output must be; said at the public edge, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from salience.errors import expected


def check_model(model: Callable[..., Any]) -> None:
    """Raise unless the model is callable and in eval mode."""
    if not callable(model):
        raise expected("a model that can be called", type(model).__name__, "Give a torch module.")
    if isinstance(model, nn.Module):
        training = [name or "the model" for name, m in model.named_modules() if m.training]
        if training:
            raise expected(
                "a model in eval mode", f"training mode in {', '.join(training[:3])}",
                "Call model.eval() first: dropout and batch statistics have no fixed map.",
            )  # fmt: skip


def check_input(model: Callable[..., Any], x: Any) -> None:
    """Raise unless x is a finite floating-point batch on the model's device and of its dtype."""
    if not isinstance(x, Tensor):
        raise expected("a torch tensor (B, ...)", type(x).__name__, "Use torch.as_tensor(x).")
    if not x.is_floating_point():
        raise expected(
            "a floating-point input", f"{x.dtype}",
            "Integers have no gradient: convert with x.float(), or explain the embedding.",
        )  # fmt: skip
    if x.ndim < 2:
        raise expected("an input (B, ...)", f"{tuple(x.shape)}", "Add a batch dimension: x[None].")
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    parameter = next((p for p in parameters if p.dtype == x.dtype), next(iter(parameters), None))
    if parameter is not None and parameter.device != x.device:
        cure = f"Move it: x.to({str(parameter.device)!r})."
        raise expected(f"input on the model's device {parameter.device}", f"{x.device}", cure)
    if parameter is not None and parameter.is_floating_point() and parameter.dtype != x.dtype:
        cure = f"Convert one of them, for example x.to({parameter.dtype})."
        raise expected(f"input of the model's dtype {parameter.dtype}", f"{x.dtype}", cure)
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).sum())
        raise expected("finite input", f"{bad} NaN or infinite values", "Replace or mask them.")


def values_like(name: str, value: Any, like: Tensor) -> Tensor:
    """A number, array or tensor as a tensor that broadcasts to another one's shape."""
    try:
        tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device)
        return tensor.expand_as(like)
    except (TypeError, ValueError, RuntimeError):
        got = f"shape {tuple(value.shape)}" if hasattr(value, "shape") else repr(value)
        raise expected(
            f"{name} that broadcasts to {tuple(like.shape)}", got, "Give a number or one for each."
        ) from None


def check_output(x: Tensor, output: Tensor, depends_on_input: bool) -> None:
    """Raise unless the output is a finite batch that depends on the input."""
    if output.ndim == 0 or len(output) != len(x):
        raise expected(
            f"one output per sample, ({len(x)}, ...)", f"an output {tuple(output.shape)}",
            "The model must keep the batch dimension first.",
        )  # fmt: skip
    if not depends_on_input:
        raise expected(
            "an output that depends on the input", "one that autograd cannot trace to it",
            "Look for detach(), no_grad(), .data or integer operations in the model's forward.",
        )  # fmt: skip
    if not bool(torch.isfinite(output).all()):
        cure = "Check the weights and the scale of the input."
        raise expected("a finite output", "NaN or infinite values", cure)
