"""The scores of all batches as one dataset, with everything needed to repeat the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from salience._inputs.targets import told
from salience._names import BETWEEN, ERRORS, FLOOR, MULTIPLIERS, NEGATIVE, OTHERS, RANDOM_MAP
from salience._randomization.comparison import Batch, Numbers
from salience._randomization.plan import Plan
from salience._study.provenance import provenance
from salience._study.schema import FLOORS, texts
from salience._tape.together import SAME

if TYPE_CHECKING:
    import xarray


Variable = tuple[tuple[str, ...], NDArray[np.generic]]


def dataset_of(plan: Plan, x: object, batches: Sequence[Batch]) -> xarray.Dataset:
    """The scores of all batches, in the order of the samples of x."""
    import xarray

    def joined(parts: Sequence[Numbers]) -> Numbers:
        return np.concatenate(parts, -1)

    scores = {name: joined([b.scores[name] for b in batches]) for name in plan.question.scores}
    dims = ("method", "stage", "repeat", "sample")
    data: dict[str, Variable] = {
        **{name: (dims, values) for name, values in scores.items()},
        BETWEEN: (FLOORS[BETWEEN], joined([b.between_random for b in batches])),
        OTHERS: (FLOORS[OTHERS], joined([b.other_inputs for b in batches])),
        MULTIPLIERS: (FLOORS[MULTIPLIERS], joined([b.other_multipliers for b in batches])),
        **{e: ((dims[0], dims[3]), joined([b.errors[e] for b in batches])) for e in ERRORS},
        **_pictures(batches),
    }
    undefined = {f"undefined_{name}": int(np.isnan(v).sum()) for name, v in scores.items()}
    coordinates = _coordinates(plan, batches, shown="maps" in data)
    return xarray.Dataset(data, coordinates, {**_attributes(plan, x), **undefined})


def _coordinates(
    plan: Plan, batches: Sequence[Batch], shown: bool
) -> dict[str, Variable | NDArray[np.generic]]:
    samples = sum(batch.other_inputs.shape[-1] for batch in batches)
    spread = {m.name: max(0.0, *(b.spread[m.name] for b in batches)) for m in plan.methods}
    constant = [int(samples > 1 and spread.get(name, 1.0) < SAME) for name in plan.names]
    roles = dict.fromkeys(plan.controls, NEGATIVE) | {RANDOM_MAP: FLOOR}
    found: dict[str, Variable | NDArray[np.generic]] = {
        "method": texts(plan.names),
        "stage": texts(plan.stages.names),
        "score": texts(list(plan.question.scores)),
        "repeat": np.arange(plan.question.cascade.repeats),
        "sample": np.arange(samples),
        "role": (("method",), texts([roles.get(name, "method") for name in plan.names])),
        "constant_over_inputs": (("method",), np.array(constant)),
        "uncovered": (("method",), texts([plan.uncovered.get(name, "") for name in plan.names])),
        "place": (("stage",), np.array(plan.stages.places)),
        "number": (("stage",), np.array(plan.stages.numbers)),
    }
    if shown:
        found["map_method"] = texts([method.name for method in plan.methods])
        found["map_stage"] = texts(["trained", *plan.stages.names])
    return found


def _pictures(batches: Sequence[Batch]) -> dict[str, Variable]:
    """The maps that were kept, and what they explain."""
    parts = [batch.pictures for batch in batches if batch.pictures]
    if not parts:
        return {}
    maps, inputs = parts[0].maps, parts[0].inputs
    if len(parts) > 1:
        maps = np.concatenate([part.maps for part in parts], 2)
        inputs = np.concatenate([part.inputs for part in parts])
    space = [f"axis_{i}" for i in range(1, inputs.ndim)]
    return {
        "maps": (("map_method", "map_stage", "map_sample", *space), maps),
        "inputs": (("map_sample", *space), inputs),
    }


def _attributes(plan: Plan, x: object) -> dict[str, object]:
    question = plan.question
    parameters = {method.name: dict(method.parameters) for method in plan.methods}
    return {
        **asdict(question.cascade),
        "retarget": int(question.retarget),
        "target": told(question.target),
        "output": str(question.output),
        "kind": question.kind,
        **provenance(question.model, x),
        "stage_count": plan.stages.total,
        "parameters_not_randomized": list(plan.stages.untouched),
        "method_parameters": str(parameters),
    }
