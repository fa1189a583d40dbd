"""A Keras model explains as the same network in plain torch does; its file is untrusted."""

import io
import json
import os
import random
import subprocess
import sys
import warnings
import zipfile

import pytest
import torch
from file_nets import Residual, assert_same_maps, images, make
from limits import within
from PIL import Image
from torch import nn

import salience
from salience import SalienceError
from salience._cli.inputs import load_inputs
from salience.models import channels_first, image_layout, load_model

pytest.importorskip("h5py")
os.environ["KERAS_BACKEND"] = "torch"  # for the tests' own import of it
keras = pytest.importorskip("keras")
L = keras.layers

# Keras's own, where it turns its variables into arrays
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def residual(dtype="float32", channels_last=True):
    """`file_nets.Residual` in Keras, with its weights."""
    form = "channels_last" if channels_last else "channels_first"
    axis = -1 if channels_last else 1
    more = {"dtype": dtype}
    x = keras.Input((8, 8, 3) if channels_last else (3, 8, 8), dtype=dtype)
    first, y = x, x
    for number in ("", "2"):
        before = y
        conv = L.Conv2D(8, 3, padding="same", use_bias=not number, name=f"conv{number}",
                        data_format=form, **more)  # fmt: skip
        y = conv(y)
        y = L.BatchNormalization(axis=axis, epsilon=1e-5, name=f"bn{number}", **more)(y)
        y = L.Add(**more)([y, before]) if number else y
        y = L.ReLU(**more)(y)
        pool = L.AveragePooling2D if number else L.MaxPooling2D
        y = pool(2, data_format=form, **more)(y)
    y = L.Flatten(data_format=None, **more)(L.Permute((3, 1, 2), **more)(y) if channels_last else y)
    y = L.Dense(7, activation="relu", name="linear", **more)(y)
    y = L.Dropout(0.5, **more)(y)
    model = keras.Model(first, L.Dense(5, name="head", **more)(y))
    net = make(Residual, getattr(torch, dtype))
    state = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    for name, layer in net.named_children():
        keys = ("weight", "bias", "running_mean", "running_var")
        held = [state[f"{name}.{key}"] for key in keys if f"{name}.{key}" in state]
        if isinstance(layer, nn.Conv2d):
            held[0] = held[0].transpose(2, 3, 1, 0)
        if isinstance(layer, nn.Linear):
            held[0] = held[0].T
        model.get_layer(name).set_weights(held)
    return net, model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    net, model = residual()
    file = tmp_path_factory.mktemp("keras") / "net.keras"
    model.save(file)
    return net, model, file


@pytest.mark.parametrize("channels_last", [True, False])
def test_keras_in_double_precision(tmp_path, channels_last):
    net, model = residual("float64", channels_last)
    model.save(tmp_path / "net.keras")
    loaded = load_model(str(tmp_path / "net.keras"))
    assert image_layout(loaded) == (3, channels_last)
    assert_same_maps(net, loaded, images(dtype=torch.float64), channels_last=channels_last)


def test_keras_in_single_precision(saved):
    net, model, file = saved
    loaded, x = load_model(str(file)), images()
    given = x.permute(0, 2, 3, 1)
    torch.testing.assert_close(loaded(given), model(given, training=False))
    assert_same_maps(net, loaded, x, channels_last=True)
    assert_same_maps(net, channels_first(loaded), x)


def other_layers():
    """Every padding, stride and kind of layer that runs as a torch operation, or by Keras."""
    x = keras.Input((9, 9, 4))
    y = L.Conv2D(8, 4, strides=2, padding="same", groups=2, activation="tanh")(x)
    y = L.DepthwiseConv2D(3, depth_multiplier=2, padding="same")(y)
    y = L.BatchNormalization(scale=False)(y)
    y = L.SeparableConv2D(6, 3, padding="same")(y)
    y = L.BatchNormalization(center=False)(L.Conv2D(6, 2, dilation_rate=2, activation="relu")(y))
    y = L.Conv2DTranspose(4, 3, strides=2, padding="same")(y)
    z = L.Dense(6)(y)
    y = L.Concatenate()([L.LayerNormalization()(z), L.BatchNormalization()(z)])
    y = L.GlobalAveragePooling2D()(y)
    y = L.BatchNormalization()(L.Dense(7)(y))
    return keras.Model(x, {"a": L.Dense(3, use_bias=False)(y), "b": L.Dense(2)(y)})


def sequential():
    return keras.Sequential([
        keras.Input((12, 2)), L.Conv1D(4, 3, padding="causal"), L.Conv1D(4, 3, strides=2),
        L.BatchNormalization(), L.Flatten(), L.Dense(3, activation="softmax"),
    ])  # fmt: skip


@pytest.mark.parametrize("build", [other_layers, sequential])
def test_the_outputs_are_those_of_keras(tmp_path, build):
    keras.utils.set_random_seed(0)
    model = build()
    for layer in model.layers:
        layer.set_weights([abs(w) + 0.1 * i for i, w in enumerate(layer.get_weights())])
    model.save(tmp_path / "net.keras")
    x = torch.randn(3, *model.input_shape[1:])
    with torch.no_grad():
        wanted = model(x, training=False)
    torch.testing.assert_close(load_model(str(tmp_path / "net.keras"))(x), wanted)


class Block(nn.Module):
    """A block of ConvNeXt, with tokens last, and a head."""

    def __init__(self):
        super().__init__()
        self.depth, self.norm = nn.Conv2d(3, 3, 7, padding=3, groups=3), nn.LayerNorm(3)
        self.up, self.down, self.head = nn.Linear(3, 12), nn.Linear(12, 3), nn.Linear(3, 5)
        self.scale = nn.Parameter(torch.randn(3))

    def forward(self, x):
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(nn.functional.gelu(self.up(y)))
        return self.head((x.permute(0, 2, 3, 1) + y).mean((1, 2)))


def test_the_layers_of_convnext(tmp_path):
    """Keras has them outside of its layers, with its applications."""
    from keras.src.applications.convnext import LayerScale, StochasticDepth

    net, x = make(Block), keras.Input((8, 8, 3))
    y = L.Conv2D(3, 7, padding="same", groups=3, name="depth")(x)
    y = L.Dense(12, name="up")(L.LayerNormalization(epsilon=1e-5, name="norm")(y))
    y = L.Dense(3, name="down")(L.Activation("gelu")(y))
    y = StochasticDepth(0.5)(LayerScale(1e-6, 3, name="scale")(y))
    y = L.Dense(5, name="head")(L.GlobalAveragePooling2D()(L.Add()([x, y])))
    model = keras.Model(x, y)
    for name, layer in net.named_children():
        held = [tensor.detach().numpy() for tensor in layer.parameters()]
        held[0] = held[0].transpose(2, 3, 1, 0) if name == "depth" else held[0].T
        model.get_layer(name).set_weights(held)
    model.get_layer("scale").set_weights([net.scale.detach().numpy()])
    model.save(tmp_path / "net.keras")
    loaded, given = load_model(str(tmp_path / "net.keras")), images()
    torch.testing.assert_close(loaded(given.permute(0, 2, 3, 1)), net(given))
    assert_same_maps(net, loaded, given, channels_last=True)


def test_large_weights_of_any_initializer(tmp_path, monkeypatch):
    monkeypatch.setattr("salience.models._keras.read._FREE", 2**22)  # weights decide
    draw = keras.initializers.VarianceScaling(distribution="truncated_normal")
    model = keras.Sequential([keras.Input((1000,)), L.Dense(1000, kernel_initializer=draw)])
    model.save(tmp_path / "net.keras")
    x = torch.randn(1, 1000)
    torch.testing.assert_close(load_model(str(tmp_path / "net.keras"))(x), model(x))


def test_stages_weights_and_an_untouched_network(saved):
    file = saved[2]
    loaded, x = load_model(str(file)), images().permute(0, 2, 3, 1).contiguous()
    names = {name for name, _ in loaded.named_parameters()}
    assert {"conv.kernel", "bn.gamma", "bn.beta", "head.bias"} <= names
    assert {"bn.moving_mean", "bn2.moving_variance"} <= {n for n, _ in loaded.named_buffers()}
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    study = salience.randomization_test(
        loaded, x, ["gradient"], 1, cascade=salience.Cascade(repeats=1)
    ).data
    assert study["stage"].values.tolist() == [
        "head.kernel", "linear.kernel", "conv2.kernel", "conv.kernel"
    ]  # fmt: skip
    assert all(torch.equal(before[n], t) for n, t in loaded.state_dict().items())
    with torch.no_grad():
        loaded.load_state_dict({n: torch.zeros_like(t) for n, t in before.items()})
    assert not loaded(x).any()  # what was loaded is what runs


def test_what_moves_is_what_runs(saved):
    """`.to(device)` replaces tensors by the function that it gives to `_apply`."""
    moved, loaded = load_model(str(saved[2])), load_model(str(saved[2]))
    moved._apply(lambda t: t * 2 if t.is_floating_point() else t)
    state = {n: 2 * t if t.is_floating_point() else t for n, t in loaded.state_dict().items()}
    loaded.load_state_dict(state)
    x = images().permute(0, 2, 3, 1)
    assert torch.equal(moved(x), loaded(x))


def test_images_come_in_the_layout_of_the_network(saved, tmp_path):
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "a.png")
    x, _ = load_inputs([tmp_path / "a.png"], channels_last=True)
    assert x.shape == (1, 8, 8, 3)
    assert x[0, 0, 0].tolist() == [1, 0, 0]
    assert load_model(str(saved[2]))(x).shape == (1, 5)


def test_the_command_line_explains_a_keras_model(saved, tmp_path):
    from typer.testing import CliRunner

    from salience._cli.app import app

    Image.new("RGB", (8, 8), (200, 30, 90)).save(tmp_path / "a.png")
    arguments = ["explain", str(saved[2]), str(tmp_path / "a.png"), "--methods", "gradient"]
    result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "maps.nc").is_file()


# -- refused --------------------------------------------------------------------------------------


def test_another_backend_is_refused(saved, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(SalienceError, match=r"its torch backend; got Keras imported with jax"):
        load_model(str(saved[2]))


def test_the_backend_is_chosen_and_the_environment_left_alone(saved):
    lines = (
        "import os\n"
        "from salience.models import load_model\n"
        f"load_model({str(saved[2])!r})\n"
        "assert os.environ['KERAS_BACKEND'] == 'jax'\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", lines], env=environment, check=True)


def test_a_lambda_is_refused(tmp_path):
    x = keras.Input((4,))
    model = keras.Model(x, L.Lambda(lambda a: a * 2)(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "net.keras")
    with pytest.raises(SalienceError, match="layers without Python code; got a Lambda"):
        load_model(str(tmp_path / "net.keras"))


def rewritten(source, file, change=None, **records):
    """A .keras file with its configuration or its records changed."""
    with zipfile.ZipFile(source) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    if change is not None:
        config = json.loads(held["config.json"])
        change(config["config"]["layers"][1])
        held["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**held, **records}.items():
            archive.writestr(name, data)
    return str(file)


@pytest.mark.parametrize(
    "change",
    [
        {"module": "os", "class_name": "system"},
        {"module": "builtins", "class_name": "eval"},
        {"module": "builtins", "class_name": "function", "registered_name": "function"},
        {"module": "keras.utils", "class_name": "get_file"},
        {"module": "keras.config", "class_name": "enable_unsafe_deserialization"},
        {"module": "keras.src.saving.saving_lib", "class_name": "load_model"},
        {"module": "torch.hub", "class_name": "load"},
        {"module": "keras.src.applications.convnext", "class_name": "ConvNeXtTiny"},
        {"module": "keras.src.applications.convnext", "class_name": ["LayerScale"]},
        {"module": None},
        {"registered_name": "Custom>Evil"},
        {"module": ["keras"]},
    ],
)
def test_classes_that_are_not_those_of_keras(saved, tmp_path, change):
    file = rewritten(saved[2], tmp_path / "net.keras", lambda layer: layer.update(change))
    with pytest.raises(SalienceError, match="layers of Keras itself"):
        load_model(file)


def test_records_that_no_model_needs(saved, tmp_path):
    for name in ("../evil.txt", "assets/words.txt", "/etc/evil"):
        file = rewritten(saved[2], tmp_path / "net.keras", **{name: b"x"})
        with pytest.raises(SalienceError, match=r"a \.keras file of description and weights"):
            load_model(file)


def test_bombs(saved, tmp_path):
    file = rewritten(saved[2], tmp_path / "net.keras", **{"metadata.json": bytes(10**8)})
    with pytest.raises(SalienceError, match="it unpacks to more than 20 times its size"):
        load_model(file)


def weights(tmp_path, change):
    import h5py

    with h5py.File(tmp_path / "w.h5", "w") as file:
        change(file)
    return {"model.weights.h5": (tmp_path / "w.h5").read_bytes()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.__setitem__("a", sys.modules["h5py"].ExternalLink("/etc/secret.h5", "/x")),
         "a is a link to elsewhere"),
        (lambda f: f.__setitem__("a", sys.modules["h5py"].SoftLink("/b")), "link to elsewhere"),
        (lambda f: f.create_dataset("a", (4,), "u1", external=[("/etc/passwd", 0, 4)]),
         "a is kept in another file"),
        (lambda f: f.create_dataset("a", (10**10,), "f4", chunks=True, compression="gzip"),
         "unpack to more than they should"),
        (lambda f: f.create_dataset("a", (4,), "f4", chunks=(4,), maxshape=(None,),
                                    compression="lzf"), "a needs the filters"),
        (lambda f: f.create_dataset("a", (4,), sys.modules["h5py"].string_dtype()),
         "a holds no numbers"),
        (lambda f: f.__setitem__("a", sys.modules["numpy"].dtype("f4")), "a is no array"),
    ],
)  # fmt: skip
def test_weights_that_lie_elsewhere(saved, tmp_path, change, message):
    file = rewritten(saved[2], tmp_path / "net.keras", **weights(tmp_path, change))
    with pytest.raises(SalienceError, match=message):
        load_model(file)


@pytest.mark.parametrize("place", ["/", "/layers", "/layers/batch_normalization"])
def test_weights_without_an_end(saved, tmp_path, place):
    import h5py

    stream = io.BytesIO(zipfile.ZipFile(saved[2]).read("model.weights.h5"))
    with h5py.File(stream, "a") as held:
        held["/layers/batch_normalization/again"] = held[place]
    file = rewritten(saved[2], tmp_path / "net.keras", **{"model.weights.h5": stream.getvalue()})
    with within(60, gigabytes=1), pytest.raises(SalienceError, match=r"broken: .* linked to twice"):
        load_model(file)


def test_attributes_of_weights_that_are_texts(saved, tmp_path):
    """Keras reads them: many can be references to one that is long."""
    import h5py
    import numpy as np

    def texts(file):
        long = np.array([random.Random(0).randbytes(10**6).hex(), *["z"] * 2999], object)
        file.create_dataset("a", (4,), "f4").attrs.create("dtype", long, dtype=h5py.string_dtype())

    data = weights(tmp_path, texts)["model.weights.h5"]
    file = rewritten(saved[2], tmp_path / "net.keras", **{"model.weights.h5": data})
    with pytest.raises(SalienceError, match="unpack to more than they should"):
        load_model(file)
    first = data.index(b"GCOL\x01") + 16
    data = data[:first] + bytes(16) + data[first + 16 :]  # free space of no length
    file = rewritten(saved[2], tmp_path / "net.keras", **{"model.weights.h5": data})
    with pytest.raises(SalienceError, match="texts that are stored without an end"):
        load_model(file)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([L.Dense(2**31)], "at most 8 GB; got a network with .* would take"),
        ([L.Dense(10**7) for _ in range(9)], "layers as large as the weights in the file"),
        ([L.Conv2D(10**7, 3)], "layers as large as the weights in the file"),
        ([L.ReLU() for _ in range(10**4)], "more than 50000 parts of layers"),
    ],
)
def test_a_description_of_more_than_the_weights(saved, tmp_path, layers, message):
    told = [keras.saving.serialize_keras_object(layer) for layer in layers]
    generator = random.Random(0)
    for item in told:  # with names that do not pack well: the file is as large as it must be
        item["config"]["name"] = f"added_{generator.randbytes(40).hex()}"
        item["build_config"] = {"input_shape": [None, 8, 8, 3]}

    def change(layer):  # a Sequential of them in the place of a layer
        layer.update(keras.saving.serialize_keras_object(keras.Sequential([L.ReLU()])))
        layer["config"].update(layers=told, build_input_shape=[None, 8, 8, 3], name="conv")

    file = rewritten(saved[2], tmp_path / "net.keras", change)
    with within(60, gigabytes=1.5), pytest.raises(SalienceError, match=message):
        load_model(file)


def test_truncated_files(saved, tmp_path):
    whole = saved[2].read_bytes()
    for length in range(0, len(whole), len(whole) // 12):
        (tmp_path / "cut.keras").write_bytes(whole[:length])
        with pytest.raises(SalienceError, match=r"a file of Keras 3; got .*cut.keras, broken"):
            load_model(str(tmp_path / "cut.keras"))
