"""The same network as an ONNX file explains to the same maps; the operators one by one."""

import importlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from file_nets import Attention, Residual, assert_same_maps, export_onnx, images, make, standardized
from torch import nn
from torch.nn import functional as F

import salience
from salience import SalienceError
from salience.models import image_layout, load_model

pytest.importorskip("onnx")

KINDS = (Residual, Attention)
# The exporter folds BatchNorm into the convolutions in float32, and alpha-beta divides by sums of
# positive parts that may be small; in float64 the maps are the same to 1e-9.
FOLDED = 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["new", "old", "opset 17"])
def test_onnx(tmp_path, kind, form):
    net, x = make(kind, torch.float64), images(dtype=torch.float64)
    loaded = load_model(str(export_onnx(net, tmp_path / "net.onnx", form, x)))
    assert_same_maps(net, loaded, x)
    assert image_layout(loaded) == (3, False)


@pytest.mark.parametrize("form", ["new", "old"])
def test_standardized_weights_are_not_in_training_mode(tmp_path, form):
    net, x = standardized(), images(dtype=torch.float64)
    loaded = load_model(str(export_onnx(net, tmp_path / "net.onnx", form, x)))
    assert_same_maps(net, loaded, x)


def test_statistics_of_the_batch_are_refused(tmp_path):
    onnx = importlib.import_module("onnx")
    helper, held = onnx.helper, np.ones(3, np.float32)
    weights = [onnx.numpy_helper.from_array(held, name) for name in "sbmv"]
    node = helper.make_node("BatchNormalization", ["x", *"sbmv"], ["y", "", ""], training_mode=1)
    ends = [[helper.make_tensor_value_info(name, 1, ["n", 3, 4])] for name in "xy"]
    graph = helper.make_graph([node], "net", *ends, weights)
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.save(model, tmp_path / "n.onnx")
    with pytest.raises(SalienceError, match="eval mode; got BatchNormalization in training mode"):
        load_model(str(tmp_path / "n.onnx"))


def test_onnx_in_single_precision(tmp_path):
    net, x = make(), images()
    loaded = load_model(str(export_onnx(net, tmp_path / "net.onnx", "old", x)))
    assert_same_maps(net, loaded, x, rtol=FOLDED)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fixed_batch_runs_other_batches_part_by_part(tmp_path, kind):
    net, x = make(kind, torch.float64), images(4, torch.float64)
    loaded = load_model(str(export_onnx(net, tmp_path / "net.onnx", "fixed", x[:2])))
    assert_same_maps(net, loaded, x)
    for count in (1, 2, 3):
        assert_same_maps(net, loaded, x[:count])


def test_stages_and_an_untouched_network(tmp_path):
    net, x = make(), images()
    loaded = load_model(str(export_onnx(net, tmp_path / "net.onnx", "old", x)))
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    study = salience.randomization_test(
        loaded, x, ["gradient"], 1, cascade=salience.Cascade(repeats=1)
    ).data
    assert len(study["stage"]) == 4
    after = loaded.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module.training for module in loaded.modules())


class Several(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)), 2 * x.sum((2, 3))


def test_several_outputs(tmp_path):
    x = images()
    outputs = load_model(str(export_onnx(Several(), tmp_path / "net.onnx", "old", x)))(x)
    first, second = outputs.values()
    torch.testing.assert_close(first, x.mean((2, 3)))
    torch.testing.assert_close(second, 2 * x.sum((2, 3)))


class Written(nn.Module):
    """Writes into a slice of its tokens."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x):
        h = torch.relu(self.conv(x))
        h[:, :, 1:5, ::2] = 2 * h[:, :, 1:5, ::2]
        return self.head(h.mean((2, 3)))


class Recurrent(nn.Module):
    """An LSTM or a GRU over the rows of an image."""

    def __init__(self):
        super().__init__()
        self.layer = self.kind(24, 6, batch_first=True, num_layers=2, bidirectional=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        rows = x.permute(0, 2, 1, 3).flatten(2)
        return self.head(self.layer(rows)[0][:, -1])


class Lstm(Recurrent):
    kind = nn.LSTM


class Gru(Recurrent):
    kind = nn.GRU


@pytest.mark.parametrize("kind", [Written, Lstm, Gru])
def test_writes_and_recurrent_layers(tmp_path, kind):
    net, x = make(kind, torch.float64), images(dtype=torch.float64)
    loaded = load_model(str(export_onnx(net, tmp_path / "net.onnx", "opset 17", x)))
    assert_same_maps(net, loaded, x)


class Folded(nn.Module):
    """Puts windows of an image beside each other, and adds them up again."""

    def __init__(self):
        super().__init__()
        self.mix, self.head = nn.Conv1d(18, 18, 1), nn.Linear(2 * 64, 5)

    def forward(self, x):
        windows = F.unfold(x[:, :2], 3, padding=1, dilation=1, stride=2)
        y = F.fold(torch.relu(self.mix(windows)), (8, 8), 3, padding=1, stride=2)
        return self.head(torch.relu(y).flatten(1))


@pytest.mark.parametrize("form", ["new", "old"])
def test_windows_that_are_added_up(tmp_path, form):
    net, x = make(Folded, torch.float64), images(dtype=torch.float64)
    assert_same_maps(net, load_model(str(export_onnx(net, tmp_path / "net.onnx", form, x))), x)


def branching(file, on_values):
    """relu(x) or 2 relu(x) summed over places: by the sizes of x, or by a value of it."""
    from onnx import TensorProto, helper, numpy_helper, save

    def node(kind, reads, writes, **settings):
        return helper.make_node(kind, reads.split(), writes.split(), **settings)

    def constant(name, value):
        return numpy_helper.from_array(np.array(value), name)

    def value(name, shape, kind=TensorProto.DOUBLE):
        return helper.make_tensor_value_info(name, kind, shape)

    shape = ("n", 3, "h", 8)
    yes = helper.make_graph([node("Mul", "r two", "y1")], "yes", [], [value("y1", shape)],
                            [constant("two", 2.0)])  # fmt: skip
    no = helper.make_graph([node("Identity", "r", "y2")], "no", [], [value("y2", shape)])
    height = [node("ReduceMax", "x", "m", keepdims=0), node("Greater", "m zero", "c")]
    if not on_values:
        height = [node("Shape", "x", "s", start=2, end=3), node("Squeeze", "s", "h"),
                  node("Greater", "h eight", "c")]  # fmt: skip
    nodes = [node("Relu", "x", "r"), *height,
             node("If", "c", "y", then_branch=yes, else_branch=no),
             node("ReduceSum", "y axes", "out", keepdims=0)]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [value("x", shape)], [value("out", ("n", 3))],
        [constant("zero", 0.0), constant("eight", 8), constant("axes", [2, 3])],
    )  # fmt: skip
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), file)
    return str(file)


@pytest.mark.parametrize(("height", "factor"), [(8, 1), (9, 2)])
def test_if_takes_the_branch_that_the_shapes_tell(tmp_path, height, factor):
    loaded = load_model(branching(tmp_path / "net.onnx", on_values=False))
    x = torch.randn(2, 3, height, 8, dtype=torch.float64)
    torch.testing.assert_close(loaded(x), factor * torch.relu(x).sum((2, 3)))
    found = salience.explain(loaded, x, "gradient", target=1)["gradient"]
    wanted = torch.zeros_like(x)
    wanted[:, 1] = factor * (x[:, 1] > 0)
    torch.testing.assert_close(torch.as_tensor(found), wanted)


def test_if_on_the_values_of_the_input_is_refused(tmp_path):
    with pytest.raises(salience.SalienceError, match="If whose condition is constant"):
        load_model(branching(tmp_path / "net.onnx", on_values=True))


# -- operators: the vectors that ONNX itself tests with -------------------------------------------

MODULES = """
abs add argmax averagepool batch_normalization cast ceil celu clip col2im concat constant
constantofshape conv convtranspose cumsum depthtospace div dropout einsum elu equal erf exp expand
flatten floor gather gatherelements gathernd gelu gemm globalaveragepool globalmaxpool greater
greater_or_equal gru groupnormalization hardsigmoid hardswish identity instance_normalization
layernormalization leakyrelu less less_or_equal log logsoftmax lrn lstm matmul max maxpool mean min
mish mul neg pad pow prelu rangeop reciprocal reduce_log_sum_exp reducel1 reducel2 reducemax
reducemean reducemin reduceprod reducesum reducesumsquare relu reshape resize rmsnormalization round
scatternd selu shape sigmoid sign size slice softmax softplus softsign spacetodepth split sqrt
squeeze sub sum tanh tile transpose trilu unsqueeze upsample where
""".split()
# Cases of training, of a second output that is left out, and of empty or absent values.
LEFT_OUT = ("training", "_mask", "argmax_2d", "identity_opt", "identity_sequence", "empty_set")


def outputs_of(case):
    """The outputs of a case by our operators, and as ONNX has them; None: not for tensors."""
    from salience.models._onnx.graph import DOMAINS, _nodes
    from salience.models._onnx.operators import OPERATORS
    from salience.models._onnx.tensors import reader

    graph = case.model.graph
    known = {node.op_type for node in graph.node} <= OPERATORS.keys() | {"Constant"}
    if not known or any(node.domain for node in graph.node):
        return None
    opset = next(o.version for o in case.model.opset_import if o.domain in DOMAINS)
    given, wanted = case.data_sets[0]
    try:
        arrays = zip(graph.input, given, strict=True)
        values = {item.name: torch.from_numpy(np.array(array)) for item, array in arrays}
    except (TypeError, ValueError):  # text, sequences, float8
        return None
    values[""] = None
    for node in _nodes(graph, {output.name for output in graph.output}, reader(Path())):
        result = node.run([values[name] for name in node.inputs], node.attributes, opset)
        results = result if isinstance(result, tuple) else (result,)
        values.update(zip(node.outputs, results, strict=False))
    return [(values[o.name], w) for o, w in zip(graph.output, wanted, strict=True)
            if o.name in values]  # fmt: skip


def test_operators_against_the_vectors_of_onnx():
    """Every case either gives what ONNX says or is refused in words; none is silently wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in MODULES:
            importlib.import_module(f"onnx.backend.test.case.node.{module}")
    cases = importlib.import_module("onnx.backend.test.case.node")._NodeTestCases
    right, refused = 0, 0
    for case in cases:
        if any(part in case.name for part in LEFT_OUT):
            continue
        try:
            pairs = outputs_of(case)
        except NotImplementedError:
            refused += 1
            continue
        for found, wanted in pairs or ():
            assert tuple(found.shape) == wanted.shape, case.name
            np.testing.assert_allclose(
                found.numpy().astype(float), wanted.astype(float), rtol=1e-3, atol=1e-4,
                err_msg=case.name,
            )  # fmt: skip
        right += pairs is not None
    assert right > 650
    assert refused < 120  # unsigned integers, and rare settings of Resize and pooling


def test_statistics_that_are_made_of_weights(tmp_path):
    """As standardised weights have them, which exporters write as a BatchNormalization."""
    from onnx import TensorProto, helper, numpy_helper, save

    generator = torch.Generator().manual_seed(3)
    names = ("scale", "bias", "mean", "variance")
    held = {n: torch.rand(3, generator=generator, dtype=torch.float64) + 0.5 for n in names}
    nodes = [helper.make_node("Mul", ["mean", "two"], ["m"]),
             helper.make_node("Mul", ["variance", "two"], ["v"]),
             helper.make_node("BatchNormalization", ["x", "scale", "bias", "m", "v"], ["y"]),
             helper.make_node("Relu", ["y"], ["out"])]  # fmt: skip
    constants = [numpy_helper.from_array(t.numpy(), n) for n, t in held.items()]
    constants.append(numpy_helper.from_array(np.array(2.0), "two"))
    ends = [
        helper.make_tensor_value_info(n, TensorProto.DOUBLE, ("n", 3, 8, 8)) for n in ("x", "out")
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "n.onnx")
    loaded, x = load_model(str(tmp_path / "n.onnx")), images(dtype=torch.float64)
    scale, bias, mean, variance = held.values()
    wanted = torch.relu(torch.nn.functional.batch_norm(x, 2 * mean, 2 * variance, scale, bias))
    torch.testing.assert_close(loaded(x).detach(), wanted)  # with autograd watching
    found = salience.explain(loaded, x, "gradient", target=lambda y: y.flatten(1).sum(1))
    slope = (scale / (2 * variance + 1e-5).sqrt()).view(3, 1, 1)
    torch.testing.assert_close(found["gradient"], (wanted > 0) * slope)
