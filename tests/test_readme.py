"""README.md does what it says: its blocks run, its names are there, its tables are the code's."""

import ast
import re
import shlex
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import typer.main
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import salience
from salience._cli.app import app
from salience.rules._composites import PRESETS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)
PROSE = re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S)
INLINE = re.findall(r"`([^`\n]+)`", PROSE)
# each line of the shell's, without what it says of itself
SHELL = [shlex.split(line, comments=True) for kind, text in BLOCKS if kind == "sh"
         for line in text.splitlines()]  # fmt: skip
COMMANDS: Mapping[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
NETWORK = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.ReLU(), nn.Flatten(), nn.Linear(784, 5))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def names() -> dict[str, Any]:
    """What the README takes for granted."""
    layers = nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 8)
    model, x = nn.Sequential(*layers).eval(), torch.rand(3, 1, 8, 8) * 4 - 2
    return {"salience": salience, "model": model, "x": x, "tape": salience.record(model, x)}


def run(block: str, names: dict[str, Any]) -> None:
    exec(compile(block, "README.md", "exec"), names)


def test_the_readme_has_what_is_tested_here():
    assert [kind for kind, _ in BLOCKS].count("python") >= 1
    assert {line[0] for line in SHELL if line} == {"make", "salience"}


@pytest.mark.parametrize("block", [text for kind, text in BLOCKS if kind == "python"])
def test_a_block_of_python_runs(block: str, names: dict[str, Any], folder: Path):
    del names["salience"], names["tape"]  # which it makes itself
    run(block, names)
    for file in re.findall(r'\.(?:report|save|savefig)\("([^"]+)"', block):
        assert (folder / file).exists()


def test_a_wrong_name_is_seen(names: dict[str, Any]):
    with pytest.raises(AttributeError, match="conservation_error"):
        run('salience.explain(model, x, "lrp_epsilon")["lrp_epsilon"].conservation_error', names)


def test_the_commands_run_one_after_the_other(folder: Path):
    (folder / "mynetwork.py").write_text(NETWORK)
    names: dict[str, Any] = {}
    exec(NETWORK, names)
    safetensors.torch.save_file(names["build"]().state_dict(), folder / "weights.safetensors")
    (folder / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "images/one.png")
    for _, *arguments in [line for line in SHELL if line[:1] == ["salience"]]:
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, f"{arguments}: {done.output}"
        assert (folder / arguments[arguments.index("-o") + 1]).exists()


def test_what_make_is_asked_for_it_makes():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    asked = {line[1] for line in SHELL if line[:1] == ["make"]}
    asked |= {code.split()[1] for code in INLINE if code.startswith("make ")}
    assert {"demo", "test", "bench", "zoo"} <= asked <= targets


@pytest.mark.parametrize("name", sorted(set(re.findall(r"salience(?:\.\w+)+", " ".join(INLINE)))))
def test_a_name_in_the_text_is_there(name: str):
    assert attrgetter(name.removeprefix("salience."))(salience) is not None


CALLS = [code for code in INLINE if re.match(r"(tape|salience)\..*\(", code) and "..." not in code]


@pytest.mark.parametrize("code", CALLS)
def test_a_call_in_the_text_runs(code: str, names: dict[str, Any]):
    run(code, names)


@pytest.mark.parametrize("code", [code for code in INLINE if code.startswith("rules=")])
def test_rules_in_the_text_choose(code: str, names: dict[str, Any]):
    run(f'map = tape.explain("lrp_composite", 3, {code})', names)
    assert names["map"].shape == names["x"].shape


def targets() -> list[str]:
    """What the paragraph about them gives as a target, without what it only describes."""
    (paragraph,) = re.findall(r"^\*\*Targets\*\*.*$", README, re.M)
    return [code for code in re.findall(r"`([^`]+)`", paragraph) if re.match(r'[\d(\["]', code)
            and not re.search("class", code)]  # fmt: skip


@pytest.mark.parametrize("code", targets())
def test_a_target_of_the_text_is_one(code: str, names: dict[str, Any]):
    map = names["tape"].explain("gradient", ast.literal_eval(code))
    assert map.shape == names["x"].shape and bool((map != 0).any())


def test_commands_and_options_in_the_text_are_there():
    said = {line[1] for line in SHELL if line[:1] == ["salience"]}
    said |= {code.split()[1] for code in INLINE if code.startswith("salience ")}
    assert said == COMMANDS.keys()
    known = {option for command in COMMANDS.values() for p in command.params for option in p.opts}
    options = {word for code in INLINE for word in code.split() if word.startswith("--")}
    assert options and options <= known | {"--help"}


def rows() -> dict[str, list[str]]:
    """The table of methods."""
    lines = [line.strip("|").split("|") for line in README.splitlines() if line.startswith("| `")]
    return {cells[0].strip(" `"): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_the_table_of_methods_is_the_registry():
    assert list(rows()) == list(salience.methods)


@pytest.mark.parametrize("name", rows())
def test_parameters_in_the_table_are_the_method_s(name: str):
    for part in filter(None, rows()[name][1].split(", ")):
        key, _, value = part.split(" of ")[0].partition("=")
        assert key in salience.methods[name].parameters
        assert not value or salience.methods[name].parameters[key] == ast.literal_eval(value), part


def test_the_presets_in_the_text_are_all():
    (listed,) = re.findall(r"the presets are (.*?)\.", README)
    assert re.findall(r"`([^`]+)`", listed) == list(PRESETS)


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 4
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
