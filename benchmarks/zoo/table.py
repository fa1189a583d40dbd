"""The committed result: benchmarks/results/zoo.json, and zoo.md made from it.

`python -m zoo.table` makes zoo.md again from zoo.json.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import report

RESULTS = Path(__file__).parents[1] / "results"
PLAIN = ("linear", "batch_norm", "relu", "structural", "weights")
GATES = ("relu", "bounded_relu")
PEERS = ("captum", "zennit")
COLUMNS = (
    "network", "parameters, M", "pixels", "beyond linear maps and ReLU", "finite", "laws",
    "conservation: ε", "α1β0", "α2β1", "without biases: ε → 0", "α1β0", "α2β1", "seconds",
    "captum: LRP", "guided", "zennit: LRP", "guided",
)  # fmt: skip
ALIGNMENT = "--- ---: ---: --- ---: ---".split() + ["---:"] * 7 + ["---"] * 4
NOTES = """
Random weights; no network is trained. Biases, scales and everything that an initialiser leaves
constant are random; BatchNorm has the statistics of one batch of its own input. Maps of a batch of
two, for the class of the largest output.

- **beyond linear maps and ReLU**: operations of other kinds, bold where LRP has no rule.
- **finite**: of salience's single-pass maps in float32 ({maps}), how many have no NaN and no
  infinity.
- **laws**, in float64, to 1e-9 of the map's largest value (float32 and 1e-3 from 100 million
  parameters on: *f32*). *gradient*: the tape's gradient is autograd's. *gates*: guided backprop and
  deconvnet are autograd's backward walk with a hook at each ReLU of the graph. *ε*: on nets of
  linear maps, ReLU, pooling and BatchNorm alone, LRP-ε with ε → 0 is input x gradient, with biases.
- **conservation**: the larger |sum of the map − output| / |output| of the batch. Biases take their
  share of the relevance, by the definition of the rules. So it is stated again **without biases**,
  for the nets that are linear maps and ReLU alone: there LRP with ε → 0 keeps everything, and α-β
  loses what reaches a neuron whose contributions are all of one sign.
- **seconds**: of one recorded pass and all single-pass methods, on one thread, in float32.
- **captum, zennit**: LRP-ε with ε = 1e-15, zennit with or without its canonisers, whichever is
  better. *right*: equal to input x gradient, to 1e-4, where that is the law; *finite*: no more can
  be said. Guided backprop is *right* if it is what the hooks at autograd's ReLUs give, and *the
  gradient* if it is that instead, without a word; –: the net has no ReLU. Otherwise the error's
  type.
""".strip()


def has_gates(row: dict[str, Any]) -> bool:
    """Whether guided backprop can differ from the gradient."""
    return any(op["kind"] in GATES for op in row["operations"])


def broken(row: dict[str, Any]) -> dict[str, Any]:
    """law -> what it came to, of laws that do not hold."""
    return {
        law: value
        for law, value in row["laws"].items()
        if isinstance(value, str) or not value < row["tolerance"]
    }


def all_finite(row: dict[str, Any]) -> bool:
    """Whether every map of every method is there and finite."""
    passes = row.get("passes", {}).values()
    maps = [*row["finite"].values(), *(found["finite"] for found in passes)]
    return all(maps) and not row["errors"]


def uncovered(row: dict[str, Any], method: str = "lrp") -> list[str]:
    """The operations that a method has no rule for."""
    return [op["name"] for op in row["operations"] if op[method] == "not covered"]


def gaps(rows: Iterable[dict[str, Any]], method: str = "lrp") -> str:
    """Uncovered operations with the number of networks that have them."""
    counts = Counter(name for row in rows for name in set(uncovered(row, method)))
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common()) or "none"


def summary(rows: list[dict[str, Any]]) -> str:
    """The counts that the table comes to, as a markdown list."""
    done = [row for row in rows if "failed" not in row]
    failed = [f"{row['name']} ({row['failed']})" for row in rows if "failed" in row]
    exact = [row for row in done if row["relu_only"]]
    lines = [
        f"{len(rows)} networks; no result: {', '.join(failed) or 'none'}.",
        f"salience: every map finite on {sum(map(all_finite, done))} of {len(done)}; every law "
        f"holds on {sum(not broken(row) for row in done)} of {len(done)}, LRP-ε with ε → 0 is "
        f"input x gradient on {sum('epsilon' not in broken(row) for row in exact)} of the "
        f"{len(exact)} networks of linear maps and ReLU alone.",
        f"Operations without a rule under LRP, with the number of networks: {gaps(done)}.",
        "The same under guided backprop and deconvnet, which are defined for ReLU: "
        f"{gaps(done, 'guided')}.",
    ]
    compared = [row for row in done if "peers" in row]
    return "\n".join(f"- {line}" for line in lines + [_of_peer(p, compared) for p in PEERS])


def _of_peer(package: str, rows: list[dict[str, Any]]) -> str:
    def count(method: str, among: list[dict[str, Any]], *outcomes: str) -> str:
        found = [row["peers"][package][method]["outcome"] for row in among]
        return f"{sum(outcome in outcomes for outcome in found)} of {len(among)}"

    exact, gated = [r for r in rows if r["relu_only"]], [r for r in rows if has_gates(r)]
    return (
        f"{package}: LRP-ε finite on {count('lrp_epsilon', rows, 'finite', 'right', 'wrong')}, "
        f"input x gradient on {count('lrp_epsilon', exact, 'right')} of linear maps and ReLU "
        f"alone; guided backprop right on {count('guided_backprop', gated, 'right')} with a ReLU, "
        f"silently the gradient on {count('guided_backprop', gated, 'is the gradient')}."
    )


def markdown(result: dict[str, Any]) -> str:
    """The whole page."""
    rows = result["networks"]
    maps = next((", ".join(row["finite"]) for row in rows if "finite" in row), "none")
    packages = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = ["# Every law on every architecture", ""]
    lines += [f"Made by `make zoo` on {result['date']}: {packages}; {result['machine']['cpu']}."]
    lines += ["", summary(rows), "", NOTES.format(maps=maps), ""]
    lines += [_line(COLUMNS), _line(ALIGNMENT)]
    return "\n".join(lines + [_line(_cells(row)) for row in rows]) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: dict[str, Any]) -> list[str]:
    if "failed" in row:
        return [row["name"], "", "", row["failed"].replace("|", "/")] + [""] * (len(COLUMNS) - 4)
    beyond = sorted({op["name"] for op in row["operations"] if op["kind"] not in PLAIN})
    marked = [f"**{name}**" if name in uncovered(row) else name for name in beyond]
    finite = f"{sum(row['finite'].values())} of {len(row['finite']) + len(row['errors'])}"
    rows = ("lrp_epsilon", "lrp_alpha1_beta0", "lrp_alpha2_beta1")
    free = row.get("conserved") or {}
    return [
        row["name"], f"{row['parameters'] / 1e6:.1f}", str(row["size"]), ", ".join(marked), finite,
        _laws(row), *(_number(row["conservation"].get(name)) for name in rows),
        *(_number(free.get(name)) for name in rows), f"{row['seconds']:.2f}", *_peer_cells(row),
    ]  # fmt: skip


def _laws(row: dict[str, Any]) -> str:
    gates = {"guided_backprop", "deconvnet"}
    names = {"gradient": {"gradient"}, "gates": gates, "ε": {"epsilon"}}
    failed = broken(row)
    cells = [
        f"**{name} broken**" if laws & failed.keys() else name
        for name, laws in names.items()
        if laws & row["laws"].keys() and (name != "gates" or has_gates(row))
    ]
    return ", ".join(cells) + (" *f32*" if row["precision"] == "float32" else "")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}" if 0 < value < 1e-3 else f"{value:.3g}"


def _peer_cells(row: dict[str, Any]) -> list[str]:
    cells = []
    for package in PEERS:
        found = row.get("peers", {}).get(package, {})
        for method in ("lrp_epsilon", "guided_backprop"):
            outcome = found.get(method, {}).get("outcome", "")
            gated = method == "lrp_epsilon" or has_gates(row)
            cells.append(outcome.replace("is the", "the") if gated else "–")
    return cells


def rounded(tree: Any) -> Any:
    """Numbers to four digits, so that the file's differences are readable."""
    if isinstance(tree, dict):
        return {key: rounded(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [rounded(value) for value in tree]
    return float(f"{tree:.4g}") if isinstance(tree, float) else tree


def write(rows: list[dict[str, Any]], folder: Path) -> None:
    """zoo.json, one network a line, and zoo.md."""
    result = report.header("cpu") | {"command": "make zoo", "networks": rounded(rows)}
    head = json.dumps({key: value for key, value in result.items() if key != "networks"}, indent=1)
    lines = ",\n".join(json.dumps(row) for row in result["networks"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zoo.json").write_text(f'{head[:-2]},\n "networks": [\n{lines}\n]}}\n')
    (folder / "zoo.md").write_text(markdown(result))


if __name__ == "__main__":
    (RESULTS / "zoo.md").write_text(markdown(json.loads((RESULTS / "zoo.json").read_text())))
