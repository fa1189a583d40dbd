"""Files of Keras 3 (.keras) on its torch backend."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

from torch import Tensor, nn

from salience._errors import SalienceError, expected, reason
from salience._files.untrusted import MAX_BYTES, check_size, unpacked
from salience.models._bounded import Bounded
from salience.models._described import FileModel
from salience.models._exported.program import register
from salience.models._keras.layers import Layer, use_torch_operations
from salience.models._keras.weights import stored_bytes
from salience.models._optional import need

_INSTALL = "pip install 'salience[keras]'"
_MODULES = re.compile(
    r"keras|keras(\.src)?\.(layers|models|initializers|regularizers|constraints|activations|ops|"
    r"dtype_policies|optimizers|losses|metrics)(\.\w+)*"
)
_APPLICATIONS = {  # layers among its functions that build networks
    ("keras.src.applications.convnext", "LayerScale"),
    ("keras.src.applications.convnext", "StochasticDepth"),
    ("keras.src.applications.inception_resnet_v2", "CustomScaleLayer"),
}
_RUN_CODE = ("Lambda", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer", "__lambda__")
_WEIGHTS = "model.weights.h5"
_LARGEST = 20  # times the file's size, unpacked
_LARGEST_CONFIG = 2**25  # bytes
_MOST_PARTS = 50_000  # dictionaries in a description; the largest of Keras's own have 14,000
# bytes that Keras may make: some, and as often the weights, which are drawn (each truncated normal
# number as one of four), loaded and copied
_FREE, _TIMES = 2**28, 16


class KerasNetwork(nn.Module):
    """Runs a Keras model in inference; its variables are parameters and buffers by their paths."""

    def __init__(self, model: Layer) -> None:
        super().__init__()
        model.trainable = True  # also what was frozen while it was trained has been learned
        learned = {id(variable) for variable in model.trainable_variables}
        # wrapped: it is no layer of this module
        self._call: Callable[..., object] = partial(model, training=False)
        self._form = getattr(model, "_inputs_struct", model.inputs[0])  # how it takes its inputs
        self._places: dict[str, Layer] = {}
        for number, variable in enumerate(model.variables):
            name = re.sub(r"[^\w.]", "_", variable.path.replace(".", "_").replace("/", "."))
            value = variable.value
            tensor = value if id(variable) in learned else value.detach()
            try:
                register(self, name, tensor)
            except (KeyError, AttributeError, TypeError):  # taken, or a name that modules need
                name = f"variable_{number}"
                register(self, name, tensor)
            self._places[name] = variable
        self._tie()

    def forward(self, *x: Tensor) -> object:
        import keras

        with keras.device(str(x[0].device)):
            return self._call(keras.tree.pack_sequence_as(self._form, list(x)))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> KerasNetwork:
        super()._apply(fn, recurse)
        self._tie()
        return self

    def _tie(self) -> None:
        """Let the variables of Keras be the tensors that are registered here."""
        for name, variable in self._places.items():
            path, _, last = name.rpartition(".")
            variable._value = getattr(self.get_submodule(path), last)


def load_keras(file: Path, max_bytes: int = MAX_BYTES) -> nn.Module:
    """The network of a .keras file, in inference; images come as (B, H, W, C).

    Errors: SalienceError where Keras is not installed or runs on another backend, for a file that
    is broken or takes more than `max_bytes`, and for layers that are not Keras's own, hold Python
    code or are larger than the weights in the file.
    """
    _check_backend()
    try:
        weights = _check(file, max_bytes)
        keras = _import_keras(file)
        with Bounded(max_bytes, _FREE + _TIMES * weights):
            model = keras.saving.load_model(file, compile=False, safe_mode=True)
        return _network(keras, model, max_bytes)
    except SalienceError:
        raise
    except Exception as error:  # Keras raises whatever its layers raise
        got = f"{file}, broken: {reason(error)}"
        raise expected("a file of Keras 3", got, "Save it again.") from None


def _check_backend() -> None:
    loaded = sys.modules.get("keras")
    if loaded is not None and hasattr(loaded, "backend") and loaded.backend.backend() != "torch":
        raise expected(
            "Keras on its torch backend",
            f"Keras imported with {loaded.backend.backend()}",
            "Set KERAS_BACKEND=torch before keras is imported for the first time.",
        )


def _import_keras(file: Path) -> ModuleType:
    if "keras" not in sys.modules and importlib.util.find_spec("keras") is not None:
        before = os.environ.get("KERAS_BACKEND")
        os.environ["KERAS_BACKEND"] = "torch"  # read once, at the import
        try:
            return need("keras", file.name, _INSTALL)
        finally:
            if before is None:
                del os.environ["KERAS_BACKEND"]
            else:
                os.environ["KERAS_BACKEND"] = before
    return need("keras", file.name, _INSTALL)


def _network(keras: ModuleType, model: Layer, max_bytes: int) -> nn.Module:
    if not model.inputs:
        raise expected(
            "a network of an input",
            "one without inputs",
            "Build the model before it is saved: model.build(input_shape).",
        )
    use_torch_operations(keras, model)
    layers = model._flatten_layers()
    form = next((layer.data_format for layer in layers if hasattr(layer, "data_format")), None)
    return FileModel(
        KerasNetwork(model).eval(),
        {item.name: item.shape for item in model.inputs},
        channels_last=form != "channels_first",
        max_bytes=max_bytes,
    )


def _check(file: Path, max_bytes: int) -> int:
    """The bytes of the weights in a file that is a plain description of Keras's layers and these.

    Errors: SalienceError and ValueError for anything more.
    """
    need("h5py", file.name, _INSTALL)
    with zipfile.ZipFile(file) as archive:
        items = archive.infolist()
        if unpacked(items) > _LARGEST * file.stat().st_size:
            raise ValueError(f"it unpacks to more than {_LARGEST} times its size")
        check_size(unpacked(items), f"{file}", max_bytes)
        names = {item.filename for item in items}
        strange = sorted(names - {"metadata.json", "config.json", _WEIGHTS})
        if strange:
            raise expected(
                "a .keras file of description and weights",
                f"{strange[0]!r} in {file}",
                "Save a model of layers alone, without lookup tables.",
            )
        if archive.getinfo("config.json").file_size > _LARGEST_CONFIG:
            raise ValueError(f"its description has more than {_LARGEST_CONFIG} bytes")
        config = json.loads(archive.read("config.json"))
        for number, node in enumerate(_dicts(config)):
            _check_class(node)
            if number > _MOST_PARTS:
                raise ValueError(f"it describes more than {_MOST_PARTS} parts of layers")
        weights = archive.read(_WEIGHTS)  # whole: so the archive's checksum is looked at
    return stored_bytes(weights, _LARGEST * file.stat().st_size)


def _dicts(value: object) -> Iterator[dict[str, object]]:
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _dicts(item)


def _check_class(node: dict[str, object]) -> None:
    kind, module = node.get("class_name"), node.get("module")
    registered = node.get("registered_name")
    if kind is None and module is None and registered is None:
        return
    if kind in _RUN_CODE:
        raise expected(
            "layers without Python code",
            f"a {kind}",
            "Code in files is not run: write it as a layer, and give 'file.py:factory' as MODEL.",
        )
    plain = kind in ("__keras_tensor__", "__tensor__", "__numpy__", "__tuple__", "__ellipsis__")
    own = isinstance(module, str) and (
        _MODULES.fullmatch(module) or (module, str(kind)) in _APPLICATIONS
    )
    custom = isinstance(registered, str) and registered not in (kind, "")
    if custom or not (own or (module is None and plain)):
        raise expected(
            "layers of Keras itself",
            f"{module}.{kind} ({registered or 'not registered'})",
            "A file cannot bring its own classes: give 'file.py:factory' as MODEL, a function that "
            "imports them and loads the model.",
        )
