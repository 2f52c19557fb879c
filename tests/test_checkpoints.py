"""What real checkpoints carry beside their weights, or name otherwise, is let be."""

import shutil

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from attrbind_exp.backbones.stable_diffusion import weights_digest
from attrbind_exp.backbones.weights import FILES
from tests.test_weights import change, copy_model, digests_of, edit_json, parts_of, refused, weights_of


@pytest.fixture
def folder(tmp_path):
    return copy_model(tmp_path)


@pytest.fixture(scope="module")
def bundled_digests(model):
    return [weights_digest(part) for part in parts_of(model)]


@pytest.mark.parametrize("wrapper", ["", "text_model."])
@pytest.mark.parametrize("ids", [None, torch.arange(24)[None], torch.arange(24.0)[None]])
def test_text_encoders_of_transformers_4(folder, wrapper, ids, bundled_digests):
    """All names in a wrapper, and the positions' numbers among the weights; merged models have them as fractions."""

    def age(tensors, names):
        for name in names:
            tensors[wrapper + name] = tensors.pop(name)
        if ids is not None:
            tensors[f"{wrapper}embeddings.position_ids"] = ids

    change(folder, "text_encoder", age)
    assert digests_of(folder) == bundled_digests
    change(folder, "text_encoder", lambda tensors, names: tensors.pop(f"{wrapper}final_layer_norm.bias"))
    refused(folder, "of 52 tensors 1 missing (final_layer_norm.bias)")


def test_position_ids_belong_to_text_encoders_alone(folder):
    change(folder, "unet", lambda tensors, _: tensors.update({"embeddings.position_ids": torch.arange(24)[None]}))
    refused(folder, "1 unexpected (embeddings.position_ids)")


def test_a_wrapper_around_some_names_twice(folder):
    change(folder, "text_encoder", lambda tensors, names: tensors.update({f"text_model.{names[0]}": torch.ones(1)}))
    refused(folder, "of 52 tensors 1 twice (")


OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def age_attention(tensors, names):
    """The names of the autoencoder's attention before diffusers 0.17."""
    for name in names:
        for new, old in OLD.items():
            if f"mid_block.attentions.0.{new}." in name:
                tensors[name.replace(new, old)] = tensors.pop(name)


def test_autoencoders_of_old(folder, bundled_digests):
    change(folder, "vae", age_attention)
    old = {name for name in load_file(weights_of(folder, "vae")) if name.split(".")[-2] in OLD.values()}
    assert len(old) == 16  # weight and bias, in encoder and decoder
    assert digests_of(folder) == bundled_digests
    theirs = AutoencoderKL.from_pretrained(folder / "vae")  # diffusers reads them alike
    assert weights_digest(theirs) == bundled_digests[1]
    change(folder, "vae", lambda tensors, names: tensors.pop("encoder.mid_block.attentions.0.proj_attn.bias"))
    refused(folder, "of 156 tensors 1 missing (encoder.mid_block.attentions.0.to_out.0.bias)")


def test_old_names_and_new_ones_are_too_many(folder):
    name = "decoder.mid_block.attentions.0.{}.weight"
    change(
        folder, "vae", lambda tensors, _: tensors.update({name.format("query"): tensors[name.format("to_q")].clone()})
    )
    refused(folder, "of 156 tensors 1 twice (decoder.mid_block.attentions.0.")


def test_safety_checkers_are_let_be(folder, bundled_digests):
    for part in ("safety_checker", "feature_extractor", "image_encoder"):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text("{")
        (folder / part / "model.safetensors").write_bytes(b"torn")
        (folder / part / "pytorch_model.bin").write_bytes(b"\x80\x04 a pickle")
    edit_json(
        folder / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPFeatureExtractor"],
        image_encoder=["transformers", "CLIPVisionModelWithProjection"],
        requires_safety_checker=True,
    )
    assert digests_of(folder) == bundled_digests


def test_ema_copies_and_other_files_beside_are_let_be(folder, bundled_digests):
    """As on the hub: weights before averaging, half-precision and pickled copies; unet_ema/ as diffusers' training leaves
    it, whose config has the averaging's settings."""
    for part, name in FILES.items():
        for kind in ("non_ema.", "ema.", "fp16.", "fp16.non_ema."):
            (folder / part / name.replace("safetensors", f"{kind}safetensors")).write_bytes(b"torn")
        (folder / part / name.replace("safetensors", "fp16.safetensors.index.json")).write_text("{")
        for other in (
            "diffusion_pytorch_model.bin",
            "pytorch_model.bin",
            "diffusion_pytorch_model.bin.index.json",
            "flax_model.msgpack",
        ):
            (folder / part / other).write_bytes(b"\x80\x04 a pickle")
    for name in ("v1-5-pruned-emaonly.safetensors", "v1-5-pruned.ckpt"):
        (folder / name).write_bytes(b"torn")
    shutil.copytree(folder / "unet", folder / "unet_ema")
    settings = {"decay": 0.9999, "inv_gamma": 1.0, "min_decay": 0.0, "optimization_step": 500, "power": 2 / 3,
                "update_after_step": 0, "use_ema_warmup": False, "_name_or_path": "x"}  # fmt: skip
    edit_json(folder / "unet" / "config.json", **settings)
    assert digests_of(folder) == bundled_digests
