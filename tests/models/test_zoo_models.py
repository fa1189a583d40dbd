"""Architectures of torchvision, timm and transformers explain as they do without this package."""

import warnings

import pytest
import torch
from file_nets import METHODS
from safetensors.torch import save_file

import salience
from salience import SalienceError, SalienceWarning
from salience.models import image_layout, load_model
from salience.models._optional import import_torchvision


def same_maps(net, loaded, x, methods=METHODS):
    for method in methods:
        wanted = salience.explain(net, x, method, target=1)[method]
        found = salience.explain(loaded, x, method, target=1)[method]
        assert torch.equal(found, wanted), method


def pictures(size=64):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def libraries():
    import_torchvision("tests", "pip install torchvision")
    import timm
    import torchvision

    return torchvision, timm


@pytest.mark.parametrize(
    "spec", ["torchvision:shufflenet_v2_x0_5", "timm:test_resnet", "timm:test_vit"]
)
def test_an_architecture_with_a_file_of_weights(tmp_path, spec):
    torchvision, timm = libraries()
    scheme, name = spec.split(":")
    torch.manual_seed(3)
    make = torchvision.models.get_model if scheme == "torchvision" else timm.create_model
    net = make(name).eval()
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    loaded = load_model(spec, tmp_path / "w.safetensors", seed=4)
    assert image_layout(loaded) == (3, False)
    same_maps(net, loaded, pictures(160 if name == "test_vit" else 64))


@pytest.mark.parametrize("spec", ["torchvision:shufflenet_v2_x0_5", "timm:test_resnet"])
def test_without_weights_there_is_a_warning(spec):
    libraries()
    with pytest.warns(SalienceWarning, match=r"random weights.*--weights"):
        first = load_model(spec, seed=1)
    with pytest.warns(SalienceWarning):
        same, other = load_model(spec, seed=1), load_model(spec, seed=2)
    states = [torch.cat([p.flatten() for p in m.parameters()]) for m in (first, same, other)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_nothing_is_downloaded(monkeypatch):
    """A segmentation network asks for the weights of its backbone, unless told not to."""
    libraries()
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", None)
    with pytest.warns(SalienceWarning, match="random weights"):
        load_model("torchvision:lraspp_mobilenet_v3_large")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision:resnet81", r"of torchvision; got 'resnet81'. Did you mean.*18"),
        ("torchvision:../net", r"got '../net'. It has \d+, such as"),
        ("timm:hf-hub:timm/resnet50", "an architecture of timm; got 'hf-hub:timm/resnet50'"),
        ("timm:RESNET18", r"Did you mean .*resnet18"),
    ],
)  # fmt: skip
def test_names_that_are_not_known(spec, message):
    libraries()
    with pytest.raises(SalienceError, match=message):
        load_model(spec)


# -- Hugging Face ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformers():
    libraries()
    return pytest.importorskip("transformers")


def classifier(transformers, kind):
    torch.manual_seed(0)
    if kind == "ResNet":
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=5
        )
    else:
        config = transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            image_size=64, patch_size=16, num_labels=5,
        )  # fmt: skip
    config._attn_implementation = "eager"
    return getattr(transformers, f"{kind}ForImageClassification")(config).eval()


@pytest.mark.parametrize("kind", ["ResNet", "ViT"])
def test_a_folder_of_hugging_face(transformers, tmp_path, kind):
    net = classifier(transformers, kind)
    net.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    same_maps(lambda x: net(pixel_values=x).logits, loaded, pictures())
    assert image_layout(loaded) == (3, False)
    assert {n for n, _ in loaded.named_parameters()} == {n for n, _ in net.named_parameters()}
    with pytest.raises(SalienceError, match=r"input \(B, 3, any, any\)"):
        loaded(torch.ones(2, 1, 64, 64))


def test_the_logits_are_explained_where_a_dict_has_them_alone(transformers):
    net, x = classifier(transformers, "ResNet"), pictures()
    maps = salience.explain(net, x, "gradient", target=1)["gradient"]
    wanted = salience.explain(lambda x: net(x).logits, x, "gradient", target=1)["gradient"]
    assert torch.equal(maps, wanted)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"),
         "safetensors file; got .*broken"),
        (lambda folder: (folder / "config.json").write_text("{}"), "broken or of another kind"),
        (lambda folder: (folder / "config.json").write_text(
            (folder / "config.json").read_text().replace('"vit"', '"bert"')), "of another kind"),
    ],
)  # fmt: skip
def test_folders_that_do_not_load(transformers, tmp_path, spoil, message):
    classifier(transformers, "ViT").save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises(SalienceError, match=message):
        load_model(str(tmp_path))


def test_a_network_without_its_classifier(transformers, tmp_path):
    net = classifier(transformers, "ViT")
    net.save_pretrained(tmp_path)
    state = {n: t.contiguous() for n, t in net.state_dict().items() if "classifier" not in n}
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(SalienceError, match=r"weights for every layer; got .*classifier"):
            load_model(str(tmp_path))
