"""Image classifiers of Hugging Face from a folder; nothing is downloaded, no code is run.

transformers gets the architecture as plain fields and the weights as tensors, and never the folder:
it would read more files there, and follow what they name.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from salience._errors import SalienceError, expected, reason
from salience._files.untrusted import MAX_BYTES, check_size, regular
from salience.models._budget import no_larger_than
from salience.models._described import FileModel
from salience.models._huggingface_fields import Described, described
from salience.models._huggingface_sides import sides_of
from salience.models._optional import import_torchvision, need
from salience.models._weights import read_safetensors, shapes_of

_INSTALL = "pip install 'salience[huggingface]'"
_TIMM = "pip install 'salience[timm]'"
_LARGEST = 2**23  # bytes of JSON; 22,000 labels by their names are 2 million


def load_folder(folder: Path, max_bytes: int = MAX_BYTES) -> nn.Module:
    """The image classifier of a folder with config.json and model.safetensors.

    It returns logits (B, classes).

    Errors: SalienceError where transformers is not installed, for a folder without these files,
    with pickled weights alone or with code of its own, with weights of more than `max_bytes`, for a
    config.json that says more than an architecture or describes a network larger than its weights,
    and for another kind of network.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise expected(
            "a model: a folder with config.json and model.safetensors",
            f"{folder}, without config.json",
            "Download it: hf download OWNER/NAME --local-dir FOLDER.",
        )
    config = _read_json(file)
    if "auto_map" in config:
        raise expected(
            "a network of transformers itself",
            f"{file}, which brings its own code (auto_map)",
            "Code in folders is not run: give 'file.py:factory' as MODEL.",
        )
    weights = _weight_files(folder)
    size = sum(regular(part, "weights", "Download them again.") for part in weights)
    check_size(size, f"{folder}", max_bytes)
    shapes = {name: shape for part in weights for name, shape in shapes_of(part).items()}
    architecture = described(config, file, sides_of(shapes.values()))
    transformers = _import_transformers(folder, architecture)
    state = {  # copied: a network must not change with its file
        name: tensor.clone() for part in weights for name, tensor in read_safetensors(part).items()
    }
    with no_larger_than(shapes.values(), str(file)):
        model = _quietly(transformers, architecture, state, folder)
    shape = (None, _channels(architecture, model), None, None)
    shapes = {"pixel_values": shape}
    return FileModel(model.eval(), shapes, call=_logits(model), max_bytes=max_bytes)


def _import_transformers(folder: Path, architecture: Described) -> ModuleType:
    what = f"the folder {folder}"
    if importlib.util.find_spec("torchvision") is not None:  # transformers imports it then
        import_torchvision(what, "pip uninstall torchvision")
    transformers = need("transformers", what, _INSTALL)
    if architecture.family == "timm_wrapper":
        name = architecture.fields.get("architecture")
        if not need("timm", what, _TIMM).is_model(str(name)):
            raise expected("an architecture of timm", repr(name), "Update timm, which may know it.")
    return transformers


def _quietly(
    transformers: ModuleType, architecture: Described, state: dict[str, Tensor], folder: Path
) -> nn.Module:
    """The network with its weights; transformers neither logs nor shows progress."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, report = _built(transformers, architecture, state)
    except SalienceError:
        raise
    except Exception as error:  # transformers raises whatever its parts raise
        got = f"{folder}, broken or of another kind: {reason(error)}"
        raise expected(
            "an image classifier of Hugging Face",
            got,
            "Save it again by model.save_pretrained(FOLDER).",
        ) from None
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
    missing = sorted(str(key) for key in report["missing_keys"])
    if missing:
        raise expected(
            "weights for every layer",
            f"{folder} without {', '.join(missing[:3])}",
            "Take a network that was trained as a classifier.",
        )
    wrong = [
        f"{key} {tuple(given)} instead of {tuple(own)}"
        for key, given, own in sorted(report["mismatched_keys"])
    ]
    if wrong:
        raise expected(
            "weights of the shapes that config.json tells",
            f"{folder} with {', '.join(wrong[:3])}",
            "Take both files from the same place.",
        )
    return model


def _built(transformers: ModuleType, architecture: Described, state: dict[str, Tensor]) -> Any:
    """What transformers builds of a description, with the weights as they are named in files."""
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    names = auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[architecture.family]
    names = (names,) if isinstance(names, str) else names
    name = next((name for name in names if name in architecture.classes), names[0])
    labels = {} if architecture.labels is None else {"num_labels": architecture.labels}
    config = transformers.CONFIG_MAPPING[architecture.family](**architecture.fields, **labels)
    return getattr(transformers, name).from_pretrained(
        None,
        config=config,
        state_dict=state,
        attn_implementation="eager",
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )


def _logits(model: Any) -> Callable[[Tensor], object]:
    def call(x: Tensor) -> Tensor:
        return model(pixel_values=x).logits

    return call


def _channels(architecture: Described, model: Any) -> int | None:
    """The channels of an image, where they are told."""
    config = getattr(model.config, "vision_config", model.config)
    told = (architecture.fields.get("model_args") or {}).get("in_chans")
    return getattr(config, "num_channels", told)


def _read_json(file: Path) -> dict[str, object]:
    """A JSON file of a folder, of bounded size."""
    _check_inside(file)
    size = regular(file, file.name)
    if size > _LARGEST:
        raise expected(
            f"{file.name} of at most {_LARGEST} bytes", f"{size} bytes", "Download it again."
        )
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise expected(
            "a folder of Hugging Face", f"{file}, broken: {reason(error)}", "Download it again."
        ) from None
    if not isinstance(held, dict):
        raise expected(
            "a folder of Hugging Face",
            f"{file}, broken: no fields by their names",
            "Download it again.",
        )
    return held


def _weight_files(folder: Path) -> list[Path]:
    """The files of weights that a folder names, all of them in it."""
    file, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if file.is_file():
        names = [file.name]
    elif index.is_file():
        names = _indexed(index)
    else:
        pickled = sorted(f.name for f in folder.glob("*.bin")) or ["no weights"]
        raise expected(
            f"model.safetensors in {folder}",
            f"{pickled[0]}; pickles can run any code when they are read and are refused",
            "Convert it where you trust it: model.save_pretrained(FOLDER), or take the "
            "model.safetensors that its page may offer.",
        )
    for name in names:
        _check_inside(folder / name)
    return [folder / name for name in names]


def _indexed(index: Path) -> list[str]:
    """The files that the index of a large network names."""
    named = _read_json(index).get("weight_map")
    files = list(named.values()) if isinstance(named, dict) else [named]
    names = dict.fromkeys(name for name in files if isinstance(name, str))
    if len(names) == 0 or any(not isinstance(name, str) for name in files):
        raise expected(
            f"an index of files as weight_map in {index}", "something else", "Download it again."
        )
    if any(re.search(r"[\\/:]|^\.", name) for name in names):
        raise expected(
            f"weights inside {index.parent}",
            f"{index.name} with paths to elsewhere",
            "Download it again.",
        )
    return list(names)


def _check_inside(file: Path) -> None:
    if file.parent.resolve() not in file.resolve().parents:
        raise expected(
            f"files inside {file.parent}",
            f"{file.name}, a link to elsewhere",
            "Copy the file into the folder.",
        )
