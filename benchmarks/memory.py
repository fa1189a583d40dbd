"""Peak memory of one case, in a process of its own: python benchmarks/memory.py NETWORK ROW ...

On a CPU the operating system's high-water mark is read, since torch counts no CPU memory.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import cases
import networks
import torch

ALL = [cases.PLAIN, *cases.SALIENCE, cases.TOGETHER]


def in_own_process(network: str, case: cases.Case, batch: int, size: int, device: str) -> dict:
    """The peak of a case in bytes: {"over_import": ..., "over_model": ...}."""
    arguments = [network, case.package, case.row, str(batch), str(size), device]
    script = Path(__file__).resolve()
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _high_water() -> int:
    """The largest resident size so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss starts at the parent's high-water mark on Linux
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _peak(network: str, case: cases.Case, batch: int, size: int, device: str) -> dict:
    on_gpu = device == "cuda"
    layers = torch.nn.Conv2d(3, 3, 3), torch.nn.Flatten(), torch.nn.Linear(108, 2)
    tiny = torch.nn.Sequential(*layers).eval().requires_grad_(False).to(device)
    small = networks.inputs(1, 8, device=device)
    cases.maps_of(case, tiny, small, networks.classes(tiny, small))  # load libraries
    imported = torch.cuda.memory_allocated() if on_gpu else _high_water()
    model = networks.build(network, device=device)
    x = networks.inputs(batch, size, device=device)
    chosen = torch.zeros(batch, dtype=torch.long, device=device)
    loaded = torch.cuda.memory_allocated() if on_gpu else _high_water()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    cases.maps_of(case, model, x, chosen)
    peak = torch.cuda.max_memory_allocated() if on_gpu else _high_water()
    return {"over_import": peak - imported, "over_model": peak - loaded}


if __name__ == "__main__":
    torch.set_num_threads(1)
    name, package, row, batch, size, device = sys.argv[1:]
    (case,) = [case for case in ALL if (case.package, case.row) == (package, row)]
    print(json.dumps(_peak(name, case, int(batch), int(size), device)))
