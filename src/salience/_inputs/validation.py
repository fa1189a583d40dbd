"""What a model, an input and an output must be; said at the public edge, once."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from salience._errors import SalienceError, cut, expected
from salience._inputs.surroundings import as_written, check_plain, shape_alone
from salience._inputs.trees import (
    ALONE,
    Inputs,
    Key,
    Leaf,
    Model,
    is_array,
    parts_of,
    per_sample,
    samples_of,
    tensor_of,
    tensors_of,
)

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def checked_model(model: Model) -> Model:
    """The model as it is written; raise unless it is callable and in eval mode, in a plain call."""
    check_plain()
    model = as_written(model)
    if isinstance(model, type):
        cure = f"Make one and give it its trained weights: {model.__name__}(...)."
        raise expected("a model", f"the class {model.__name__}", cure)
    if not callable(model):
        raise expected("a model that can be called", type(model).__name__, "Give a torch module.")
    if isinstance(model, nn.Module):
        if shapes := [kind for p in model.parameters() if (kind := shape_alone(p))]:
            cure = "Load its weights: such a parameter is a shape alone."
            raise expected("a model with weights", f"a parameter that is {shapes[0]}", cure)
        if trained := [node for module in model.modules() for node in _training_calls(module)]:
            raise expected(
                "a program exported in eval mode",
                f"training mode in {', '.join(trained[:3])}",
                "Call model.eval() before torch.export.export.",
            )
        training = [name or "the model" for name, m in _running(model) if m.training]
        if training:
            raise expected(
                "a model in eval mode",
                f"training mode in {', '.join(training[:3])}",
                "Call model.eval() first: dropout and batch statistics have no fixed map.",
            )
    return model


def _running(model: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules whose mode matters: of a graph, which cannot be set to eval mode once it is
    exported, those that it calls."""
    if isinstance(model, torch.fx.GraphModule):
        called = {str(node.target) for node in model.graph.nodes if node.op == "call_module"}
        parts = [(target, model.get_submodule(target)) for target in sorted(called)]
    elif type(model).__module__.startswith("torch.export."):  # checks of shapes
        return
    else:
        yield name, model
        parts = list(model.named_children())
    for part, module in parts:
        yield from _running(module, f"{name}.{part}" if name else part)


def _training_calls(module: nn.Module) -> Iterator[str]:
    """The calls of an exported graph that are in training mode by their own arguments."""
    nodes = module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ()
    depending: set[torch.fx.Node] = set()
    for node in nodes:
        if node.op != "placeholder" and depending.isdisjoint(node.all_input_nodes):
            continue  # weights that are standardised have fixed maps
        depending.add(node)
        schema = getattr(node.target, "_schema", None)
        for i, argument in enumerate(schema.arguments if schema is not None else ()):
            given = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
            if argument.name in ("train", "training") and given is True:
                yield node.name


def check_input(model: Model, x: object) -> None:
    """Raise unless x holds finite batches of one size on the model's device and of its dtype."""
    if not isinstance(x, Tensor | Mapping | list | tuple):
        raise expected("a torch tensor (B, ...)", type(x).__name__, "Use torch.as_tensor(x).")
    check_form(x)
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    for key, part in parts_of(x).items():
        if isinstance(part, np.ndarray):
            raise expected(f"a torch tensor as {_named(key)}", "ndarray", "Use torch.as_tensor(x).")
        if per_sample(part):
            _check_tensor(part, _named(key), parameters)
    if not isinstance(x, Tensor):
        _check_names(model, x)


def check_form(x: object) -> None:
    """Raise unless x holds dense tensors (B, ...) with values, as many samples each."""
    for key, part in parts_of(x).items():
        if not isinstance(part, Tensor):
            continue
        if kind := shape_alone(part):
            cure = "Load the data: such a tensor is a shape alone."
            raise expected(f"an {_named(key)} with values", kind, cure)
        if part.layout is not torch.strided or part.is_nested:
            got = "a nested tensor" if part.is_nested else f"a tensor of layout {part.layout}"
            cure = "Pad it." if part.is_nested else "Convert it: x.to_dense()."
            raise expected(f"a dense {_named(key)}", got, cure)
        if key is ALONE and part.ndim < 2:
            raise lacks_batch(part)
    check_samples(x)


def _named(key: Key) -> str:
    return "input" if key is ALONE else f"input {key!r}"


def lacks_batch(x: Tensor) -> SalienceError:
    """That x is one sample."""
    got = f"{tuple(x.shape)}, without its batch dimension"
    return expected("an input (B, ...)", got, "Add it: x[None] is a batch of one.")


def first_convolution(model: nn.Module) -> nn.Conv1d | nn.Conv2d | nn.Conv3d | None:
    """The first convolution that a model declares, which says how its input must look."""
    return next((m for m in model.modules() if isinstance(m, _CONVOLUTIONS)), None)


def looks_like_one_sample(model: Model, x: object) -> bool:
    """Whether x is shaped as one sample of a network that begins with a convolution.

    A torch convolution accepts it in silence and takes its channels for samples.
    """
    layer = first_convolution(model) if isinstance(model, nn.Module) else None
    if layer is None or not isinstance(x, Tensor):
        return False
    return x.ndim == layer.weight.ndim - 1 and x.shape[0] == layer.in_channels > 1


def _check_names(model: Model, x: Inputs) -> None:
    """Raise if the model cannot be called with these names, or this number, of inputs."""
    try:
        takes = inspect.signature(model.forward if isinstance(model, nn.Module) else model)
    except (TypeError, ValueError):  # no signature to look at
        return
    try:
        takes.bind(**x) if isinstance(x, Mapping) else takes.bind(*x)
    except TypeError as error:
        got = f"{list(x)}" if isinstance(x, Mapping) else f"{len(x)} inputs"
        cure = f"A dict is given by names, a tuple in order: {error}."
        raise expected(f"inputs that the model takes, {takes}", got, cure) from None


def check_samples(x: object) -> None:
    """Raise unless all inputs have the same number of samples."""
    sizes = {key: len(part) for key, part in parts_of(x).items() if per_sample(part)}
    if not sizes:
        raise expected(
            "at least one tensor (B, ...) as input", cut(f"{x!r}", 80), "Give the inputs."
        )
    if len(set(sizes.values())) > 1:
        raise expected(
            "inputs with the same number of samples first",
            f"{sizes}",
            "Put what all samples share into a module around the model.",
        )


def _check_tensor(x: Tensor, what: str, parameters: list[nn.Parameter]) -> None:
    if x.is_complex():
        cure = "Give the real and the imaginary part: torch.view_as_real(x)."
        raise expected(f"a floating-point {what}", f"{x.dtype}", cure)
    parameter = next((p for p in parameters if p.dtype == x.dtype), next(iter(parameters), None))
    if parameter is not None and parameter.device != x.device:
        cure = f"Move it: x.to({str(parameter.device)!r})."
        raise expected(f"{what} on the model's device {parameter.device}", f"{x.device}", cure)
    if not x.is_floating_point():
        return
    if parameter is not None and parameter.is_floating_point() and parameter.dtype != x.dtype:
        cure = f"Convert one of them, for example x.to({parameter.dtype})."
        raise expected(f"{what} of the model's dtype {parameter.dtype}", f"{x.dtype}", cure)
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).sum())
        raise expected(f"finite {what}", f"{bad} NaN or infinite values", "Replace or mask them.")


def no_leaves(x: object) -> SalienceError:
    """An input without floating-point numbers, to a model that embeds none of its integers."""
    dtypes = ", ".join(dict.fromkeys(str(part.dtype) for part in tensors_of(x)))
    return expected(
        "a floating-point input, or integer ids that the model embeds",
        f"{dtypes} that no embedding reads",
        "Integers have no gradient: convert with x.float(), or look them up in a table.",
    )


def values_like(name: str, value: Any, like: Tensor) -> Tensor:
    """A number, array or tensor as a tensor that broadcasts to another one's shape."""
    try:
        read = tensor_of(value) if is_array(value) else value
        tensor = torch.as_tensor(read, dtype=like.dtype, device=like.device)
        return tensor.expand_as(like)
    except (TypeError, ValueError, RuntimeError):
        got = f"shape {tuple(value.shape)}" if hasattr(value, "shape") else repr(value)
        raise expected(
            f"{name} that broadcasts to {tuple(like.shape)}", got, "Give a number or one for each."
        ) from None


def values_at(name: str, value: object, x: object, leaves: Sequence[Leaf]) -> dict[int, Tensor]:
    """A number for all leaves, or a container like x with values for each, by leaf."""
    several = not isinstance(x, Tensor)
    if isinstance(value, Mapping) or (several and isinstance(value, list | tuple)):
        parts = parts_of(value)
        missing = [leaf.key for leaf in leaves if leaf.key not in parts]
        if missing or not several:
            got = f"{list(parts)}"
            cure = "Give a number for all inputs, or one for each that has a map."
            raise expected(f"{name} for {[leaf.key for leaf in leaves]}", got, cure)
    else:
        parts = {leaf.key: value for leaf in leaves}
    return {leaf.value: values_like(name, parts[leaf.key], leaf.tensor.detach()) for leaf in leaves}


def check_length(x: object, output: Tensor) -> None:
    """Raise unless the output is a batch of as many samples as the input."""
    samples = samples_of(x)
    if output.ndim == 0 or len(output) != samples:
        raise expected(
            f"one output per sample, ({samples}, ...)",
            f"an output {tuple(output.shape)}",
            "The model must keep the batch dimension first.",
        )


def check_output(x: object, output: Tensor, depends_on_input: bool) -> None:
    """Raise unless the output is a finite batch that depends on the input."""
    check_length(x, output)
    if not depends_on_input:
        raise expected(
            "an output that depends on the input",
            "one that autograd cannot trace to it",
            "Look for detach(), no_grad(), .data or integer operations in the model's forward.",
        )
    if not bool(torch.isfinite(output).all()):
        cure = "Check the weights and the scale of the input."
        raise expected("a finite output", "NaN or infinite values", cure)


def whole_number(name: str, value: object, least: int, cure: str) -> None:
    """Raise unless an option is a whole number that is large enough."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise expected(f"{name}, a whole number of at least {least}", repr(value), cure)


def listed(what: str, value: object, known: Iterable[str]) -> list[Any]:
    """The entries of an option that is a name or several of them."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Iterable):
        cure = f"Choose from {', '.join(known)}."
        raise expected(f"a name or a list of names for {what}", repr(value), cure)
    return list(value)


def at_least_0(name: str, value: object, default: float) -> None:
    """Raise unless a method's parameter is a number that is not negative."""
    if not isinstance(value, int | float) or not value >= 0:
        raise expected(f"{name} >= 0", repr(value), f"The default is {default}.")


def check_bounds(low: object, high: object) -> None:
    """Raise unless the input's bounds are given both or not at all."""
    if (low is None) != (high is None):
        raise expected("both low and high, or neither", "one of them", "Give the input's range.")
