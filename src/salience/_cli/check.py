"""`salience check`: do maps depend on what was learned, are they faithful, and which to use."""

from __future__ import annotations

import time
from typing import Any

import torch
from rich.text import Text

from salience._cli import options as opt
from salience._cli import parse, results
from salience._cli.costs import costs_of
from salience._cli.explain import device_of, inputs_told
from salience._cli.terminal import circumstances, console, show_files
from salience._errors import NotApplicable, unknown
from salience._faithfulness.run import measured
from salience._files.writing import result_folder
from salience._inputs import trees
from salience._inputs.targets import Part
from salience._inputs.trees import Inputs
from salience._inputs.validation import whole_number
from salience._randomization.run import answered
from salience._study.study import Study
from salience._tape.tape import record
from salience._tape.together import can_be_shown, is_single, some
from salience.rules._method import Method

TESTS = ("all", "randomization", "faithfulness")


def check(given: opt.Options) -> None:
    """Everything that `salience check` does, from its options as they were given."""
    from salience._cli.inputs import load_study

    _validate(given)
    chosen = parse.parse_methods(given["methods"], given.get("param", []))
    options = {
        "target": parse.parse_target(given["target"]),
        "cascade": parse.parse_cascade(given),
        "output": parse.parse_output(given.get("output")),
        "batch_size": given.get("batch_size"),
        "skip": given["methods"] in opt.SETS,
    }
    removal = parse.parse_removal(given)
    out, overwrite = given["out"], given.pop("overwrite")  # which says nothing of the result
    with result_folder(out, overwrite) as folder:
        network, x, names = load_study(given)
        if given["only"] != "faithfulness":
            parse.parse_scores(given["scores"], given["score"], x)  # before the long work
        begin = time.perf_counter()
        with inputs_told(network, x, options):
            # first, since its options are known to fit only once it has seen the inputs
            faithful = _faithful(given, network, x, chosen, {**options, "removal": removal})
            tested = _randomized(given, network, x, chosen, options)
        study = _joined(tested, faithful)
        made = circumstances("check", given, time.perf_counter() - begin)
        study = study.annotated({"score": given["score"], **made}, names)
        known = [method for method in chosen if method.name in study.methods]
        costs = costs_of(console(), network, x, known, options) if given["cost"] else {}
        results.show_study(console(), study, costs)
        lines = results.save_study(folder, study, given["form"])
    show_files(out, lines)


def _joined(tested: Study | None, faithful: Study | None) -> Study:
    if tested is None or faithful is None:
        one = tested or faithful
        assert one is not None
        return one
    return tested.with_faithfulness(faithful)


def _validate(given: opt.Options) -> None:
    """Raise for options that cannot be, before anything is loaded."""
    if given["only"] not in TESTS:
        raise unknown("test for --only", given["only"], TESTS)
    whole_number("--seed", given["seed"], 0, "Such as --seed 1.")
    results.check_format(given["form"], given["out"])
    whole_number("a batch size", given.get("batch_size", 1), 1, "The default is 16.")


def _randomized(
    given: opt.Options, network: torch.nn.Module, x: Inputs, methods: list[Method], run: opt.Options
) -> Study | None:
    """The randomisation test, where it is asked for."""
    if given["only"] == "faithfulness":
        return None
    keep = given["show"]
    if keep and not _can_be_shown(network, x, run["output"]):
        keep = 0
    scores = parse.parse_scores(given["scores"], given["score"], x)
    more: dict[str, Any] = {"scores": scores, "keep_maps": keep, "retarget": given["retarget"]}
    return answered(network, x, methods, **run, **more)


def _faithful(
    given: opt.Options, network: torch.nn.Module, x: Inputs, methods: list[Method], run: opt.Options
) -> Study | None:
    """The test of faithfulness, where it is asked for; a reason where it cannot be made."""
    if given["only"] == "randomization":
        return None
    options = dict(run)
    target, removal = options.pop("target"), options.pop("removal")
    try:
        return measured(network, x, methods, target, removal, **options)
    except NotApplicable as error:
        if given["only"] == "faithfulness":
            raise
        console().print(Text(f"Faithfulness was not measured: {error}"))  # the rest is not lost
        return None


def _can_be_shown(network: torch.nn.Module, x: Inputs, output: Part) -> bool:
    """Whether maps can be kept, to be looked at; said where they cannot."""
    if is_single(x):
        return True
    few = trees.each(lambda part: part.to(device_of(network, x)), some(x, slice(1)))
    shown = can_be_shown(x, record(network, few, output=output).leaves)
    if not shown:
        console().print("Maps of several inputs are scored as one, and not kept to be shown.")
    return shown
