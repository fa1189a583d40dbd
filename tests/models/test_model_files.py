"""The same network as a .pt2 or a file of weights explains to the same maps."""

import json
import zipfile

import pytest
import torch
from file_nets import Attention, Residual, assert_same_maps, export, images, make, standardized
from safetensors.torch import save_file
from torch import nn

import salience
from salience import SalienceError
from salience.models import image_layout, load_model

KINDS = (Residual, Attention)
DTYPES = (torch.float32, torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["dynamic", "decomposed"])
def test_exported(tmp_path, kind, dtype, form):
    net, x = make(kind, dtype), images(dtype=dtype)
    loaded = load_model(str(export(net, tmp_path / "net.pt2", form, x)))
    assert_same_maps(net, loaded, x)
    assert {n: p.shape for n, p in loaded.named_parameters()} == {
        n: p.shape for n, p in net.named_parameters()
    }
    assert image_layout(loaded) == (3, False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fixed_batch_runs_other_batches_part_by_part(tmp_path, kind):
    net, x = make(kind), images(4)
    loaded = load_model(str(export(net, tmp_path / "net.pt2", "fixed", x[:2])))
    torch.testing.assert_close(loaded(x), net(x))
    assert_same_maps(net, loaded, x)
    for count in (1, 2, 3):
        assert_same_maps(net, loaded, x[:count])
    with pytest.raises(SalienceError, match=r"input \(B, 3, 8, 8\).*got \(2, 3, 9, 9\)"):
        loaded(torch.ones(2, 3, 9, 9))


def test_methods_of_several_passes_with_a_fixed_batch_of_one(tmp_path):
    net, x = make(), images(1)
    loaded = load_model(str(export(net, tmp_path / "net.pt2", "fixed", x)))
    for method in ("smoothgrad", "integrated_gradients"):
        found = salience.explain(loaded, x, method, target=1)[method]
        torch.testing.assert_close(found, salience.explain(net, x, method, target=1)[method])


@pytest.mark.parametrize("kind", KINDS)
def test_safetensors_with_a_factory(tmp_path, kind):
    net, x = make(kind), images()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    loaded = load_model(f"file_nets:{kind.__name__}", tmp_path / "net.safetensors")
    assert_same_maps(net, loaded, x)


def test_the_randomization_test_finds_the_stages(tmp_path):
    net, x = make(), images()
    loaded = load_model(str(export(net, tmp_path / "net.pt2", "dynamic", x)))
    names = [
        salience.randomization_test(
            model, x, ["gradient"], 1, cascade=salience.Cascade(repeats=1)
        ).stages
        for model in (net, loaded)
    ]
    assert names[0] == names[1]


def test_a_loaded_network_is_left_as_it_was(tmp_path):
    x = images()
    loaded = load_model(str(export(make(), tmp_path / "net.pt2", "dynamic", x)))
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    salience.explain(loaded, x, "lrp_alpha_beta", target=1)
    after = loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module.training for module in loaded.modules())
    assert all(p.requires_grad and p.grad is None for p in loaded.parameters())


def test_moving_and_loading_reach_what_runs(tmp_path):
    net, x = make(), images()
    loaded = load_model(str(export(net, tmp_path / "net.pt2", "dynamic", x))).double()
    torch.testing.assert_close(loaded(x.double()), net.double()(x.double()))
    other = {name: tensor + 1 for name, tensor in net.state_dict().items()}
    loaded.load_state_dict(other)
    net.load_state_dict(other)
    torch.testing.assert_close(loaded(x.double()), net(x.double()))


def test_weights_of_its_own_for_an_exported_network(tmp_path):
    net, x = make(), images()
    file = export(net, tmp_path / "net.pt2", "dynamic", x)
    nn.init.zeros_(net.head.weight)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    loaded = load_model(str(file), tmp_path / "w.safetensors")
    torch.testing.assert_close(loaded(x), net(x))


class Several(nn.Module):
    def forward(self, x):
        return {"first": x.mean((2, 3)), "second": 2 * x.sum((2, 3))}


def test_the_names_of_several_outputs(tmp_path):
    x = images()
    outputs = load_model(str(export(Several(), tmp_path / "net.pt2", "dynamic", x)))(x)
    assert list(outputs) == ["first", "second"]
    torch.testing.assert_close(outputs["first"], x.mean((2, 3)))
    torch.testing.assert_close(outputs["second"], 2 * x.sum((2, 3)))


class Sizes(nn.Module):
    """Arithmetic on dynamic sizes."""

    def forward(self, x):
        tokens = x.reshape(x.shape[0], 3, -1)
        return tokens.view(x.shape[0] * 3, tokens.shape[2]).view(x.shape[0], -1)[:, : x.shape[2]]


def test_dynamic_sizes(tmp_path):
    x = images()
    any_size = torch.export.Dim.DYNAMIC
    program = torch.export.export(Sizes(), (x,), dynamic_shapes=({0: any_size, 2: any_size},))
    torch.export.save(program, tmp_path / "net.pt2")
    loaded = load_model(str(tmp_path / "net.pt2"))
    other = torch.randn(2, 3, 5, 8)
    assert torch.equal(loaded(other), Sizes()(other))


class Casting(nn.Module):
    """Casts to what a value is already; torch.export asserts their dtype and device."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x):
        h = torch.relu(self.conv(x.to(self.conv.weight.dtype)))
        h = h.to(torch.float64) if h.dtype == torch.float64 else h.float()
        return self.head(h.mean((2, 3)).to(self.head.weight))


class InstanceNorms(nn.Module):
    """Normalises by each sample's own statistics, which eval mode does not change."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True)
        self.conv2, self.norm2 = nn.Conv2d(8, 6, 3), nn.InstanceNorm2d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        h = torch.relu(self.norm(self.conv(x)))
        return self.head(torch.relu(self.norm2(self.conv2(h))).mean((2, 3)))


@pytest.mark.parametrize("kind", [Casting, InstanceNorms])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["dynamic", "decomposed", "fixed"])
def test_casts_and_statistics_of_the_sample(tmp_path, kind, dtype, form):
    net, x = make(kind, dtype), images(4, dtype)
    loaded = load_model(str(export(net, tmp_path / "net.pt2", form, x)))
    assert_same_maps(net, loaded, x)


def test_a_cast_of_the_export_does_not_hold_the_network_to_its_dtype(tmp_path):
    class Plain(nn.Module):
        def forward(self, x):
            return x.to(x.dtype).mean((2, 3))

    loaded = load_model(str(export(Plain(), tmp_path / "net.pt2", "dynamic", images()))).double()
    x = images(dtype=torch.float64)
    torch.testing.assert_close(loaded(x).double(), x.mean((2, 3)), rtol=1e-6, atol=1e-6)


# -- what is no model -----------------------------------------------------------------------------


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return nn.functional.dropout(self.norm(x), 0.5, self.training).mean((2, 3))


@pytest.mark.parametrize("form", ["dynamic", "decomposed"])
@pytest.mark.parametrize("norm", [
    nn.BatchNorm2d(3, track_running_stats=False),
    nn.InstanceNorm2d(3, track_running_stats=True).train(),
])  # fmt: skip
def test_statistics_of_the_batch_and_updates_of_statistics_are_refused(tmp_path, norm, form):
    net = nn.Sequential(norm, nn.Flatten(), nn.Linear(192, 5))
    file = export(net, tmp_path / "net.pt2", form, images())
    with pytest.raises(SalienceError, match=r"exported in eval mode; got .* in training mode"):
        load_model(str(file))


@pytest.mark.parametrize("form", ["dynamic", "decomposed"])
def test_standardized_weights_are_not_in_training_mode(tmp_path, form):
    net, x = standardized(), images(dtype=torch.float64)
    loaded = load_model(str(export(net, tmp_path / "net.pt2", form, x)))
    for model in (loaded, torch.export.export(net, (x,)).module()):
        for method in ("gradient", "lrp_alpha_beta"):
            found, wanted = (salience.record(m, x).explain(method, 1) for m in (model, net))
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=0)


def test_training_mode_is_refused(tmp_path):
    file = export(Dropping().train(), tmp_path / "net.pt2", "dynamic", images())
    with pytest.raises(SalienceError, match=r"exported in eval mode; got aten.dropout.*training"):
        load_model(str(file))


class Quiet(nn.Module):
    def forward(self, x):
        with torch.no_grad():
            y = x * 2
        return (x + y).mean((2, 3))


def test_operators_of_another_library_are_refused(tmp_path):
    file = export(Quiet(), tmp_path / "net.pt2", "dynamic", images())
    with pytest.raises(SalienceError, match=r"expected operators of torch.*higher_order"):
        load_model(str(file))


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated
@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("n.pt", lambda f: torch.jit.save(torch.jit.trace(make(), images()), f),
         "a TorchScript archive: it runs outside of Python.*torch.export.save"),
        ("n.pt2", lambda f: torch.jit.save(torch.jit.trace(make(), images()), f),
         "it is a TorchScript archive"),
        ("n.pt", lambda f: torch.save(make(), f), "which can run any code.*refused.*--weights"),
        ("n.pth", lambda f: torch.save(make().state_dict(), f), "weights without their network"),
        ("n.safetensors", lambda f: save_file(make().state_dict(), f), "Weights alone"),
        ("n.h5", lambda f: f.write_bytes(b"x"), r"model.save\('net.keras'\)"),
        ("n.py", lambda f: f.write_text("x = 1"), "Name the function too"),
        ("n.xyz", lambda f: f.write_bytes(b"x"), "expected a model 'file.py:factory'"),
        ("n.pt2", lambda f: None, "which is not there"),
        ("n.onnx", lambda f: None, "which is not there"),
    ],
)  # fmt: skip
def test_files_that_are_no_models(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(SalienceError, match=message):
        load_model(str(tmp_path / name))


def test_a_colon_in_a_path_is_no_factory(tmp_path):
    folder = tmp_path / "C:" / "runs:3"
    folder.mkdir(parents=True)
    x = images()
    export(make(), folder / "net.pt2", "dynamic", x)
    torch.testing.assert_close(load_model(str(folder / "net.pt2"))(x), make()(x))
    with pytest.raises(SalienceError, match=r"C:/x.onnx, which is not there"):
        load_model("C:/x.onnx")


def test_a_file_of_an_older_torch_is_named_as_such(tmp_path):
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", json.dumps({}))
    with pytest.raises(SalienceError, match=r"saved by a torch before 2\.8"):
        load_model(str(tmp_path / "old.pt2"))
