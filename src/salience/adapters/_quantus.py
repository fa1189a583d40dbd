"""Methods as explanation functions of Quantus; Quantus itself is not imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from salience._inputs.targets import Part
from salience._inputs.trees import is_array, tensor_of
from salience._tape.explain import explain
from salience.rules._table import Method, find

_PASSED_BY_QUANTUS = ("device", "method")  # the latter: what `quantus.evaluate` calls a method


def quantus(
    method: str | Method,
    *,
    output: Part = None,
    seed: int = 0,
    strict: bool = False,
    **parameters: Any,
) -> Callable[..., np.ndarray]:
    """A method as an `explain_func` of Quantus: (model, inputs, targets) -> maps, as arrays.

    method      a name in `salience.methods`, or a `Method`
    output      which part to explain where the model returns a tuple or a dict
    parameters  the method's own; those in `explain_func_kwargs` come before them
    seed, strict
                as for `salience.explain`

    Inputs (B, ...) go to the model's device and dtype; targets (B,) are classes; maps are shaped
    like the inputs.

    Errors: SalienceError, as for `salience.explain`.

    >>> import numpy, torch
    >>> from salience import adapters
    >>> explain_func = adapters.quantus("lrp_epsilon", eps=1e-2)
    >>> net = torch.nn.Linear(3, 2).eval()
    >>> explain_func(net, numpy.ones((4, 3)), numpy.array([0, 1, 1, 0])).shape
    (4, 3)
    """
    found = find(method).having(**parameters)

    def explain_func(
        model: Callable[..., object], inputs: object, targets: Any, **given: Any
    ) -> np.ndarray:
        own = {name: given[name] for name in given if name not in _PASSED_BY_QUANTUS}
        used, targets = found.having(**own), np.asarray(targets).tolist()
        x = _as_the_model_takes(inputs, model)
        made = explain(model, x, used, targets, output=output, seed=seed, strict=strict)
        maps = made[found.name]
        return maps.cpu().to(torch.promote_types(maps.dtype, torch.float32)).numpy()

    return explain_func


def _as_the_model_takes(inputs: object, model: Callable[..., object]) -> Tensor:
    x = tensor_of(inputs if is_array(inputs) else np.asarray(inputs))
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    if parameters:
        x = x.to(parameters[0].device)
    like = next((p for p in parameters if p.is_floating_point()), None)
    return x if like is None or not x.is_floating_point() else x.to(like.dtype)
