"""Networks by name and inputs by path: what loads, and what is refused with which words."""

import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from salience import SalienceError
from salience._cli.inputs import load_inputs
from salience.models import check_batch, load_model

FACTORY = """
from torch import nn
from helper import WIDTH

def net():
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3), nn.BatchNorm2d(WIDTH), nn.Flatten(),
                         nn.Linear(WIDTH * 36, 5))

def needs(argument): return argument
def broken(): raise KeyError("depth")
def number(): return 3
ready = nn.Linear(2, 2)
"""


@pytest.fixture
def factory(tmp_path):
    (tmp_path / "factory.py").write_text(FACTORY)
    (tmp_path / "helper.py").write_text("WIDTH = 4\n")
    return f"{tmp_path}/factory.py"


# -- networks -------------------------------------------------------------------------------------


def test_a_file_with_a_sibling_import_in_eval_mode(factory):
    model = load_model(f"{factory}:net")
    assert not any(module.training for module in model.modules())


def test_a_package_module():
    assert isinstance(load_model("torch.nn:Identity"), nn.Identity)


def test_random_weights_follow_the_seed_and_leave_the_generator_alone(factory):
    before = torch.get_rng_state()
    first, same, other = (load_model(f"{factory}:net", seed=s)[0].weight for s in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("factory.py", "expected a model 'file.py:factory'"),
        (":net", "expected a model 'file.py:factory'"),
        ("nowhere.py:net", "expected a Python file; got nowhere.py, which is not there"),
        ("no_such_package.nets:net", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("{}:nett", r"expected a factory 'nett'.*It defines: net, needs, broken, number"),
        ("{}:needs", "missing 1 required positional argument"),
        ("{}:broken", r"KeyError: 'depth' \(.*factory.py, line 10\)"),
        ("{}:number", "expected a torch.nn.Module from number"),
        ("{}:ready", "expected a function ready.*got a Linear"),
    ],
)
def test_what_is_no_factory(factory, spec, message):
    with pytest.raises(SalienceError, match=message):
        load_model(spec.format(factory))


def test_a_device_that_is_not_there(factory):
    with pytest.raises(SalienceError, match="expected a device that this machine has"):
        load_model(f"{factory}:net", device="nonsense")


@pytest.mark.parametrize("form", ["safetensors", "pt", "pth", "state_dict", "model"])
def test_weights_in_every_form(factory, tmp_path, form):
    state = {name: torch.randn_like(t) if t.is_floating_point() else t
             for name, t in load_model(f"{factory}:net").state_dict().items()}  # fmt: skip
    file = tmp_path / f"weights.{form if form in ('safetensors', 'pt', 'pth') else 'pt'}"
    if form == "safetensors":
        save_file(state, file)
    else:
        torch.save({form: state, "epoch": 3} if form in ("state_dict", "model") else state, file)
    loaded = load_model(f"{factory}:net", file).state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_tied_weights_that_a_file_holds_once(tmp_path):
    (tmp_path / "tied.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))\n"
        "    net[2].weight = net[0].weight\n"
        "    return net\n"
    )
    state = load_model(f"{tmp_path}/tied.py:net").state_dict()
    state = {name: torch.ones_like(t) for name, t in state.items() if name != "2.weight"}
    save_file(state, tmp_path / "tied.safetensors")
    loaded = load_model(f"{tmp_path}/tied.py:net", tmp_path / "tied.safetensors")
    assert torch.equal(loaded[2].weight, torch.ones(3, 3))


def test_weights_that_do_not_fit(factory, tmp_path):
    state = load_model(f"{factory}:net").state_dict()
    del state["3.weight"], state["3.bias"]
    state |= {"head.weight": torch.ones(2), "0.weight": torch.ones(9, 3, 3, 3)}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(SalienceError, match=r"2 missing \(3.weight, 3.bias\)") as raised:
        load_model(f"{factory}:net", tmp_path / "w.pt")
    assert "1 unexpected (head.weight)" in str(raised.value)
    assert "1 misshapen (0.weight (9, 3, 3, 3) instead of (4, 3, 3, 3))" in str(raised.value)


class Harmful:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('code was run')",))


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        (
            "w.pt",
            lambda f: torch.save(Harmful(), f),
            r"pickled Python objects \(.*exec\); .* are refused",
        ),
        ("w.pt", lambda f: torch.save(nn.Linear(2, 2), f), "pickled Python objects.*are refused"),
        (
            "w.pt",
            lambda f: f.write_bytes(pickle.dumps(Harmful())),
            "broken; objects .* are refused",
        ),
        ("w.pt", lambda f: f.write_bytes(b"nonsense"), "broken"),
        ("w.pt", lambda f: f.write_bytes(b""), "broken"),
        ("w.safetensors", lambda f: f.write_bytes(b"nonsense"), "safetensors file.*broken"),
        ("w.pt", lambda f: torch.save(torch.ones(3), f), "expected a state dict.*got .* a Tensor"),
        ("w.pt", lambda f: torch.save({"epoch": 1}, f), "expected a state dict.*dict with epoch"),
        ("w.txt", lambda f: f.write_text("1"), "expected weights in .safetensors"),
        ("w.pt", lambda f: None, "which is not there"),
    ],
)
def test_weights_that_are_refused(factory, tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(SalienceError, match=message):
        load_model(f"{factory}:net", tmp_path / name)


def damaged(whole):
    """Truncated, and with a byte of another value: everywhere in a small file."""
    for place in range(0, len(whole), 13):
        yield whole[:place]
        yield whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_weights(factory, tmp_path, legacy):
    file = tmp_path / "w.pt"
    torch.save({"a": torch.ones(2)}, file, _use_new_zipfile_serialization=not legacy)
    for content in damaged(file.read_bytes()):
        file.write_bytes(content)
        with pytest.raises(SalienceError) as raised:
            load_model(f"{factory}:net", file)
        assert "weights_only" not in str(raised.value).lower()


def test_what_torch_would_rather_read_without_a_guard(factory, tmp_path):
    with tarfile.open(tmp_path / "w.pt", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(SalienceError, match=r"a torch file; got .*broken: RuntimeError"):
        load_model(f"{factory}:net", tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "version"):
            archive.writestr(f"w/{name}", b"3")
    with pytest.raises(SalienceError, match="broken: a TorchScript archive, which is a program"):
        load_model(f"{factory}:net", tmp_path / "w.pt")


def test_a_sample_without_its_batch_dimension():
    check_batch(nn.Conv2d(3, 2, 3), torch.ones(1, 3, 8, 8))
    check_batch(nn.Conv2d(1, 2, 3), torch.ones(1, 8, 8))  # a network may add the channel itself
    check_batch(nn.Linear(3, 2), torch.ones(3, 8, 8))
    with pytest.raises(SalienceError, match=r"batch with 4 dimensions.*got one sample \(3, 8, 8\)"):
        check_batch(nn.Sequential(nn.Conv2d(3, 2, 3)), torch.ones(3, 8, 8))
    with pytest.raises(SalienceError, match="batch with 3 dimensions"):
        check_batch(nn.Conv1d(2, 2, 3), torch.ones(2, 8))


# -- arrays ---------------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
def test_npy_keeps_values_and_precision(tmp_path, dtype):
    np.save(tmp_path / "x.npy", X.astype(dtype))
    x, names = load_inputs([tmp_path / "x.npy"])
    assert x.dtype == {"2": torch.float16, "4": torch.float32, "8": torch.float64}[dtype[2]]
    np.testing.assert_array_equal(x.numpy(), X.astype(dtype))
    assert names == ["0", "1"]


def test_npz_and_pt_with_and_without_a_key(tmp_path):
    np.savez(tmp_path / "one.npz", a=X)
    np.savez(tmp_path / "two.npz", a=X, b=2 * X)
    torch.save(torch.from_numpy(X), tmp_path / "x.pt")
    torch.save({"a": torch.from_numpy(X), "b": torch.from_numpy(2 * X)}, tmp_path / "two.pt")
    for path, factor in (("one.npz", 1), ("two.npz:b", 2), ("x.pt", 1), ("two.pt:b", 2)):
        x, _ = load_inputs([f"{tmp_path}/{path}"])
        np.testing.assert_array_equal(x.numpy(), factor * X)


def write_truncated(file):
    np.save(file, X)
    file.write_bytes(file.read_bytes()[:200])


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("x.npy", lambda f: np.save(f, np.array([Harmful()]), allow_pickle=True), "are refused"),
        ("x.npy", lambda f: f.write_bytes(pickle.dumps(Harmful())), "pickled.*are refused"),
        ("x.npz", lambda f: np.savez(f, a=np.array([Harmful()], object)), "are refused"),
        ("x.pt", lambda f: torch.save(Harmful(), f), "are refused"),
        ("x.npy", write_truncated, "numpy file.*broken"),
        ("x.npy", lambda f: f.write_bytes(b""), "numpy file.*broken"),
        ("x.npz", lambda f: f.write_bytes(b"PK\x03\x04nonsense"), "numpy file.*broken"),
        ("x.npz", lambda f: np.savez(f, a=X, b=X[:1]), "same number of samples first; got"),
        ("x.npy", lambda f: np.save(f, X.astype("u1")), "floating-point inputs; got .* of uint8"),
        ("x.npy", lambda f: np.save(f, X.astype("c8")), "or integer ids; got .*complex64"),
        ("x.npy", lambda f: np.save(f, X[0, 0, 0]), r"batch of inputs.*shape \(8,\)"),
        ("x.npy", lambda f: np.save(f, X[:0]), r"batch of inputs.*shape \(0, 3, 8, 8\)"),
        ("x.pt", lambda f: torch.save([1, 2], f), "a tensor of inputs; got .* with a list"),
        ("x.npy", lambda f: None, "which is not there"),
        ("x.csv", lambda f: f.write_text("1,2"), "expected inputs as one of .npy, .npz, .pt"),
    ],
)
def test_arrays_that_are_refused(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(SalienceError, match=message):
        load_inputs([tmp_path / name])


def test_a_key_that_is_not_there(tmp_path):
    np.savez(tmp_path / "x.npz", a=X)
    with pytest.raises(SalienceError, match="got no 'b' in"):
        load_inputs([f"{tmp_path}/x.npz:b"])


def test_image_options_with_an_array(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(SalienceError, match="expected images for --size, --mean and --std"):
        load_inputs([tmp_path / "x.npy"], size=8)


# -- images ---------------------------------------------------------------------------------------


def save_image(file, shape, seed=0):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(file)
    return file


def test_pixels_become_pixel_over_255_minus_mean_over_std(tmp_path):
    file = save_image(tmp_path / "a.png", (5, 5, 3))
    x, names = load_inputs([file], mean=[0.1, 0.2, 0.3], std=[0.5])
    pixels = np.asarray(Image.open(file), np.float64) / 255
    np.testing.assert_allclose(
        x[0].permute(1, 2, 0), (pixels - [0.1, 0.2, 0.3]) / 0.5, atol=1e-6
    )  # float32
    assert names == ["a.png"]


def test_a_folder_in_order_with_size(tmp_path):
    for name, shape in (("b.jpg", (40, 60, 3)), ("a.png", (30, 20, 3)), ("c.JPEG", (9, 9, 3))):
        save_image(tmp_path / name, shape)
    (tmp_path / "notes.txt").write_text("not an image")
    x, names = load_inputs([tmp_path], size=16)
    assert x.shape == (3, 3, 16, 16)
    assert names == ["a.png", "b.jpg", "c.JPEG"]


def test_size_keeps_the_center(tmp_path):
    picture = np.zeros((10, 30, 3), np.uint8)
    picture[:, 10:20] = 255  # white in the central square alone
    Image.fromarray(picture).save(tmp_path / "a.png")
    x, _ = load_inputs([tmp_path / "a.png"], size=10)
    assert bool((x == 1).all())


def test_gray_images_for_one_channel(tmp_path):
    file = save_image(tmp_path / "a.png", (6, 6))
    x, _ = load_inputs([file], channels=1)
    np.testing.assert_allclose(x[0, 0], np.asarray(Image.open(file)) / 255, atol=1e-6)  # float32


def test_images_that_are_refused(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    small, large = save_image(tmp_path / "a.png", (5, 5, 3)), save_image(tmp_path / "b.png", (6, 5))
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "broken.png").write_bytes(small.read_bytes()[:60])
    cases = [
        ([folder], {}, "expected images .* in .*empty; got none"),
        ([small, large], {}, "expected images of one size.*Give --size"),
        ([tmp_path / "deep.png"], {}, "expected 8-bit images; got .* of mode I;16"),
        ([tmp_path / "broken.png"], {}, "expected an image; got .*broken"),
        ([tmp_path / "none.png"], {}, "which is not there"),
        ([small], {"mean": [0.1, 0.2]}, "expected one number or 3"),
        ([small], {"std": [0.0]}, "expected --std above 0"),
        ([small], {"size": 0}, "expected a size of at least 1"),
        ([], {}, "expected a file of inputs; got none"),
    ]
    for paths, options, message in cases:
        with pytest.raises(SalienceError, match=message):
            load_inputs(paths, **options)
