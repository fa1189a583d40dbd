"""The layout: imports point one way from room to room, and what is public is written down."""

import ast
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


def files() -> list[Path]:
    found = [p.relative_to(ROOT) for p in ROOT.rglob("*.py")]
    return sorted(p for p in found if len(p.parts) > 1 or p.stem in FLOOR)


@pytest.mark.parametrize("file", files(), ids=str)
def test_imports_point_one_way(file: Path):
    room = file.parts[0].removesuffix(".py")
    assert steps_back(room, (ROOT / file).read_text()) == []


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
