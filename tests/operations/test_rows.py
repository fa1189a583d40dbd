"""One row per function of torch: what a row says is all that the package is taught."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import salience
from salience._operations import kinds
from salience._operations.rows import row

ROOT = Path(salience.__file__).parent
X = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Bent(nn.Module):
    """V f(W x), with values of W x that every f below is defined at."""

    def __init__(self, function) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        self.W = nn.Parameter(0.1 * torch.randn(5, 3, dtype=torch.float64, generator=draw))
        self.V = nn.Parameter(torch.randn(2, 5, dtype=torch.float64, generator=draw))
        self.function = function
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x @ self.W.T) @ self.V.T


def uncovered(net: nn.Module) -> list[str]:
    return salience.record(net, X).coverage("lrp_epsilon").uncovered


def test_a_row_teaches_a_function(monkeypatch: pytest.MonkeyPatch):
    net = Bent(torch.atanh)
    assert uncovered(net) == ["atanh"]
    monkeypatch.setitem(kinds.ROWS, "atanh", row("activation", "elementwise zero"))
    assert uncovered(net) == []
    u = X @ net.W.T  # (B, 5)
    share = torch.atanh(u) / u * net.V[1]
    fact = X * (share @ net.W)
    maps = salience.record(net, X).explain("lrp_epsilon", 1, eps=1e-12)
    torch.testing.assert_close(maps.as_subclass(Tensor), fact.detach(), rtol=1e-6, atol=1e-9)


TAUGHT = {
    "tanh": torch.tanh,
    "clamp_min": lambda u: u.clamp_min(0),
    "mul": lambda u: u * torch.sigmoid(u @ torch.ones(5, 5, dtype=u.dtype)),
    "softmax": lambda u: u.softmax(-1),
    "layer_norm": lambda u: nn.functional.layer_norm(u, (5,)),
    "lerp": lambda u: torch.lerp(u, u.exp(), 0.3),
    "addmm": lambda u: torch.addmm(u[0], u, torch.ones(5, 5, dtype=u.dtype)),
    "glu": lambda u: nn.functional.glu(torch.cat([u, u], -1)),
    "permute": lambda u: u.permute(1, 0).permute(1, 0),
    "gather": lambda u: u.gather(1, torch.zeros(4, 5, dtype=torch.long)),
    "scatter_reduce": lambda u: u.scatter_reduce(1, torch.zeros(4, 1, dtype=torch.long), u, "sum"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAUGHT)
def test_without_its_row_a_function_is_not_known(name: str, monkeypatch: pytest.MonkeyPatch):
    net = Bent(TAUGHT[name])
    assert name not in uncovered(net)
    monkeypatch.delitem(kinds.ROWS, name)
    assert name in uncovered(net)


def test_a_question_is_no_computation_because_its_row_says_so(monkeypatch: pytest.MonkeyPatch):
    net = Bent(lambda u: u if u.sum().item() else -u)
    assert salience.record(net, X).recording.trace.branches
    monkeypatch.delitem(kinds.ROWS, "item")
    assert not salience.record(net, X).recording.trace.branches


def test_each_name_has_one_row():
    names = [name for names in kinds._TABLE for name in names.split()]
    assert sorted(names) == sorted(set(names)) == sorted(kinds.ROWS)


def test_a_row_of_an_unknown_trait_is_refused():
    with pytest.raises(TypeError, match="elementwse"):
        row("activation", "elementwse zero")


def test_the_example_for_contributors_is_a_line_of_the_table():
    text = (ROOT.parents[1] / "CONTRIBUTING.md").read_text()
    recipe = text.partition("## Teaching it a function of torch")[2].partition("\n## ")[0]
    (line,) = [line for line in recipe.splitlines() if line.startswith("    ")]
    assert line in (ROOT / "_operations" / "kinds.py").read_text().splitlines()


def lists_of_functions(source: str) -> Iterator[set[str]]:
    """The names of torch's functions in each list, table or string of names, but not in prose."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value.split()
        elif isinstance(node, ast.Dict | ast.Set | ast.Tuple | ast.List):
            items = node.keys if isinstance(node, ast.Dict) else node.elts
            words = [item.value for item in items if isinstance(item, ast.Constant)]
        else:
            continue
        found = {word for word in words if isinstance(word, str)} & kinds.ROWS.keys()
        if 2 * len(found) > len(words):
            yield found


def test_no_other_file_lists_functions():
    for room in ("_operations", "_recording"):
        for file in (ROOT / room).glob("*.py"):
            if file.name not in ("kinds.py", "rows.py"):
                for found in lists_of_functions(file.read_text()):
                    assert len(found) < 4, (file, found)


def test_a_list_of_functions_is_seen():
    for source in ("'relu gelu silu tanh'.split()", "('add', 'sub', 'mul', 'exp')"):
        assert len(next(lists_of_functions(source))) == 4
    assert not list(lists_of_functions('"Names add to the sum of names."'))
