"""The randomisation test as cases of the benchmark, and scores that must be equal.

A case runs one whole test: salience's, or Quantus' MPRT with the plain gradient.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import networks
import torch
from cases import Case, plain_gradient
from scipy import stats
from torch import Tensor, nn

import salience
from salience import Tape
from salience._randomization.cascade import ordered_stages
from salience._randomization.weights import random_weights
from salience._recording.run import run_pass
from salience._scores.similarity import similarities

Explain = Callable[..., Any]

# -- whole tests as cases -------------------------------------------------------------------------


@contextmanager
def _ours(options: dict[str, Any], model: nn.Module, x: Tensor, chosen: Tensor) -> Iterator[Any]:
    target = chosen.tolist()
    yield lambda: salience.randomization_test(
        model,
        x,
        target=target,
        cascade=salience.Cascade(repeats=1),
        progress=False,
        batch_size=len(x),
        **options,
    )


def quantus_scores(model: nn.Module, x: Tensor, chosen: Tensor, explain: Explain) -> Any:
    """Layer -> Spearman per sample: Quantus' MPRT from the output layer down."""
    import quantus  # type: ignore[import-not-found]

    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        test = quantus.MPRT(
            similarity_func=quantus.similarity_func.correlation_spearman, layer_order="top_down",
            abs=False, normalise=False, disable_warnings=True,
        )  # fmt: skip
        return test(
            model=model, x_batch=x.cpu().numpy(), y_batch=chosen.cpu().numpy(),
            explain_func=explain, device=str(x.device), batch_size=len(x),
        )  # fmt: skip


def numpy_gradient(like: Tensor, model: nn.Module, inputs: Any, targets: Any, **_: Any) -> Any:
    """The plain gradient between numpy arrays, as Quantus asks for explanations."""
    x = torch.as_tensor(inputs).to(like)
    return plain_gradient(model, x, torch.as_tensor(targets, device=x.device)).cpu().numpy()


@contextmanager
def _quantus(model: nn.Module, x: Tensor, chosen: Tensor) -> Iterator[Any]:
    yield lambda: quantus_scores(model, x, chosen, partial(numpy_gradient, x))


# single-pass methods that a peer has too
METHODS = (
    "gradient", "input_x_gradient", "guided_backprop", "deconvnet", "deep_taylor", "lrp_epsilon",
    "lrp_alpha_beta", "excitation_backprop",
)  # fmt: skip
ALONE = Case("salience", "gradient, Spearman", partial(
    _ours, {"methods": ["gradient"], "scores": ["spearman"], "controls": False}))  # fmt: skip
ONE_SCORE = Case("salience", "all methods, |Spearman|", partial(
    _ours, {"methods": METHODS, "scores": ["spearman_abs"]}))  # fmt: skip
ALL_SCORES = Case("salience", "all methods, all scores", partial(_ours, {"methods": METHODS}))
QUANTUS = Case("Quantus", "gradient, Spearman", _quantus)


def missing_quantus() -> str | None:
    """Why Quantus cannot be imported, if it cannot."""
    networks.build("resnet18")  # Quantus imports torchvision, which networks.py makes importable
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import quantus  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        return f"Quantus cannot be imported: {error}"
    return None


# -- correctness ----------------------------------------------------------------------------------


def stages(model: nn.Module, x: Tensor) -> list[Any]:
    """(place in execution order, stage), in the order of the cascade."""
    return ordered_stages(Tape(run_pass(model, x, keep=True)), "top_down")


def naive(model: nn.Module, x: Tensor, chosen: Tensor) -> Tensor:
    """(stage, sample) Spearman by scipy: copies of the model with the drawn weights, autograd."""
    trained, scores = plain_gradient(model, x, chosen), []
    tape, randomized = Tape(run_pass(model, x, keep=True)), copy.deepcopy(model)
    named = dict(randomized.named_parameters())
    for place, stage in ordered_stages(tape, "top_down"):
        drawn = random_weights(model, tape.recording.trace, stage, (0, 0, place))
        for value, weights in drawn.items():
            named[tape.recording.trace.parameters[value]].data.copy_(weights)
        maps = plain_gradient(randomized, x, chosen)
        scores.append([scipy_spearman(a, b) for a, b in zip(trained, maps, strict=True)])
    return torch.tensor(scores, dtype=torch.float64)


def scipy_spearman(a: Tensor, b: Tensor) -> float:
    return float(stats.spearmanr(a.cpu().flatten(), b.cpu().flatten()).statistic)


def against_naive(model: nn.Module, x: Tensor, chosen: Tensor) -> float:
    """The largest difference of a score of the replayed cascade from the naive loop's."""
    with ALONE.open(model, x, chosen) as test:
        found: Any = test()
    scores = torch.as_tensor(found.data.spearman.values[0, :, 0])  # (stage, sample)
    return _largest(scores - naive(model, x, chosen))


def against_quantus(model: nn.Module, x: Tensor, chosen: Tensor) -> dict[str, Any]:
    """Scores on every network that Quantus drew: its own, and salience's of a fresh recording.

    The two draw different weights, and Quantus also resets BatchNorm's statistics, so scores of
    their own cascades cannot be equal; those on the same networks must be.
    """
    drawn: list[dict[str, Tensor]] = []

    def explain(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> Any:
        drawn.append({name: value.clone() for name, value in model.state_dict().items()})
        return numpy_gradient(x, model, inputs, targets)

    theirs = quantus_scores(model, x, chosen, explain)
    target, network, worst = chosen.tolist(), copy.deepcopy(model), 0.0
    trained = salience.record(model, x).explain("gradient", target)
    for scores, state in zip(theirs.values(), drawn[-len(theirs) :], strict=True):
        network.load_state_dict(state)
        maps = salience.record(network, x).explain("gradient", target)
        ours = similarities["spearman"](trained, maps).cpu()
        worst = max(worst, _largest(ours - torch.as_tensor(scores, dtype=torch.float64)))
    stages = len(theirs) - 1  # the first one is the trained network
    return {"difference": worst, "stages": stages, "explanations": len(drawn)}


def _largest(difference: Tensor) -> float:
    value = difference.abs().max().item()
    return value if value == value else float("inf")


def compare(network: str, device: str, quantus: bool) -> dict[str, Any]:
    """Differences of scores in float64, at a size where the naive loop takes seconds."""
    model = networks.build(network, device=device, dtype=torch.float64)
    x = networks.inputs(2, 64, device=device, dtype=torch.float64)
    chosen = networks.classes(model, x)
    return {
        "naive": against_naive(model, x, chosen),
        "quantus": against_quantus(model, x, chosen) if quantus else None,
    }
