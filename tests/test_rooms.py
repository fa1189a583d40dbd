"""The layout: imports point one way from room to room, and what is public is written down."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import salience

ROOT = Path(salience.__file__).parent
# each room sees those on the lines before its own
ORDER = """
    _interrupts _names
    _errors
    _tables _memory _files
    _inputs
    _scores _operations
    _recording _study
    rules
    _tape plot models
    _randomization
    _faithfulness
    report adapters
    _cli
""".strip().splitlines()
FLOOR = {room: floor for floor, line in enumerate(ORDER) for room in line.split()}
PUBLIC = {"adapters", "models", "plot", "report", "rules"}


def imports(source: str) -> Iterator[str]:
    """The modules of this package that a file imports, below `salience`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            first, _, rest = node.module.partition(".")
            if first == "salience":
                yield from [rest] if rest else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.partition(".") for alias in node.names]
            yield from (rest for first, _, rest in names if first == "salience" and rest)


def steps_back(room: str, source: str) -> list[str]:
    """What a file of a room imports from rooms that come after its own, or beside it."""
    seen = {module.split(".")[0] for module in imports(source)} - {room}
    return sorted(other for other in seen if FLOOR[other] >= FLOOR[room])


def at_once(source: str) -> list[ast.stmt]:
    """The imports that run when a file is loaded, without those for type checkers alone."""
    return [n for n in ast.parse(source).body if isinstance(n, ast.Import | ast.ImportFrom)]


def files() -> list[Path]:
    found = [p.relative_to(ROOT) for p in ROOT.rglob("*.py")]
    return sorted(p for p in found if len(p.parts) > 1 or p.stem in FLOOR)


# faces of an object that users hold: study.plot.similarity() is salience.plot.similarity(study),
# and calls what is further up, which is loaded then and not before
FACES = {
    "_study/figures.py": ["plot"],
    "_study/maps.py": ["plot"],
    "_study/study.py": ["report"],
}


@pytest.mark.parametrize("file", files(), ids=str)
def test_imports_point_one_way(file: Path):
    room, source = file.parts[0].removesuffix(".py"), (ROOT / file).read_text()
    assert steps_back(room, source) == FACES.get(file.as_posix(), [])
    assert steps_back(room, "\n".join(map(ast.unparse, at_once(source)))) == []


def test_a_step_back_is_seen():
    assert steps_back("_recording", "from salience._tape.tape import Tape") == ["_tape"]
    assert steps_back("_scores", "def f():\n    from salience import plot") == ["plot"]
    assert steps_back("plot", "import salience.report._page") == ["report"]


def test_every_file_is_in_a_room():
    outside = {p.stem for p in ROOT.glob("*.py")} - FLOOR.keys()
    assert outside == {"__init__", "__main__"}
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders <= FLOOR.keys()


def test_a_private_room_says_what_it_is_and_exports_nothing():
    for room in (p for p in ROOT.rglob("_[a-z]*") if p.is_dir()):
        (sentence,) = ast.parse((room / "__init__.py").read_text()).body
        assert isinstance(sentence, ast.Expr) and ast.literal_eval(sentence.value).endswith(".")


def test_files_of_public_rooms_are_private():
    for room in PUBLIC:
        names = {p.name for p in (ROOT / room).iterdir() if p.suffix == ".py"}
        assert all(name.startswith("_") for name in names), room


EXPORTED = """
    Agreement Cascade Coverage Ledger Maps Method Recommendation Removal SalienceError
    SalienceWarning Similarity Study Sweep Tape Verdict Verdicts __version__ adapters agreement
    attribution_by_value cost explain faithfulness faithfulness_scores methods models open plot
    randomization_test recommend record report rules similarities sweep verdicts
""".split()


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_public_is_written_down():
    assert sorted(EXPORTED) == sorted(salience.__all__) == sorted(dir(salience))
    assert all(hasattr(salience, name) for name in EXPORTED)


@pytest.mark.parametrize("room", sorted(PUBLIC))
def test_a_public_room_is_there_after_the_import_and_not_loaded_before(room: str):
    printed = run(
        f"import sys, salience\nbefore = 'salience.{room}' in sys.modules\n"
        f"print(before, salience.{room}.__name__)"
    )
    loaded = str(room == "rules")  # which the table of methods is a part of
    assert printed.split() == [loaded, f"salience.{room}"]


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'plots'"):
        salience.plots  # noqa: B018


def test_the_version_is_the_installed_one():
    from importlib.metadata import version

    assert salience.__version__ == version("salience")


def test_no_module_is_hidden_by_what_it_exports():
    """import salience.methods as m must not give a dict."""
    for room in (p.parent for p in ROOT.rglob("__init__.py")):
        tree = ast.parse((room / "__init__.py").read_text())
        bound = {a.asname or a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)
                 for a in n.names}  # fmt: skip
        modules = {p.stem for p in room.iterdir() if p.is_dir() or p.suffix == ".py"}
        assert bound & modules - PUBLIC == set(), room


USER = """
import torch
from torch import Tensor
import salience

net = torch.nn.Linear(3, 2).eval()
tape = salience.record(net, torch.ones(1, 3))
reveal_type(tape)
reveal_type(tape.output)
reveal_type(tape.coverage("gradient"))
reveal_type(salience.methods["gradient"])
reveal_type(salience.randomization_test(net, torch.ones(1, 3)))
reveal_type(salience.plot.maps)
salience.nothing
"""


def test_a_user_s_type_checker_sees_types(tmp_path: Path):
    file = tmp_path / "user.py"
    file.write_text(USER)
    config = {"extraPaths": [str(ROOT.parent)], "pythonVersion": "3.11"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
    printed = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stdout
    seen = [line.split(' is "')[1].rstrip('"') for line in printed.splitlines() if ' is "' in line]
    assert seen[:4] == ["Tape", "Tensor", "Coverage", "Method"]
    assert seen[4] == "Study"
    assert seen[5].endswith("-> Figure")
    assert '"nothing" is not a known attribute' in printed


def test_the_map_for_contributors_is_the_rooms_own_first_sentences():
    text = (ROOT.parents[1] / "CONTRIBUTING.md").read_text()
    for room in FLOOR:
        path = ROOT / room
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        doc = ast.get_docstring(ast.parse(file.read_text()))
        shown = f"{room}/" if path.is_dir() else f"{room}.py"
        assert doc and f"| `{shown}` | {doc.splitlines()[0]} |" in text
