"""The scores of all batches as one dataset, with everything needed to repeat the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from salience._faithfulness.compared import Batch, Numbers
from salience._faithfulness.plan import Plan
from salience._inputs.targets import told
from salience._names import ERRORS
from salience._study.provenance import provenance
from salience._study.schema import texts
from salience._tape.together import SAME

if TYPE_CHECKING:
    import xarray

CANDIDATE, NETWORK, SAMPLE = "candidate", "network", "sample"

_UNTRAINED = ("repeats", "weights", "batch_norm", "seed")  # of the cascade that are told

Variable = tuple[tuple[str, ...], NDArray[np.generic]]


def dataset_of(plan: Plan, x: object, batches: Sequence[Batch]) -> xarray.Dataset:
    """The scores of all batches, in the order of the samples of x."""
    import xarray

    def joined(parts: Sequence[Numbers], axis: int = -1) -> Numbers:
        return np.concatenate(parts, axis)

    data: dict[str, Variable] = {}
    for name in plan.question.scores:
        found = joined([batch.scores[name] for batch in batches])
        data[f"faithful_{name}"] = ((CANDIDATE, SAMPLE), found)
        if name in batches[0].untrained:
            floor = joined([batch.untrained[name] for batch in batches])
            data[f"untrained_{name}"] = ((CANDIDATE, NETWORK, SAMPLE), floor)
    for name, axis in {"deletion_effect": "cell", "subset_effect": "subset"}.items():
        if name in batches[0].effects:
            found = joined([batch.effects[name] for batch in batches], 0)
            data[name] = ((SAMPLE, axis), found)
    if plan.networks:
        found = joined([b.dependence for b in batches])
        data["untrained_dependence"] = ((NETWORK, SAMPLE), found)
    for name in ERRORS:
        found = joined([b.errors[name] for b in batches])
        data[f"candidate_{name}"] = ((CANDIDATE, SAMPLE), found)
    data["other_target"] = ((CANDIDATE, SAMPLE), joined([b.other for b in batches]))
    data["target_value"] = ((SAMPLE,), joined([b.value for b in batches]))
    data["target_emptied"] = ((SAMPLE,), joined([b.emptied for b in batches]))
    return xarray.Dataset(data, _coordinates(plan, batches), _attributes(plan, x))


def _coordinates(plan: Plan, batches: Sequence[Batch]) -> dict[str, Variable | NDArray[np.generic]]:
    names, samples = list(plan.roles), sum(len(batch.value) for batch in batches)
    spread = {m.name: max(0.0, *(b.spread[m.name] for b in batches)) for m in plan.methods}
    constant = [int(samples > 1 and spread.get(name, 1.0) < SAME) for name in names]
    return {
        CANDIDATE: texts(names),
        SAMPLE: np.arange(samples),
        "candidate_role": ((CANDIDATE,), texts(list(plan.roles.values()))),
        "candidate_uncovered": ((CANDIDATE,), texts([plan.uncovered.get(n, "") for n in names])),
        "candidate_constant": ((CANDIDATE,), np.array(constant)),
    }


def _attributes(plan: Plan, x: object) -> dict[str, object]:
    question, removal = plan.question, plan.question.removal
    parameters = {method.name: dict(method.parameters) for method in plan.methods}
    replacement = plan.replacement if isinstance(plan.replacement, str | float) else "a tensor"
    found: dict[str, object] = {
        "grid": list(plan.grid.shape),
        "space": list(plan.grid.space),
        "cell": list(plan.grid.cell),
        "window": list(plan.grid.window),
        "replacement": replacement,
        "subsets": removal.subsets,
        "share": removal.share,
        "steps": removal.steps,
        "probability": int(removal.probability),
        "removal_seed": removal.seed,
        "networks": plan.networks,
        "target": told(question.target),
        "output": str(question.output),
        "candidate_parameters": str(parameters),
        **provenance(question.model, x),
    }
    cascade = question.cascade
    names = _UNTRAINED if cascade else ()
    return found | {f"untrained_{name}": getattr(cascade, name) for name in names}
