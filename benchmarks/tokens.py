"""What maps of transformers cost: the gradient compared with torch's first, then time and memory.

    python benchmarks/tokens.py [--quick] [--out benchmarks/results]

Llama-like (RMSNorm, rotary positions, grouped queries, SwiGLU, causal), BERT-like and ViT-like
networks of Hugging Face's transformers with random weights, T tokens. Times are medians of
interleaved runs, CPU time on one thread, as multiples of one plain gradient (forward and gradient
at the embedding, parameters frozen). Peak memory, with the most tokens, is that of a process of its
own, over what is there before the map. A budget that is missed is printed as MISSED. LXT 2.1, which
knows two of these families too, does not run with transformers 5.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import memory
import networks
import report
import torch
from rich.console import Console
from torch import Tensor, nn

import salience

LENGTHS = (64, 256, 1024)
BUDGETS = {
    "gradient": 1.05,
    "lrp_epsilon": 1.15,
    "excitation_backprop": 2.0,
    "lrp_alpha_beta": None,
}
MEMORY_BUDGET = 1.15
SIZE = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8}
VIT = {"hidden_size": 384, "num_hidden_layers": 4, "num_attention_heads": 6, "patch_size": 16}
TARGET, CLASSES, WORDS = 3, 10, 1000


class Logits(nn.Module):
    """A network of tokens (B, T, D), or of pictures, whose output is its logits alone."""

    def __init__(self, network: nn.Module, key: str) -> None:
        super().__init__()
        self.network, self.key = network, key

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(**{self.key: x}).logits
        return logits if logits.ndim == 2 else logits[:, -1]


def build(family: str, tokens: int) -> tuple[Logits, Tensor]:
    """A network with its input; T = 256 and more have one sample, fewer tokens more of them."""
    networks.import_torchvision()  # which transformers asks for
    import transformers

    batch = max(1, 256 // tokens)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if family == "ViT":
            side = int(tokens**0.5) * 16
            config = transformers.ViTConfig(
                **VIT, intermediate_size=1536, image_size=side, num_labels=CLASSES
            )
            network, key = transformers.ViTForImageClassification(config), "pixel_values"
            x = torch.randn(batch, 3, side, side, generator=generator)
        else:
            grouped = {"num_key_value_heads": 2} if family == "Llama" else {}
            inner = {"intermediate_size": 704 if grouped else 1024, "vocab_size": WORDS}
            config = getattr(transformers, f"{family}Config")(
                **SIZE,
                **grouped,
                **inner,
                max_position_embeddings=4096,
                use_cache=False,
                num_labels=CLASSES,
            )
            head = "ForCausalLM" if grouped else "ForSequenceClassification"
            network, key = getattr(transformers, f"{family}{head}")(config), "inputs_embeds"
            x = torch.randn(batch, tokens, 256, generator=generator)
    return Logits(network, key).eval().requires_grad_(False), x


def plain(network: nn.Module, x: Tensor) -> Tensor:
    leaf = x.detach().clone().requires_grad_()
    return torch.autograd.grad(network(leaf)[:, TARGET].sum(), leaf)[0]


def ours(network: nn.Module, x: Tensor, method: str) -> Tensor:
    given = {"eps": 0.0} if method == "lrp_epsilon" else {}
    return salience.record(network, x).explain(method, TARGET, **given)


def seconds(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Medians of interleaved runs."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if number:
                spent[name].append(time.process_time() - start)
    return {name: median(times) for name, times in spent.items()}


# -- memory, in a process of its own --------------------------------------------------------------


def peak(family: str, tokens: int, method: str) -> int:
    """Bytes that one map needs at most, over what is there before it."""
    network, x = build(family, 16)
    run = plain if method == "plain" else lambda n, x: ours(n, x, method)
    run(network, x)  # load libraries
    network, x = build(family, tokens)
    before = memory._high_water()
    run(network, x)
    return memory._high_water() - before


def in_own_process(*question: object) -> Any:
    """The answer of `peak`."""
    command = [sys.executable, __file__, "--here", *map(str, question)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# -- all of it ------------------------------------------------------------------------------------


def measure(family: str, tokens: int, rounds: int, memory_too: bool) -> dict[str, Any]:
    network, x = build(family, tokens)
    runs: dict[str, Callable[[], object]] = {"plain": lambda: plain(network, x)}
    for method in BUDGETS:
        runs[method] = lambda method=method: ours(network, x, method)
    times = seconds(runs, rounds)
    product = float((ours(network, x, "gradient") - plain(network, x)).abs().max())
    result: dict[str, Any] = {
        "family": family, "tokens": tokens, "batch": len(x), "plain_seconds": times["plain"],
        "gradient_difference": product / float(plain(network, x).abs().max()),
        "gradients": {m: times[m] / times["plain"] for m in BUDGETS},
    }  # fmt: skip
    if memory_too and tokens == max(LENGTHS):  # of less, what is loaded before hides the peak
        peaks = {m: in_own_process(family, tokens, m) for m in ("plain", *BUDGETS)}
        result["memory"] = {m: peaks[m] / peaks["plain"] for m in BUDGETS}
    return result


def show(console: Console, results: list[dict[str, Any]]) -> None:
    rows = []
    for found in results:
        for method, budget in BUDGETS.items():
            cost, peaks = found["gradients"][method], found.get("memory", {})
            rows.append((
                f"{found['family']}, T = {found['tokens']}", method, cost, budget or "",
                report.verdict(cost, budget), peaks.get(method, ""),
                report.verdict(peaks[method], MEMORY_BUDGET) if peaks else "",
            ))  # fmt: skip
    columns = ("network", "method", "plain gradients", "budget", "", "peak memory", "")
    report.table(console, "Transformers", columns, rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="64 tokens, one round, no memory")
    parser.add_argument("--out", type=Path, help="folder of the JSON file; not written without")
    parser.add_argument("--rounds", type=int, help="runs of every method")
    parser.add_argument("--here", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.here:
        family, tokens, method = given.here
        print(json.dumps(peak(family, int(tokens), method)))
        return 0
    lengths, rounds = (LENGTHS[:1], 1) if given.quick else (LENGTHS, given.rounds or 7)
    console, results = Console(width=110), []
    for family in ("Llama", "Bert", "ViT"):
        for tokens in lengths:
            results.append(measure(family, tokens, rounds, not given.quick))
    show(console, results)
    if given.out:
        path = report.write(report.header("cpu") | {"results": results}, given.out, "tokens-cpu")
        console.print(f"written: {path}")
    return int(any(found["gradient_difference"] > 1e-5 for found in results))


if __name__ == "__main__":
    raise SystemExit(main())
