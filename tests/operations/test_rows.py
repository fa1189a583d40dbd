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


# ---------------------------------------------------------------- signs

SHAPES = {"1d": (2, 4, 6), "2d": (2, 4, 6, 6), "3d": (2, 4, 4, 4, 4)}
FIRST = torch.tensor([0, 1])
# the arguments after x, where there are any
ARGUMENTS: dict[str, tuple] = {
    "add mul multiply": (2.0,), "div divide true_divide": (3.0,),
    "where": (), "masked_fill": (torch.tensor(True), 0.5),
    "softmax _softmax _safe_softmax": (1,), "_softmax": (1, False),
    "view reshape": (-1,), "unflatten": (1, (2, 2)), "squeeze unsqueeze": (0,),
    "permute": ((1, 0, 2, 3),), "transpose swapaxes swapdims movedim moveaxis": (0, 1),
    "type": (torch.float64,), "to": (torch.float64,),
    "expand broadcast_to": ((3, 2, 4, 6, 6),), "as_strided": ((2, 2), (1, 1)),
    "repeat": (2, 1, 1, 1), "repeat_interleave": (2,), "tile": ((2,),),
    "chunk": (2,), "split": (1,), "split_with_sizes": ((1, 1),), "tensor_split": (2,),
    "unfold": (1, 2, 1), "narrow": (0, 0, 1), "select": (0, 1), "slice": (0, 0, 1),
    "masked_select": (torch.tensor(True),), "roll": (1,), "flip": ((0,),),
    "pad": ((1, -1),), "constant_pad_nd": ((1, 1), 0.5),
    "pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle": (2,),
    "dropout dropout1d dropout2d dropout3d": (0.5, False),
    "gather": (0, torch.zeros(2, 4, 6, 6, dtype=torch.long)), "take": (FIRST,),
    "take_along_dim": (torch.zeros(2, 4, 6, 6, dtype=torch.long), 0), "index": ([FIRST],),
    "index_select": (0, FIRST), "__getitem__": (0,), "cumsum": (0,),
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d": (2,),
    "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices": (2,),
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d": (2,),
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d": (2,),
    "upsample_nearest1d": ([3],), "upsample_nearest2d": ([3, 9],),
    "upsample_linear1d": ([9], False),
    "upsample_nearest3d": ([3, 9, 4],), "upsample_bilinear2d": ([3, 9], False),
    "upsample_trilinear3d": ([3, 9, 4], True),
}  # fmt: skip
GIVEN = {name: given for names, given in ARGUMENTS.items() for name in names.split()}
OF_LISTS = "cat concat concatenate stack hstack vstack dstack".split()
MATRICES, PROPERTIES = "t T mT numpy_T tril triu".split(), "T mT".split()


def given_back(name: str, x: Tensor) -> list[Tensor]:
    """What a function of torch gives for x, whatever it is spelled like."""
    if name == "where":
        return [torch.where(x > 0.5, x, 0.25)]
    if name in PROPERTIES:
        return [getattr(x, name)]
    if name == "numpy_T":
        return [x.T]
    places = (torch, nn.functional, torch.Tensor, torch.ops.aten, torch.special)
    functions = [getattr(place, name) for place in places if hasattr(place, name)]
    argument = [x, x] if name in OF_LISTS else x
    for function in functions:
        try:
            found = function(argument, *GIVEN.get(name, ()))
        except TypeError:  # another spelling takes these arguments
            continue
        return list(found) if isinstance(found, tuple | list) else [found]
    raise AssertionError(f"no call of {name}")


def an_input(name: str) -> Tensor:
    shape = next((s for part, s in SHAPES.items() if part in name), SHAPES["2d"])
    shape = (4, 5) if name in MATRICES else shape
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", [n for n, r in kinds.ROWS.items() if r.nonnegative])
def test_what_is_said_to_be_never_negative_is_not(name: str):
    x = an_input(name)
    (found,) = given_back(name, x)
    assert bool((x < 0).any()) and bool((found.nan_to_num() >= 0).all())


@pytest.mark.parametrize("name", [n for n, r in kinds.ROWS.items() if r.keeps_sign])
def test_what_is_said_to_keep_signs_makes_no_negative_values(name: str):
    found = given_back(name, an_input(name).abs())
    assert found and all(bool((t >= 0).all()) for t in found)


SIGNED = {
    "a difference": lambda a, b: a - b,
    "minus one": lambda a, b: a + (-1),
    "times minus one": lambda a, b: a * -1.0,
    "alpha": lambda a, b: torch.add(a, b, alpha=-1),
    "a parameter": lambda a, b: a * torch.tensor([-1.0, 1, -1, 1, 1], dtype=a.dtype),
    "a bias": lambda a, b: a + torch.tensor([-1.0, 1, -1, 1, 1], dtype=a.dtype),
    "filled": lambda a, b: a.masked_fill(a > 0.1, -1.0),
    "padded": lambda a, b: nn.functional.pad(a[:, :3], (1, 1), value=-1.0),
    "written": lambda a, b: torch.cat([a[:, :2], b[:, :3].neg()], 1),
    "in place": lambda a, b: a.clone().sub_(b),
    "log": lambda a, b: torch.log_softmax(a, -1),
}


def rectified(t: Tensor) -> Tensor:
    return t * (t > 0)


POSITIVE = {
    "relu": lambda a, b: a,
    "sum": lambda a, b: a + b,
    "gate": lambda a, b: a * torch.sigmoid(b),
    "mean": lambda a, b: (a + b) / 2,
    "clamp": lambda a, b: (a - b).clamp(min=0),
    "in place": lambda a, b: a.clone().add_(b),
    "spelled": lambda a, b: rectified(a - b),
}


def sites(function) -> tuple[bool, bool]:
    """Whether the last linear map of V f(relu(W x), relu(x W)) is known to read nothing negative,
    and whether it does."""
    net = Bent(lambda u: function(u.relu(), u.flip(-1).relu()))
    tape = salience.record(net, X)
    (site,) = [op.site for op in tape.recording.trace.operations if op.kind == "linear"][-1:]
    return site.nonnegative, bool((site.a >= 0).all())


@pytest.mark.parametrize("name", SIGNED)
def test_signs_that_are_not_known_are_not_taken_for_known(name: str):
    known, is_so = sites(SIGNED[name])
    assert not known and not is_so


@pytest.mark.parametrize("name", POSITIVE)
def test_signs_are_known_from_what_made_the_values(name: str):
    assert sites(POSITIVE[name]) == (True, True)


def test_an_input_is_negative_however_little_it_is():
    net = nn.Linear(3, 2).double().eval()
    for least, known in ((0.0, True), (-1e-300, False)):
        tape = salience.record(net, torch.tensor([[least, 1.0, 2.0]], dtype=torch.float64))
        (site,) = [op.site for op in tape.recording.trace.operations if op.kind == "linear"]
        assert site.nonnegative == known
