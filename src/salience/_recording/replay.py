"""Replay a recorded pass with other parameters.

Operations whose operands are all unchanged are not run: their recorded outputs, their part of the
autograd graph and what was derived from their activations serve the new recording as they are.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from salience._errors import SalienceError
from salience._inputs.trees import Model
from salience._operations.calls import Arguments, Keywords
from salience._recording.affine import step_of
from salience._recording.chains import join
from salience._recording.elementwise import function_of
from salience._recording.linear_maps import Weights
from salience._recording.linear_sites import AffineSite, LinearSite
from salience._recording.nonlinear_sites import ElementSite
from salience._recording.recording import Recording
from salience._recording.trace import (
    Operation,
    Ref,
    Site,
    Trace,
    every,
    make_site,
    of_operands,
    run_operation,
    tree_map,
)


def can_replay(trace: Trace) -> bool:
    """Whether the trace says all of what the model does: nothing unseen, no branches on values."""
    return not trace.opaque and not trace.branches and trace.output is not None


def replay(
    recording: Recording,
    parameters: Mapping[int, Tensor],
    weights: Weights,
    model: Callable[[], Model],
    transform: Callable[[Operation, Arguments], Arguments] | None = None,
) -> Recording | None:
    """The pass of the same model and input with some parameters (value -> tensor) replaced; None
    where the model may have read a shape that is another one now.

    model      makes the model with these parameters
    transform  may change the operands of each operation that is run (BatchNorm statistics)
    """
    kept, trace = recording.kept, recording.trace
    if kept is None or not can_replay(trace):
        raise SalienceError("this recording cannot be replayed")
    forced = _with_their_parts(trace, parameters)
    values: dict[int, Tensor] = dict(parameters)
    sites: dict[int, Site] = {}  # by output

    def resolve(ref: Ref) -> Tensor:
        return values[ref.index] if ref.index in values else kept[ref.index]

    with torch.inference_mode(False), torch.enable_grad():
        for operation in trace.operations:
            inputs = operation.inputs()
            if operation.outputs[0] not in forced and not any(i in values for i in inputs):
                continue
            args, kwargs = tree_map(resolve, (operation.args, operation.kwargs), Ref)
            if transform is not None:
                args = transform(operation, args)
            site = _site(recording, weights, operation, args, kwargs, parameters)
            root = None if operation.root is None else resolve(Ref(operation.root))
            if site is not None:
                _join_as_recorded(trace, operation, site, sites)
                sites[operation.outputs[0]] = site
            with torch.set_grad_enabled(operation.kind != "detached"):
                result = run_operation(operation, site, args, kwargs, root)
            tensors = every(result, Tensor)
            for output, pick in zip(operation.outputs, operation.picks, strict=True):
                if tensors[pick].shape != trace.shapes[output]:
                    return None
                values[output] = tensors[pick]
    return _at_values(recording, values, model)


def _at_values(
    recording: Recording, values: Mapping[int, Tensor], model: Callable[[], Model]
) -> Recording:
    """The recording of a pass with these values, and the others as they were."""
    trace = recording.trace
    assert trace.output is not None
    return Recording(
        x=recording.x,
        leaves=tuple(
            leaf._replace(tensor=values.get(leaf.value, leaf.tensor)) for leaf in recording.leaves
        ),
        output=values.get(trace.output, recording.output),
        trace=trace,
        walk=recording.walk,
        model=model,
        part=recording.part,
    )


def _with_their_parts(trace: Trace, parameters: Mapping[int, Tensor]) -> set[int]:
    """Outputs of linear maps whose shifts or scales change: they are one map."""
    changed = set(parameters)
    heads: set[int] = set()
    makers = {id(op.site): op.outputs[0] for op in trace.operations if op.site is not None}
    for operation in trace.operations:
        if changed.isdisjoint(operation.inputs()):
            continue
        if not operation.depends:
            changed.update(operation.outputs)
        elif isinstance(operation.site, AffineSite) and operation.site.head is not None:
            heads.add(makers[id(operation.site.head)])
    return heads


def _site(
    recording: Recording,
    weights: Weights,
    operation: Operation,
    args: Arguments,
    kwargs: Keywords,
    parameters: Mapping[int, Tensor],
) -> Site | None:
    old = operation.site
    if old is None:
        return None
    if operation.root is not None and isinstance(old, ElementSite):
        trace = weakref.proxy(recording.trace)
        function = partial(function_of, trace, operation.outputs[0], operation.root, parameters)
        return ElementSite(recording.walk, old.kind, function, True, old.shifted)
    if isinstance(old, AffineSite):
        return _affine_site(recording, weights, operation, args, kwargs, old)
    first = isinstance(old, LinearSite) and old.first
    site = make_site(recording.walk, weights, operation, args, kwargs, first)
    if isinstance(site, LinearSite) and isinstance(old, LinearSite):
        site.source, site.layer, site.nonnegative = old.source, old.layer, old.nonnegative
    return site


def _affine_site(
    recording: Recording,
    weights: Weights,
    operation: Operation,
    args: Arguments,
    kwargs: Keywords,
    old: AffineSite,
) -> AffineSite:
    step = step_of(operation.name, args, kwargs, old.step.place, weights)
    if step is None:
        raise SalienceError(f"{operation.name} shifts or scales by numbers that are not finite")
    function = of_operands(operation, args, kwargs)
    site = AffineSite(recording.walk, weights, old.kind, function, step, old.ruled)
    site.pull, site.layer, site.nonnegative = old.pull, old.layer, old.nonnegative
    return site


def _join_as_recorded(
    trace: Trace, operation: Operation, site: Site, sites: dict[int, Site]
) -> None:
    """Join and rectify what the recorded pass did, with the new sites."""
    old = operation.site
    if isinstance(old, AffineSite) and isinstance(site, AffineSite) and old.head is not None:
        head = next(n for v, n in sites.items() if trace.producers[v].site is old.head)
        assert isinstance(head, LinearSite | AffineSite)
        before = (head, *head.chain)[-1]
        site.source = before
        join(head, site)
        if site.is_beside:
            before.keep(None)
    for before in operation.inputs():
        producer, new = trace.producers.get(before), sites.get(before)
        if producer is None or not isinstance(new, LinearSite | AffineSite):
            continue
        made = producer.site
        if isinstance(made, LinearSite | AffineSite) and made.rectified is old is not None:
            assert isinstance(site, ElementSite)
            new.rectified = site
            new.keep(None)
