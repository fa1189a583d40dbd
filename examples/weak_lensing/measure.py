"""The measurements of the weak-lensing study on one trained network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray
from subject import COSMOLOGIES, NETWORKS, OUTPUTS, Subject
from torch import Tensor, nn

import salience
from salience import Cascade, Maps, Method, Removal
from salience._randomization.cascade import ordered_stages, randomized_tapes
from salience._recording.run import run_pass
from salience._tape.tape import Tape

TESTED, TREATED, FEW = 12, 8, 4  # maps: of both tests; other BatchNorm; methods of many passes
REPEATS, FEWER = 5, 3  # random networks: of the test, and where each costs more
TREATMENTS = ("keep", "reset", "recalibrate")  # of BatchNorm's running statistics
# squares of 13 arcmin, as wide as what peaks and voids are; kappa is 0 on average
SQUARES = Removal(cell=8, window=8, replacement=0.0)
RANDOM_WEIGHTS = 0  # seed of the randomised networks, whatever the maps
# the study's own choice of methods
METHODS = (
    "gradient", "input_x_gradient", "smoothgrad", "integrated_gradients", "guided_backprop",
    "deconvnet", "deep_taylor", "lrp_epsilon", "lrp_alpha_beta", "excitation_backprop",
)  # fmt: skip
SINGLE = [name for name in METHODS if salience.methods[name].single_pass]
MANY = [name for name in METHODS if name not in SINGLE]
EDGES, FINE_EDGES = (0, 3), (-1, 0, 1, 2, 3)  # standard deviations of a map
FULL = {"integrated_gradients": {"max_steps": 64}}
REDUCED = {"smoothgrad": {"n": 10}, "integrated_gradients": {"max_steps": 16}}


def methods_of(names: Sequence[str], parameters: Mapping[str, Mapping[str, float]]) -> list[Method]:
    return [salience.methods[name].having(**parameters.get(name, {})) for name in names]


def explained(network: nn.Module, x: Tensor, names: Sequence[str]) -> dict[str, Maps[Tensor]]:
    """Output -> maps shaped like x, by method."""
    return {
        output: salience.explain(network, x, methods_of(names, FULL), k, batch_size=24)
        for k, output in enumerate(OUTPUTS)
    }


def measure_maps(subject: Subject) -> xarray.Dataset:
    """Maps of FEW inputs by all methods, and the attribution per class of kappa over COSMOLOGIES.

    `mean`, `low`, `high` and `chance` are those of `salience.attribution_by_value` with EDGES;
    names with `fine_` those with FINE_EDGES. Methods of many passes have FEW inputs to average.
    """
    network, x = subject.network, subject.x[:COSMOLOGIES]
    single, many = explained(network, x, SINGLE), explained(network, x[:FEW], MANY)
    together = {o: {**single[o], **many[o]} for o in OUTPUTS}
    values = [[together[o][m][:FEW, 0].numpy() for m in METHODS] for o in OUTPUTS]
    data = xarray.Dataset(
        {"maps": (("output", "method", "input", "y", "x"), np.array(values)),
         "kappa": (("input", "y", "x"), x[:FEW, 0].numpy())},
        {"output": list(OUTPUTS), "method": list(METHODS)},
    )  # fmt: skip
    for prefix, edges in (("", EDGES), ("fine_", FINE_EDGES)):
        parts = []
        for maps, inputs in ((single, x), (many, x[:FEW])):
            shares = salience.attribution_by_value(maps, inputs, edges).drop_dims("sample")
            shares["chance"] = shares["chance"].broadcast_like(shares["mean"])
            parts.append(shares.reset_coords(("lower", "upper"), drop=True))
        whole = xarray.concat(parts, "method").sel({"method": list(METHODS)})
        data = data.merge(whole.rename({n: f"{prefix}{n}" for n in (*whole.data_vars, "class")}))
    errors = [maps.error["integrated_gradients"].max() for maps in many.values()]
    return data.assign_attrs(completeness_error=float(max(errors)))


def measure_cascade(subject: Subject) -> xarray.Dataset:
    """Maps of the first input on the trained network and after each stage, for sigma_8."""
    network, target = subject.network, OUTPUTS.index("sigma_8")
    tape = Tape(run_pass(network, subject.x[:1], keep=True))
    names = [stage.name for _, stage in ordered_stages(tape, "top_down")]
    stages = randomized_tapes(network, tape, Cascade(seed=RANDOM_WEIGHTS), 0, range(len(names)))
    tapes = [tape, *(randomized for _, randomized in stages)]
    values = [[t.explain(m, target)[0, 0].numpy() for t in tapes] for m in SINGLE]
    coordinates = {"method": SINGLE, "stage": ["trained", *names]}
    return xarray.Dataset({"maps": (("method", "stage", "y", "x"), np.array(values))}, coordinates)


def randomized(
    subject: Subject, count: int, methods: Sequence[str | Method], output: str,
    repeats: int = REPEATS, stages: int | str = "all", batch_norm: str = "keep", **options: Any,
) -> xarray.Dataset:  # fmt: skip
    """The randomisation test on the first `count` maps."""
    cascade = Cascade("top_down", stages, repeats, batch_norm=batch_norm, seed=RANDOM_WEIGHTS)
    return salience.randomization_test(
        subject.network, subject.x[:count], methods, OUTPUTS.index(output), cascade,
        scores=("spearman", "spearman_abs"), progress=False, **options,
    ).data  # fmt: skip


def faithful(subject: Subject, output: str) -> xarray.Dataset:
    """What removing squares of the first TESTED maps does, beside maps by all methods."""
    return salience.faithfulness(
        subject.network, subject.x[:TESTED], methods_of(METHODS, REDUCED), OUTPUTS.index(output),
        SQUARES, scores=("occlusion_auc", "occlusion_mass", "deletion_absolute_pearson"),
        cascade=Cascade(repeats=FEWER, seed=RANDOM_WEIGHTS), progress=False,
    ).data  # fmt: skip


PARTS: dict[str, Callable[[Subject], xarray.Dataset]] = {
    "maps": measure_maps,
    "cascade": measure_cascade,
    # does deconvnet's map on an average-pool network depend on the input at all?
    "constancy": lambda s: randomized(s, FEW, ["gradient", "deconvnet"], "sigma_8", repeats=2),
}
for _output in OUTPUTS:
    PARTS[f"test {_output}"] = partial(
        randomized, count=TESTED, methods=SINGLE, output=_output, keep_maps=FEW
    )
    # at reduced cost: FEW maps, 3 of the stages
    PARTS[f"few {_output}"] = partial(
        randomized, count=FEW, methods=methods_of(MANY, REDUCED), output=_output, stages=3,
        repeats=FEWER,
    )  # fmt: skip
    PARTS[f"faithful {_output}"] = partial(faithful, output=_output)
    for _treatment in TREATMENTS[1:]:
        PARTS[f"{_treatment} {_output}"] = partial(
            randomized, count=TREATED, methods=SINGLE, output=_output, repeats=FEWER, stages=3,
            batch_norm=_treatment,
        )  # fmt: skip
JOBS = [
    (name, part)
    for name in NETWORKS
    for part in PARTS
    if (part == "constancy") == (name == "average_pool")
]
LONG = ("faithful", "test", "few", "maps")
JOBS.sort(key=lambda job: not job[1].startswith(LONG))  # the long ones first
