"""The layouts in which checkpoints lie on disks: each gives the same latents and heat maps as the plain folder."""

import json
import re
import shutil
import socket

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from attrbind_exp.backbones import single_file
from attrbind_exp.backbones.backbone import encode_images
from attrbind_exp.backbones.headers import read_header, stored_types
from attrbind_exp.backbones.stable_diffusion import load_stable_diffusion
from attrbind_exp.backbones.weights import FILES, READ_HALF, find_model
from attrbind_exp.backbones.weights_digest import weights_digest
from attrbind_exp.backbones.window import load_tokenizer
from attrbind_exp.config import PACKAGE
from attrbind_exp.hub import WITHDRAWN, find_file, is_hub_name
from attrbind_exp.types import UserError
from tests import ldm_layout
from tests.conftest import make_segmenter, picture, shared
from tests.oracle import sharpen

BUNDLED = PACKAGE / "assets" / "bundled"
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
HALVED = {part: name.replace(".safetensors", ".fp16.safetensors") for part, name in FILES.items()}


def make_pipeline(kind):
    """Stable Diffusion 1.x's or 2.x's structure, small, with random weights that attend and half precision holds."""
    torch.manual_seed(0)
    second = kind == "sd2"
    tokenizer = CLIPTokenizer.from_pretrained(BUNDLED / "tokenizer", **({"pad_token": "!"} if second else {}))
    width = 1024 if second else 32  # what tells 2.x from 1.x
    text = CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, num_hidden_layers=2,
                          num_attention_heads=2, max_position_embeddings=24, hidden_act="gelu")  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32, 32, 32), attention_head_dim=[1, 2, 2, 2] if second else 2,
        cross_attention_dim=width, layers_per_block=2, norm_num_groups=8, use_linear_projection=second,
    )  # fmt: skip
    sharpen(unet)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 16), layers_per_block=2, norm_num_groups=4, sample_size=64,
    )  # fmt: skip
    scheduler = DDIMScheduler(**SCHEDULE, prediction_type="v_prediction") if second else PNDMScheduler(**SCHEDULE)
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        for values in part.parameters():  # no two tensors alike, as those of fresh norms are
            values.data.add_(torch.randn_like(values), alpha=0.02)
        part.half().float()
    return pipeline


def seen(path, dtype="fp32"):
    """Latents (B, c, h, w) and heat maps of two pictures, as a model gives them."""
    model = load_stable_diffusion(str(path), "cpu", dtype)
    images = [picture(60, 80, i) for i in range(2)]
    heats = make_segmenter(model)(images, ["a photograph of the white star", "the red heart"])
    return encode_images(model, images), np.stack([heat.values for heat in heats[:1]]), heats[1].values


def same(one, other):
    return torch.equal(one[0], other[0]) and all(map(np.array_equal, one[1:], other[1:]))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A pipeline of each kind, its plain folder, and what that gives."""
    found = {}
    for kind in ("sd1", "sd2"):
        pipeline, folder = make_pipeline(kind), tmp_path_factory.mktemp(kind) / "plain"
        pipeline.save_pretrained(folder)
        found[kind] = pipeline, folder, seen(folder)
        assert found[kind][1:][1][2].std() > 0.01
    return found


@pytest.fixture
def plain(made):
    return made["sd1"][1]


@pytest.fixture
def expected(made):
    return made["sd1"][2]


@pytest.fixture
def folder(plain, tmp_path):
    return shutil.copytree(plain, tmp_path / "model")


def refused(path, *words, dtype="fp32"):
    with pytest.raises(UserError) as error:
        load_stable_diffusion(str(path), "cpu", dtype)
    message = str(error.value)
    assert message.isprintable() and all(word in message for word in words), message
    return message


# The hub's cache


def put_revision(cache, name, revision, folder, links):
    """A revision of a repository as huggingface_hub lays it down: files named by their content and links to them, or,
    where a system has no links, the files themselves."""
    repository = cache / f"models--{name.replace('/', '--')}"
    for number, file in enumerate(f for f in sorted(folder.rglob("*")) if f.is_file()):
        target = repository / "snapshots" / revision / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        if links:
            blob = repository / "blobs" / f"{revision}{number}"
            blob.parent.mkdir(exist_ok=True)
            shutil.copy(file, blob)
            target.symlink_to(blob)
        else:
            shutil.copy(file, target)
    return repository


@pytest.mark.parametrize("links", [True, False])
def test_the_hub_cache_by_the_revision_that_is_asked_for(made, tmp_path, monkeypatch, links):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for revision, kind in (("aaa", "sd1"), ("bbb", "sd2")):
        repository = put_revision(tmp_path, "some/model", revision, made[kind][1], links)
    (repository / "refs" / "pr").mkdir(parents=True)
    (repository / "refs" / "main").write_text("aaa")
    (repository / "refs" / "pr" / "3").write_text("bbb")
    assert same(seen("some/model"), made["sd1"][2])
    assert find_model("some/model@bbb") == find_model("some/model@pr/3") == repository / "snapshots" / "bbb"
    assert weights_digest("some/model@bbb") == weights_digest(str(made["sd2"][1]))
    (repository / "refs" / "main").write_text("bbb")
    assert same(seen("some/model"), made["sd2"][2])
    refused("some/model@ccc", "'hf download some/model --revision ccc --include")


def test_what_is_a_name_on_the_hub():
    assert all(map(is_hub_name, ("some/model", "some/model@main", "some/model@refs/pr/3")))
    assert not any(map(is_hub_name, ("folder/model.safetensors", "/some/model", "model", "some/model@", "a/b/c")))
    assert find_file("folder/model.safetensors", "reading.json") is None


@pytest.mark.parametrize("name", WITHDRAWN)
def test_a_name_that_was_taken_down_is_answered_by_its_mirror(name, tmp_path, monkeypatch, plain):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    message = refused(name, f"its mirror is {WITHDRAWN[name]}", f"'hf download {WITHDRAWN[name]} --include")
    assert "\n" not in message and f"download {name}" not in message
    repository = put_revision(tmp_path, name, "aaa", plain, links=False)  # who has it from then needs no mirror
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("aaa")
    assert find_model(name) == repository / "snapshots" / "aaa"


# Several files, and files in half precision


def halve(folder, keep=False):
    """Each part's weights in half precision under the hub's name for them, beside those in full or in their place."""
    for part, name in FILES.items():
        tensors = {key: values.half() for key, values in load_file(folder / part / name).items()}
        save_file(tensors, folder / part / HALVED[part], {"format": "pt"})
        if not keep:
            (folder / part / name).unlink()


def test_half_precision_alone_is_read(folder, expected):
    halve(folder)
    assert same(seen(folder), expected)
    assert stored_types(str(folder), False) == [torch.float16]


def test_of_two_sets_the_one_that_fits_is_read(folder, plain):
    halve(folder, keep=True)
    changed = {key: values + 1 for key, values in load_file(folder / "unet" / HALVED["unet"]).items()}
    save_file(changed, folder / "unet" / HALVED["unet"], {"format": "pt"})
    name, own = "conv_in.bias", load_file(plain / "unet" / FILES["unet"])["conv_in.bias"]
    for dtype, added in (("fp32", 0), ("bf16", 0), ("fp16", 1)):
        found = load_stable_diffusion(str(folder), "cpu", dtype).unet.state_dict()[name]
        torch.testing.assert_close(found, (own + added).to(found.dtype), rtol=1e-2, atol=1e-2)
    assert stored_types(str(folder), half=True)[0] == torch.float16
    assert stored_types(str(folder), half=False)[0] == torch.float32
    assert weights_digest(str(folder)) == weights_digest(str(plain)) != weights_digest(str(folder), half=True)
    halve(folder)
    assert weights_digest(str(folder), half=True) == weights_digest(str(folder), half=False)


def test_shards_are_read(made, tmp_path, expected):
    made["sd1"][0].save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards" / "unet").glob("*-of-*.safetensors"))) > 2
    assert same(seen(tmp_path / "shards"), expected)
    made["sd1"][0].unet.save_pretrained(tmp_path / "shards" / "unet", max_shard_size="100KB", variant="fp16")
    assert list((tmp_path / "shards" / "unet").glob("*.index.fp16.json"))
    for file in (tmp_path / "shards" / "unet").glob("*model-*"):
        file.unlink()
    (tmp_path / "shards" / "unet" / f"{FILES['unet']}.index.json").unlink()
    assert same(seen(tmp_path / "shards"), expected)


def test_half_precision_is_fetched_by_its_patterns():
    from huggingface_hub.utils import filter_repo_objects

    names = [f"{part}/{name}" for part, name in HALVED.items()] + ["unet/config.json", "tokenizer/merges.txt"]
    assert (
        list(filter_repo_objects([*names, "unet/diffusion_pytorch_model.safetensors"], allow_patterns=list(READ_HALF)))
        == names
    )


# A single file


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the net is asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def small_configs(made, tmp_path, monkeypatch):
    """The configurations of the small models in the place of the real ones, which our files fit no less."""
    for kind in ("sd1", "sd2"):
        shutil.copytree(
            made[kind][1],
            tmp_path / "configs" / kind,
            ignore=lambda _, names: {n for n in names if n.endswith("safetensors")},
        )
    shutil.copytree(BUNDLED / "tokenizer", tmp_path / "configs" / "tokenizer")
    monkeypatch.setattr(single_file, "CONFIGS", tmp_path / "configs")


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_a_single_file_is_the_folder(made, kind, tmp_path, offline, small_configs):
    pipeline, plain, expected = made[kind]
    file = tmp_path / "model.safetensors"
    tensors = ldm_layout.single_file(pipeline)
    ema = {
        f"model_ema.{i}": torch.ones(1) for i in range(101)
    }  # what training left, and what is no number of the model
    beside = {
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(24)[None],
        "betas": torch.ones(1000),
    }
    save_file(tensors | ema | (beside if kind == "sd1" else {}), file)
    assert same(seen(file), expected)
    assert load_tokenizer(str(file)).pad_token == load_tokenizer(str(plain)).pad_token
    assert weights_digest(str(file)) and stored_types(str(file), False)[0] == torch.float32
    save_file({name: values.half() for name, values in tensors.items()}, file)
    assert same(seen(file), expected)


def test_a_single_file_is_read_as_diffusers_reads_it(made, tmp_path):
    pipeline, plain, _ = made["sd1"]
    file = tmp_path / "model.safetensors"
    save_file(ldm_layout.single_file(pipeline), file)
    theirs = UNet2DConditionModel.from_single_file(
        str(file), config=str(plain), subfolder="unet", local_files_only=True
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(theirs.state_dict().values(), pipeline.unet.state_dict().values(), strict=True)
    )


def test_single_files_that_are_not_whole_or_something_else(made, tmp_path, small_configs):
    file, tensors = tmp_path / "model.safetensors", ldm_layout.single_file(made["sd1"][0])
    first = tensors.pop("model.diffusion_model.input_blocks.1.0.in_layers.0.weight")
    save_file(tensors, file)
    refused(
        file,
        f"'{file}' does not fit unet/config.json",
        "1 missing (down_blocks.0.resnets.0.norm1.weight)",
        "get the file again",
    )
    tensors["model.diffusion_model.input_blocks.1.0.in_layers.0.weight"] = first
    save_file(tensors | {"conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": torch.ones(1)}, file)
    refused(file, "no Stable Diffusion 1.x or 2.x: found the kind that diffusers calls 'xl_base'")
    entry = single_file.ALWAYS
    save_file(tensors | {entry: tensors[entry].repeat(1, 3, 1, 1)[:, :9].contiguous()}, file)
    refused(file, "diffusers calls 'inpainting'")
    save_file({"lora_unet_mid_block.lora_up.weight": torch.ones(1)}, file)
    refused(file, "found a LoRA alone, which is given as model.lora=FILE")
    save_file({"emb_params": torch.ones(1)}, file)
    refused(file, "no model.diffusion_model.input_blocks.0.0.weight in it")
    file.write_bytes(b"torn")
    refused(file, "cannot be read", "get the file again")
    (tmp_path / "model.onnx").touch()
    refused(tmp_path / "model.onnx", "is a file, but no safetensors")


@pytest.mark.parametrize("part", FILES)
@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_the_configurations_for_single_files_are_those_of_the_models(kind, part):
    """As the models' publishers give them; 1.x's is at hand."""
    ours = json.loads((PACKAGE / "assets" / "single_file" / kind / part / "config.json").read_text())
    expected = {
        ("sd1", "unet"): {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64},
        ("sd2", "unet"): {
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "sample_size": 96,
            "use_linear_projection": True,
        },
        ("sd1", "text_encoder"): {"hidden_size": 768, "num_hidden_layers": 12, "hidden_act": "quick_gelu"},
        ("sd2", "text_encoder"): {"hidden_size": 1024, "num_hidden_layers": 23, "hidden_act": "gelu"},
    }.get((kind, part), {"block_out_channels": [128, 256, 512, 512], "scaling_factor": 0.18215})
    assert expected.items() <= ours.items()
    if kind == "sd1":
        theirs = json.loads((shared("sd15_config") / part / "config.json").read_text())
        assert all(ours.get(key) == value for key, value in theirs.items() if key in ours)


def test_the_tokenizer_for_single_files_is_clips():
    ours = CLIPTokenizer.from_pretrained(PACKAGE / "assets" / "single_file" / "tokenizer")
    texts = ["a photograph of the white star!", "Größe 42 cafés", ""]
    assert ours(texts).input_ids == load_tokenizer(str(shared("sd15_config")))(texts).input_ids
    assert ours.convert_tokens_to_ids("!") == 0


# Pickles


def code_in(message):
    return re.search(r'python -c "(.+?)"', message)[1]


def test_pickles_are_refused_with_the_command_that_works(made, folder, tmp_path, small_configs, expected):
    file = tmp_path / "model.ckpt"
    torch.save({"state_dict": ldm_layout.single_file(made["sd1"][0]), "global_step": 7}, file)
    message = refused(
        file, "could run any code and is not read", f"then give model.path={tmp_path / 'model.safetensors'}"
    )
    exec(code_in(message), {})
    assert same(seen(tmp_path / "model.safetensors"), expected)
    for part, name in FILES.items():
        pickle = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
        torch.save(load_file(folder / part / name), folder / part / pickle)
        (folder / part / name).unlink()
    message = refused(folder, "lacks weights", "pickles are not read; save them once as safetensors by python -c")
    exec(code_in(message), {})
    assert same(seen(f"{folder}-safetensors"), expected)


# What is predicted


def test_what_a_model_predicts_changes_no_map(folder, expected):
    """Only the noise that is added and the UNet's attention count: v-prediction and epsilon give the same, bit for bit."""
    file = folder / "scheduler" / "scheduler_config.json"
    for kind in ("v_prediction", "epsilon", "sample"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": kind}))
        assert same(seen(folder), expected)


@pytest.mark.slow
def test_the_exact_architecture_as_a_single_file(tmp_path, offline):
    """Stable Diffusion 1.5's own size, random weights in half precision: 2 GB in each form."""
    source = shared("sd15_config")
    torch.set_default_dtype(torch.float16)
    try:
        parts = {"unet": UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(source / "unet")),
                 "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(source / "vae")),
                 "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(source / "text_encoder"))}  # fmt: skip
    finally:
        torch.set_default_dtype(torch.float32)
    pipeline = StableDiffusionPipeline(**parts, tokenizer=load_tokenizer(str(source)), scheduler=PNDMScheduler(**SCHEDULE),
                                       safety_checker=None, feature_extractor=None, requires_safety_checker=False)  # fmt: skip
    file = tmp_path / "v1-5.safetensors"
    save_file(ldm_layout.single_file(pipeline), file)
    assert len(read_header(file)) == 1130
    model = load_stable_diffusion(str(file), "cpu", "fp16")
    for part in FILES:
        own, found = (getattr(x, part).state_dict() for x in (pipeline, model))
        assert list(own) == list(found) and all(torch.equal(own[name], found[name]) for name in own)
