"""Folders of Hugging Face describe: nothing is fetched, run or built beyond their weights."""

import builtins
import copy
import importlib
import io
import json
import os
import socket
import threading
import tracemalloc
import urllib.request
from pathlib import Path

import folder_nets
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from salience import SalienceError
from salience._cli.app import app
from salience.models import load_model
from salience.models._budget import no_larger_than
from salience.models._optional import import_torchvision, need

PICTURE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


class Reached(BaseException):
    """Passes every `except Exception` on its way."""


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("transformers")
    import_torchvision("tests", "pip install torchvision")
    return importlib.import_module("transformers")


@pytest.fixture(autouse=True)
def sealed(transformers, monkeypatch):
    """The network, the loaders of kernels, of remote code and of pickles end the test."""

    def reach(name):
        def reached(*args, **kwargs):
            raise Reached(name)

        return reached

    hub = importlib.import_module("huggingface_hub.utils._http")
    kernels = importlib.import_module("transformers.integrations.hub_kernels")
    loaders = ["load_and_register_attn_kernel", "lazy_load_kernel", "get_kernel", "kernelize",
               "register_kernel_replacements_and_fusions"]  # fmt: skip
    remote = importlib.import_module("transformers.dynamic_module_utils")
    for place, names in (
        (socket.socket, ["connect", "connect_ex"]), (socket, ["create_connection", "getaddrinfo"]),
        (urllib.request, ["urlopen", "urlretrieve"]), (hub, ["get_session", "http_backoff"]),
        (kernels, loaders), (remote, ["get_class_from_dynamic_module", "get_class_in_module"]),
        (torch, ["load"]), (torch.hub, ["load", "load_state_dict_from_url"]),
    ):  # fmt: skip
        for name in names:
            monkeypatch.setattr(place, name, reach(name))


@pytest.fixture(scope="module")
def saved(transformers, tmp_path_factory):
    """Folders of networks by their family, saved once."""
    made = {}

    def folder(family):
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            folder_nets.network(transformers, family).save_pretrained(made[family])
        return made[family]

    return folder


@pytest.fixture
def changed(saved, tmp_path):
    """A folder whose config.json says something else or more."""

    def change(family, fields):
        origin = saved(family)
        config = json.loads((origin / "config.json").read_text())
        for name, value in fields.items():
            held = config
            *above, last = name.split(".")
            for part in above:
                held[part] = held.get(part) or {}
                held = held[part]
            held[last] = copy.deepcopy(value)
        (tmp_path / "config.json").write_text(json.dumps(config))
        for file in origin.glob("*.safetensors"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
        return tmp_path

    return change


# -- good folders ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", folder_nets.NETWORKS)
def test_a_folder_of_each_family_loads(transformers, tmp_path, name):
    net = folder_nets.network(transformers, name)
    net.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    side = folder_nets.side(name)
    x = PICTURE[..., :side, :side]
    assert torch.equal(loaded(x), net(pixel_values=x).logits)
    assert loaded(x).shape == (1, 5)
    assert not loaded.training


def test_every_family_of_the_table_is_built_here():
    fields = importlib.import_module("salience.models._huggingface_fields")
    built = {name.partition("/")[0] for name in folder_nets.NETWORKS}
    assert built == fields._FAMILIES.keys() - {"dinat"}  # needs natten


@pytest.mark.parametrize(
    ("name", "args"), [("test_resnet", {}), ("test_vit", {"img_size": 64, "in_chans": 1})]
)
def test_a_folder_as_timm_saves_it(tmp_path, name, args):
    timm = need("timm", "tests", "pip install timm")
    net = timm.create_model(name, num_classes=7, **args).eval()
    save_file(net.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    told = {key: net.pretrained_cfg[key] for key in ("input_size", "mean", "std", "classifier")}
    told |= {
        "tag": "r160_in1k",
        "custom_load": False,
        "license": "apache-2.0",
        "origin_url": "https://x.org/y",
    }
    config = {"architecture": f"{name}.r160_in1k", "num_classes": 7, "num_features": 64,
              "global_pool": "avg", "pretrained_cfg": told, "model_args": args}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded, x = load_model(str(tmp_path)), PICTURE[:, : args.get("in_chans", 3)]
    assert torch.equal(loaded(x), net(x))


def test_what_says_nothing_about_the_network_is_allowed(changed):
    """As older versions save it, and as hubs add to it."""
    folder = changed("vit", {
        "_attn_implementation": "sdpa", "_attn_implementation_autoset": True, "pruned_heads": {},
        "torch_dtype": "load", "_name_or_path": "/home/user/net", "task_specific_params": None,
        "output_attentions": True, "return_dict": False, "top_p": 1.0, "problem_type": "x",
    })  # fmt: skip
    assert load_model(str(folder))(PICTURE[..., :32, :32]).shape == (1, 5)


def test_weights_in_several_files(transformers, tmp_path):
    net = folder_nets.network(transformers, "vit").half()
    net.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = load_model(str(tmp_path)).state_dict()
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float16}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in net.state_dict().items())


def test_a_network_does_not_change_with_its_file(changed):
    folder = changed("vit", {})
    loaded, x = load_model(str(folder)), PICTURE[..., :32, :32]
    before = loaded(x)
    file = folder / "model.safetensors"
    with file.open("r+b") as held:
        held.seek(file.stat().st_size - 4096)
        held.write(b"\xff" * 4096)
    assert torch.equal(loaded(x), before)


# -- hostile fields -------------------------------------------------------------------------------

HOSTILE = [
    *[("vit", {name: value}) for name, value in {
        "_attn_implementation": "user/repo", "attn_implementation": "user/repo:fn",
        "_attn_implementation_internal": "user/repo", "_experts_implementation": "user/repo",
        "use_kernels": True, "kernel_config": {"kernel_mapping": {"RMSNorm": "user/repo:fn"}},
        "hub_kernels": {"layer": "user/repo"}, "allow_all_kernels": True, "trust_remote_code": True,
        "quantization_config": {"quant_method": "bitsandbytes"}, "fusion_config": {"x": True},
        "transformers_weights": "../other.safetensors", "key_mapping": {"a": "b"},
        "per_layer_config": {"0": {"hidden_size": 4}}, "distributed_config": {}, "extra_files": [],
        "base_model_name_or_path": "user/repo", "custom_pipelines": {}, "pruned_heads": {"0": [1]},
        "backbone": "user/repo", "backbone_config": {"model_type": "timm_backbone"},
        "__class__": "x", "forward": 1, "hidden_act": "user/repo", "layer_norm_eps": "1e-5",
        "patch_size": {"a": 1}, "image_size": [[[[[[8]]]]]], "hidden_size": float("nan"),
        "auto_map": {"AutoModel": "user/repo--net.Net"}, "model_type": "timm_backbone",
    }.items()],
    *[("clip", {name: "user/repo"}) for name in (
        "vision_config._attn_implementation", "text_config._attn_implementation",
        "vision_config.hidden_act", "vision_config_dict", "text_config.auto_map", "vision_config",
    )],
    *[("timm_wrapper", {"architecture": name}) for name in (
        "hf-hub:user/repo", "hf_hub:user/repo", "local-dir:/tmp", "../net", "user/repo", 3,
    )],
    *[("timm_wrapper", {f"model_args.{name}": value}) for name, value in {
        "checkpoint_path": "/tmp/evil.pth", "pretrained": True, "pretrained_cfg": {"file": "x"},
        "pretrained_cfg_overlay": {"url": "https://x.org"}, "cache_dir": "/tmp", "features_only": 1,
        "act_layer": "os.system", "norm_layer": {"class": "x"}, "global_pool": "/tmp/x", "block": 1,
    }.items()],
    *[("timm_wrapper", {f"pretrained_cfg.{name}": value}) for name, value in {
        "file": "/tmp/evil.pth", "url": "https://x.org", "hf_hub_id": "user/repo", "source": "file",
        "hf_hub_filename": "x", "custom_load": True, "state_dict": {}, "architecture": "x",
    }.items()],
]  # fmt: skip


@pytest.mark.parametrize(("family", "fields"), HOSTILE, ids=lambda given: str(given)[:60])
def test_a_field_beyond_an_architecture_is_refused(changed, family, fields):
    folder = changed(family, fields)
    (folder / "x.npy").write_bytes(b"")  # never read
    result = CliRunner().invoke(
        app, ["explain", str(folder), str(folder / "x.npy"), "-o", str(folder / "out")]
    )
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: expected ")
    assert next(iter(fields)) in result.stderr
    with pytest.raises(SalienceError):
        load_model(str(folder))


def test_no_other_file_of_a_folder_is_read(changed, monkeypatch):
    folder = changed("vit", {})
    for name in ("adapter_config.json", "generation_config.json", "preprocessor_config.json",
                 "configuration.json", "quantize_config.json"):  # fmt: skip
        (folder / name).write_text('{"base_model_name_or_path": "user/repo"}')
    opened = []
    real = builtins.open

    def watched(file, *args, **kwargs):
        opened.append(Path(str(file)))
        return real(file, *args, **kwargs)

    for module in (builtins, io):
        monkeypatch.setattr(module, "open", watched)
    load_model(str(folder))
    assert {file.name for file in opened if file.parent == folder} == {"config.json"}


@pytest.mark.parametrize("name", [".", "a..b", "__class__", "vit.forward", "config", "x" * 10**6])
def test_weights_that_the_network_does_not_have_are_left_out(saved, changed, name):
    folder = changed("vit", {})
    state = load_file(folder / "model.safetensors")
    save_file({**state, name: torch.ones(3)}, folder / "model.safetensors")
    loaded, same = load_model(str(folder)), load_model(str(saved("vit")))
    assert loaded.state_dict().keys() == same.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[n], t) for n, t in same.state_dict().items())


def test_weights_of_other_shapes_are_told(changed):
    folder = changed("vit", {"intermediate_size": 24})
    with pytest.raises(SalienceError, match=r"fc1\.bias \(32,\) instead of \(24,\)|\(24, 16\)"):
        load_model(str(folder))


@pytest.mark.parametrize("version", ["1.0.15", "0.9.16"])
def test_a_timm_that_unpickles_is_refused(saved, monkeypatch, version):
    timm = need("timm", "tests", "pip install timm")
    monkeypatch.setattr(timm, "__version__", version)
    for spec in ("timm:test_resnet", str(saved("timm_wrapper"))):
        with pytest.raises(SalienceError, match=rf"timm 1.0.16 or newer; got {version}.* -U 'sal"):
            load_model(spec)
    load_model(str(saved("vit")))  # needs no timm
    monkeypatch.setattr(timm, "__version__", "1.0.16.dev0")
    load_model(str(saved("timm_wrapper")))


# -- bombs ----------------------------------------------------------------------------------------

BOMBS = [
    ("vit", {"num_hidden_layers": 10**6}, "num_hidden_layers"),
    ("vit", {"num_hidden_layers": 8000}, "larger one: more than 336 tensors"),
    ("vit", {"hidden_size": 10**9}, "hidden_size"),
    ("vit", {"hidden_size": 8000, "intermediate_size": 8000}, "larger one: more than"),
    ("vit", {"hidden_size": 10**400}, "hidden_size"),
    ("vit", {"image_size": 8192, "patch_size": 1}, "image_size"),
    ("vit", {"id2label": None, "num_labels": 10**8}, "num_labels"),
    ("vit", {"id2label": {str(n): "x" for n in range(10**5)}}, "id2label"),
    ("vit", {"id2label": None, "num_labels": -1}, "num_labels"),
    ("clip", {"vision_config.num_hidden_layers": 8000}, "larger one: more than"),
    ("swin", {"depths": [8000, 8000]}, "larger one: more than"),
    ("swin", {"window_size": 8000}, "larger one: more than"),
    ("swin", {"depths": [1] * 10**5}, "depths"),
    ("donut-swin", {"depths": [8192] * 8192}, "depths"),  # a minute of drop rates
    ("levit", {"image_size": 8192}, "image_size"),  # days of comparing patches in Python
    ("levit", {"patch_size": 1}, "image_size"),
    ("levit", {"patch_size": 0}, "image_size"),
    ("levit", {"image_size": None}, "image_size"),
    ("levit", {"padding": 4}, "padding"),  # minutes for a pass
    ("cvt", {"patch_padding": [2, 1, 8]}, "patch_padding"),
    ("cvt", {"padding_kv": [1, -8, 1]}, "padding_kv"),
    ("hiera", {"patch_padding": [3, 8]}, "patch_padding"),
    ("poolformer", {"padding": [8, 1]}, "padding"),
    ("swiftformer", {"down_pad": 8}, "down_pad"),
    ("perceiver", {"num_blocks": 1000}, "num_blocks"),  # the same weights: half a minute
    ("vit", {"patch_size": [8] * 3}, "image_size"),
    ("convnext", {"patch_size": [8192] * 256},
     "broken or of another kind: Storage size .{,200} Save"),
    ("beit", {"image_size": 8192, "patch_size": 8}, "image_size"),
    ("clip", {"vision_config.image_size": 8192}, "image_size"),
    ("efficientnet", {"depth_coefficient": 1e300}, "depth_coefficient"),
    ("efficientnet", {"depth_coefficient": 8000.0}, "larger one: more than"),
    ("dinov2", {"mlp_ratio": 8000}, "larger one: more than"),
    ("perceiver", {"num_latents": 8000, "d_latents": 8000}, "larger one: more than"),
    ("timm_wrapper", {"architecture": "vit_base_patch16_224", "model_args": {"depth": 8000}},
     "larger one: more than"),
    ("timm_wrapper", {"model_args": {"in_chans": 10**7}}, "model_args.in_chans"),
    ("timm_wrapper", {"num_classes": 10**8}, "num_classes"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "fields", "message"), BOMBS, ids=lambda given: str(given)[:60])
def test_a_network_larger_than_its_weights_is_refused(saved, changed, family, fields, message):
    load_model(str(saved(family)))  # imports what the family needs
    folder = changed(family, fields)
    tracemalloc.start()
    try:
        with pytest.raises(SalienceError, match=message):
            load_model(str(folder))
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 10**5 + "]" * 10**5, "broken"),
        ('{"a":' * 10**5 + "0" + "}" * 10**5, "broken"),
        ('{"hidden_size": ' + "9" * 10**5 + "}", "broken"),
        ('{"a": "' + "x" * 2**23 + '"}', "at most 8388608 bytes; got 838"),
        ('{"\\udc80": 1}', "broken or of another kind"),
    ],
    ids=["lists", "fields", "digits", "long", "surrogate"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_that_is_no_description(changed, name, text, message):
    folder = changed("vit", {})
    (folder / name).write_text(text)
    if name != "config.json":
        (folder / "model.safetensors").unlink()
        message = message.replace("broken or of another kind", "an index of files")
    with pytest.raises(SalienceError, match=message):
        load_model(str(folder))


@pytest.mark.parametrize("named", ["/etc/passwd", "../x.safetensors", "a/b", "C:x", ".x", 3, None])
def test_an_index_names_files_of_its_folder(changed, named):
    folder = changed("vit", {})
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "other.safetensors"}}))
    load_model(str(folder))
    index.write_text(json.dumps({"weight_map": {"a": "other.safetensors", "b": named}}))
    with pytest.raises(SalienceError, match=r"paths to elsewhere|an index of files"):
        load_model(str(folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_link_out_of_the_folder_is_refused(changed, tmp_path_factory, name):
    folder, elsewhere = changed("vit", {}), tmp_path_factory.mktemp("elsewhere") / name
    (folder / name).rename(elsewhere)
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(SalienceError, match=f"{name}, a link to elsewhere"):
        load_model(str(folder))


def test_a_side_without_entries_allows_no_labels(changed):
    """A tensor (0, n) takes no bytes, whatever n is."""
    folder = changed("vit", {"id2label": None, "num_labels": 10**7})
    state = load_file(folder / "model.safetensors")
    save_file({**state, "x": torch.empty(0, 10**7)}, folder / "model.safetensors")
    with pytest.raises(SalienceError, match=r"num_labels in .* as labels that its weights can"):
        load_model(str(folder))


def test_a_pass_of_more_than_a_limit_is_refused(changed):
    """What strides has no weights that would tell."""
    folder = changed("cvt", {"patch_stride": [1, 1, 1]})
    with pytest.raises(SalienceError, match=r"at most 1 MB; got a network with"):
        load_model(str(folder), max_bytes=10**6)(PICTURE[..., :32, :32])


def test_a_budget_counts_one_thread_and_each_place_once():
    with no_larger_than([(4, 4)], "it"):
        layer = torch.nn.Linear(4, 4)
        for _ in range(1000):
            layer.weight = torch.nn.Parameter(torch.ones(4, 4))
        worker = threading.Thread(
            target=lambda: made.append(torch.nn.Linear(10**5, 10**5, device="meta"))
        )
        made = []
        worker.start()
        worker.join()
        assert made
        with pytest.raises(SalienceError, match=r"got it, which describes a larger one.* values"):
            torch.nn.Linear(10**5, 10**5, device="meta")
    with no_larger_than([(4, 4)], "it"), pytest.raises(SalienceError, match="258 tensors"):
        [torch.nn.Linear(1, 1) for _ in range(1000)]
    assert torch.nn.Linear(10**5, 10**5, device="meta").weight.numel() == 10**10


def test_weights_are_regular_files_of_a_limit(changed):
    folder = changed("vit", {})
    with pytest.raises(SalienceError, match=r"--max-bytes 1GB"):
        load_model(str(folder), max_bytes=1000)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "pipe.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    os.mkfifo(folder / "pipe.safetensors")
    with pytest.raises(SalienceError, match="a pipe or a device"):
        load_model(str(folder))
