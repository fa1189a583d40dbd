"""Image classifiers of Hugging Face from a folder; nothing is downloaded, no code is run."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from salience.errors import SalienceError, expected
from salience.models.described import FileModel
from salience.models.optional import import_torchvision, need

_INSTALL = "pip install 'salience[huggingface]'"


def load_folder(folder: Path) -> nn.Module:
    """The image classifier of a folder with config.json and model.safetensors.

    It returns logits (B, classes).

    Errors: SalienceError where transformers is not installed, for a folder without these files,
    with pickled weights alone or with code of its own, and for what is no image classifier.
    """
    _check(folder)
    if importlib.util.find_spec("torchvision") is not None:  # transformers imports it then
        import_torchvision(f"the folder {folder}", "pip uninstall torchvision")
    transformers = need("transformers", f"the folder {folder}", _INSTALL)
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, report = transformers.AutoModelForImageClassification.from_pretrained(
            str(folder.resolve()), local_files_only=True, trust_remote_code=False,
            use_safetensors=True, attn_implementation="eager", output_loading_info=True,
        )  # fmt: skip
    except SalienceError:
        raise
    except Exception as error:  # transformers raises whatever its parts raise
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise expected(
            "an image classifier of Hugging Face", f"{folder}, broken or of another kind: {why}",
            "Save it again by model.save_pretrained(FOLDER).",
        ) from None  # fmt: skip
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
    missing = sorted(str(key) for key in report["missing_keys"])
    if missing:
        raise expected("weights for every layer", f"{folder} without {', '.join(missing[:3])}",
                       "Take a network that was trained as a classifier.")  # fmt: skip
    return FileModel(model.eval(), _shape(model.config), call=_logits(model))


def _logits(model: Any) -> Any:
    def call(x: Tensor) -> Tensor:
        return model(pixel_values=x).logits

    return call


def _shape(config: Any) -> tuple[int | None, ...]:
    """The input's shape: channels, where they are told; the size may vary."""
    channels = getattr(config, "num_channels", None)
    return (None, channels if isinstance(channels, int) else None, None, None)


def _files_of(index: Path) -> list[str]:
    """The files that the index of a network's weights names."""
    cure = "Download it again."
    try:
        held = json.loads(index.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise expected("an index of weights", f"{index}, broken: {error}", cure) from None
    files = held.get("weight_map") if isinstance(held, dict) else None
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        got = f"{index}, of another form"
        raise expected('{"weight_map": {NAME: FILE, ...}} as an index of weights', got, cure)
    return list(files.values())


def _check(folder: Path) -> None:
    """Refuse a folder that has no plain weights, or code."""
    file = folder / "config.json"
    if not file.is_file():
        raise expected(
            "a model: a folder with config.json and model.safetensors", f"{folder}, without "
            "config.json", "Download it: hf download OWNER/NAME --local-dir FOLDER.",
        )  # fmt: skip
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise expected("a folder of Hugging Face", f"{file}, broken: {error}",
                       "Download it again.") from None  # fmt: skip
    if not isinstance(config, dict) or "auto_map" in config:
        raise expected(
            "a network of transformers itself", f"{file}, which brings its own code (auto_map)",
            "Code in folders is not run: give 'file.py:factory' as MODEL.",
        )  # fmt: skip
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(f.name for f in folder.glob("*.bin")) or ["no weights"]
        raise expected(
            f"model.safetensors in {folder}", f"{pickled[0]}; pickles can run any code when they "
            "are read and are refused",
            "Convert it where you trust it: model.save_pretrained(FOLDER), or take the "
            "model.safetensors that its page may offer.",
        )  # fmt: skip
    for index in folder.glob("*.index.json"):  # names the files of large networks
        if re.search(r"[\\/]", "".join(_files_of(index))):
            raise expected(f"weights inside {folder}", f"{index.name} with paths to elsewhere",
                           "Download it again.")  # fmt: skip
    for path in folder.rglob("*"):
        if path.is_symlink() and folder.resolve() not in path.resolve().parents:
            raise expected(f"files inside {folder}", f"{path.name}, a link to elsewhere",
                           "Copy the file into the folder.")  # fmt: skip
