"""What a .pt2 may call: a listed operator that computes, with arguments of its schema's kinds."""

import zipfile

import pytest
import torch
from file_nets import export, images, make
from limits import within
from test_untrusted_files import MODEL, described, write

from salience import SalienceError
from salience.models import load_model
from salience.models._exported.admitted import SAFE_FORMS, in_pieces, picked

REFUSED = """
_reshape_alias.default as_strided_copy.default set_.source_Tensor resize_.default
resize_as.default empty_strided.default new_empty.default empty_like.default relu.out add.out
_softmax.out convolution_backward.default _softmax_backward_data.default native_batch_norm.out
_print.default from_file.default save.default _foreach_add.List _pack_padded_sequence.default
_test_parallel_materialize.default _make_dep_token.default fbgemm_pack_gemm_matrix_fp16.default
mkldnn_linear.default quantize_per_tensor.default to_sparse.default randn.default bernoulli.p
_nested_view_from_buffer.default unsafe_split.Tensor_out mul.left_t add.str len.t _version.default
_resize_output_.default lift.default data.default set_data.default record_stream.default
to.prim_Device to.prim_dtype copy_.Tensor einsum.sublist index.Tensor_hacked_twin
""".split()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    file = export(make(), tmp_path_factory.mktemp("good") / "net.pt2", "dynamic", images())
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def first(**change):
    return lambda held: held["graph_module"]["graph"]["nodes"][0].update(change)


@pytest.mark.parametrize("name", REFUSED)
def test_operators_that_are_not_listed(tmp_path, good, name):
    records = described(good, MODEL, first(target=f"torch.ops.aten.{name}"))
    with pytest.raises(SalienceError, match=r"operators of torch \(torch.ops.aten\)"):
        load_model(str(write(tmp_path / "net.pt2", records)))


def item(name, kind, held, position):
    return {"name": name, "arg": {f"as_{kind}": held}, "kind": position}


@pytest.mark.parametrize(
    ("target", "arguments", "got"),
    [
        ("_to_copy.default", [("dtype", "int", 99, 2)], "dtype given as int"),
        ("_to_copy.default", [("dtype", "scalar_type", True, 2)], "dtype given as scalar_type"),
        ("_to_copy.default", [("memory_format", "int", 3, 2)], "memory_format given as int"),
        ("flatten.using_ints", [("start_dim", "float", 1.0, 1)], "start_dim given as float"),
        ("flatten.using_ints", [("start_dim", "bool", True, 1)], "start_dim given as bool"),
        ("flatten.using_ints", [("start_dim", "int", True, 1)], "start_dim given as int"),
        ("flatten.using_ints", [("start_dim", "int", 2**63, 1)], "start_dim given as int"),
        ("view.default", [("size", "ints", [1, "2"], 1)], "size given as ints"),
        ("view.default", [("size", "scalar_type", 1, 1)], "size given as scalar_type"),
        ("softmax.int", [("dim", "sym_int", {"as_int": 1.5}, 1)], "dim given as sym_int"),
        ("relu.default", [("other", "int", 1, 1)], "arguments that it does not have"),
        ("relu.default", [("other", "int", 1, 2)], "arguments that it does not have"),
        ("gelu.default", [("approximate", "ints", [1], 2)], "approximate given as ints"),
    ],
)
def test_arguments_of_another_kind(tmp_path, good, target, arguments, got):
    x = {"name": "self", "arg": {"as_tensor": {"name": "x"}}, "kind": 1}
    more = [item(*argument) for argument in arguments]
    change = first(target=f"torch.ops.aten.{target}", inputs=[x, *more])
    records = described(good, MODEL, change)
    with pytest.raises(SalienceError, match=f"as its schema has them; got {got}"):
        load_model(str(write(tmp_path / "net.pt2", records)))


def test_a_number_that_names_a_tensor(tmp_path, good):
    """A name is looked up when the network runs: what it holds must be of the kind told."""
    inputs = [
        {"name": "self", "arg": {"as_tensor": {"name": "x"}}, "kind": 1},
        {"name": "start_dim", "arg": {"as_sym_int": {"as_name": "x"}}, "kind": 1},
    ]
    change = first(target="torch.ops.aten.flatten.using_ints", inputs=inputs)
    loaded = load_model(str(write(tmp_path / "net.pt2", described(good, MODEL, change))))
    with pytest.raises(SalienceError, match="a number"):
        loaded(images())


aten = torch.ops.aten
LONG, NONE = torch.ones(1).expand(2**40), torch.ones(0)
CUTS = [
    (aten.tensor_split.sections, (torch.ones(6), 2**31)),
    (aten.tensor_split.tensor_indices_or_sections, (torch.ones(6), torch.tensor(2**31))),
    (aten.chunk.default, (NONE, 2**31)), (aten.chunk.default, (LONG, 2**31)),
    (aten.unsafe_chunk.default, (NONE, 2**31)), (aten.split.Tensor, (LONG, 1)),
    (aten.unsafe_split.Tensor, (LONG, 1)), (aten.unbind.int, (LONG,)),
]  # fmt: skip


@pytest.mark.parametrize(("cut", "given"), CUTS, ids=str)
def test_more_pieces_than_a_file_names(cut, given):
    """Each is made by itself, though none takes memory of its own: hours for a number in a file."""
    with within(20, gigabytes=1), pytest.raises(SalienceError, match="2 results, as the file n"):
        in_pieces(cut, 2)(*given)
    x = torch.arange(6.0).reshape(2, 3)
    right = [2] * (len(given) - 1)
    if cut is aten.tensor_split.tensor_indices_or_sections:
        right = [torch.tensor([1])]
    for found, wanted in zip(in_pieces(cut, 2)(x, *right), cut(x, *right), strict=True):
        assert torch.equal(found, wanted)


def test_pieces_that_a_file_does_not_name_are_not_made(tmp_path, good):
    x = {"name": "self", "arg": {"as_tensor": {"name": "x"}}, "kind": 1}
    names = {"as_tensors": [{"name": "conv2d"}, {"name": "other"}]}
    change = first(target="torch.ops.aten.tensor_split.sections", outputs=[names],
                   inputs=[x, item("sections", "int", 2**31, 1)])  # fmt: skip
    loaded = load_model(str(write(tmp_path / "net.pt2", described(good, MODEL, change))))
    with within(20, gigabytes=1), pytest.raises(SalienceError, match="2 results, as the file n"):
        loaded(images())


class Padded(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.pad(x, (1, 1, 1, 1), mode="circular").flatten(1)


def test_a_fresh_tensor_holds_zeros(tmp_path):
    """Decomposed programs fill an empty tensor piece by piece: it shows no old memory."""
    x = images()
    loaded = load_model(str(export(Padded(), tmp_path / "net.pt2", "decomposed", x)))
    torch.testing.assert_close(loaded(x), Padded()(x))


@pytest.mark.parametrize(("size", "stride", "offset"), [
    ([2, 3], [3, 1], 0), ([3, 2], [1, 3], 0), ([2, 2], [2, 1], 1), ([4], [0], 5),
    ([0, 3], [3, 1], 0),
])  # fmt: skip
def test_a_layout_of_a_tensors_own_entries(size, stride, offset):
    x = torch.arange(6.0)
    assert torch.equal(picked(x, size, stride, offset), x.as_strided(size, stride, offset))


@pytest.mark.parametrize(("size", "stride", "offset"), [
    ([2, 3], [3, 1], 1), ([2, 3], [4, 1], 0), ([7], [0], 0), ([2], [1], -1),
    ([10**9, 10**9], [0, 0], 0),
    ([2], [-1], 0), ([-1, -1], [1, 1], 0), ([2], [1, 1], 0),
])  # fmt: skip
def test_a_layout_beyond_a_tensor_is_refused(size, stride, offset):
    with pytest.raises(SalienceError, match="inside of a tensor"):
        picked(torch.arange(6.0), size, stride, offset)


@pytest.mark.parametrize("name", ["_weight_norm", "_weight_norm_interface"])
@pytest.mark.parametrize(("norms", "dim"), [
    ((0, 2), 0), ((1, 1), 0), ((3, 1), 1), ((2, 1), 0), ((3, 1), 7), ((3, 1), -3),
])  # fmt: skip
def test_a_weight_with_fewer_norms_than_rows_is_refused(name, norms, dim):
    """Torch reads as many as there are rows, wherever they are."""
    operator = getattr(torch.ops.aten, name).default
    safe, v = SAFE_FORMS[operator], torch.randn(3, 4)
    with pytest.raises(SalienceError, match="a norm for each row"):
        safe(v, torch.ones(norms), dim)
    for g, way in ((torch.ones(3, 1), 0), (torch.ones(1, 4), 1)):
        torch.testing.assert_close(safe(v, g, way), operator(v, g, way))
