"""LoRAs are added to the weights once, to the number, or refused."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from attrbind_exp import config
from attrbind_exp.backbones.stable_diffusion import load_stable_diffusion
from attrbind_exp.backbones.weights import FILES
from attrbind_exp.backbones.weights_digest import loras_digest, weights_digest
from attrbind_exp.commands.parts import with_model
from attrbind_exp.config import PACKAGE
from attrbind_exp.runs.provenance import Identity, check_same
from attrbind_exp.types import UserError
from tests.conftest import make_segmenter, picture
from tests.test_command import composed

BUNDLED = PACKAGE / "assets" / "bundled"
RANK, ALPHA = 4, 2.0
# Layers that LoRAs usually change, in each block and in the text encoder; a convolution's factors are convolutions.
LAYERS = {
    "unet": ["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
             "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0", "up_blocks.3.attentions.0.proj_in"],
    "text_encoder": ["encoder.layers.0.self_attn.q_proj", "encoder.layers.2.mlp.fc1"],
}  # fmt: skip


def pairs(model, seed=0):
    """{part: {layer: (A, B)}} of random factors, and {part: {layer: B A}} in the shape of its weight."""
    torch.manual_seed(seed)
    factors, products = {}, {}
    for part, names in LAYERS.items():
        weights = getattr(model, part).state_dict()
        for name in names:
            shape = weights[f"{name}.weight"].shape
            more = (1, 1) if len(shape) == 4 else ()
            down, up = torch.randn(RANK, shape[1], *more), torch.randn(shape[0], RANK, *more)
            factors[part, name] = (down, up)
            products[part, name] = (up.flatten(1) @ down.flatten(1)).view(shape)
    return factors, products


def diffusers_names(factors):
    """As diffusers' training scripts save them: alpha is the rank."""
    found = {}
    for (part, name), (down, up) in factors.items():
        whole = f"{part}.{'text_model.' if part == 'text_encoder' else ''}{name}"
        found |= {f"{whole}.lora_A.weight": down, f"{whole}.lora_B.weight": up}
    return found


def old_names(factors):
    """As diffusers' training scripts saved them until peft: attention by its processors."""
    found = {}
    for (part, name), (down, up) in factors.items():
        whole = f"{part}.{'text_model.' if part == 'text_encoder' else ''}{name}"
        if "attn" in name:
            whole = whole.replace("self_attn.q_proj", "self_attn.to_q").removesuffix(".0")
            whole = re.sub(r"(attn\d)\.", r"\1.processor.", whole) + "_lora"
        else:
            whole += ".lora" if part == "unet" else ".lora_linear_layer"
        found |= {f"{whole}.down.weight": down, f"{whole}.up.weight": up}
    return found


def kohya_names(factors):
    """As kohya's scripts save them, and the web has them."""
    found = {}
    for (part, name), (down, up) in factors.items():
        whole = f"lora_unet_{name}" if part == "unet" else f"lora_te_text_model_{name}"
        whole = whole.replace(".", "_")
        found |= {
            f"{whole}.lora_down.weight": down,
            f"{whole}.lora_up.weight": up,
            f"{whole}.alpha": torch.tensor(ALPHA),
        }
    return found


def states(model):
    return {(part, name): values for part in LAYERS for name, values in getattr(model, part).state_dict().items()}


def load(lora, scale=1.0):
    return load_stable_diffusion(str(BUNDLED), "cpu", lora=lora, lora_scale=scale)


@pytest.mark.parametrize(("named", "factor"), [(diffusers_names, 1.0), (old_names, 1.0), (kohya_names, ALPHA / RANK)])
@pytest.mark.parametrize("scale", [1.0, 0.3, -0.5])
def test_a_weight_becomes_itself_and_the_product(model, tmp_path, named, factor, scale):
    factors, products = pairs(model)
    save_file(named(factors), tmp_path / "lora.safetensors")
    before, after = states(model), states(load(str(tmp_path / "lora.safetensors"), scale))
    assert list(before) == list(after)  # the structure is as it was
    changed = {
        (part, name.removesuffix(".weight"))
        for part, name in before
        if not torch.equal(before[part, name], after[part, name])
    }
    assert changed == set(products)
    for (part, name), product in products.items():
        expected = before[part, f"{name}.weight"] + scale * factor * product
        torch.testing.assert_close(after[part, f"{name}.weight"], expected, rtol=1e-5, atol=1e-5)


def test_several_add_up_and_zero_is_nothing(model, tmp_path):
    made = [pairs(model, seed) for seed in (1, 2)]
    files = [str(tmp_path / f"{i}.safetensors") for i in (1, 2)]
    for file, (factors, _) in zip(files, made, strict=True):
        save_file(diffusers_names(factors), file)
    typed = config.read_settings(
        composed("model=bundled", f"model.lora=[{','.join(files)}]", "model.lora_scale=[0.5,2]")
    )
    before, after = states(model), states(typed.segmenter.model.load())
    for part, name in made[0][1]:
        expected = before[part, f"{name}.weight"] + 0.5 * made[0][1][part, name] + 2 * made[1][1][part, name]
        torch.testing.assert_close(after[part, f"{name}.weight"], expected, rtol=1e-5, atol=1e-5)
    nothing = states(load(files, 0))
    for key, values in before.items():
        assert torch.equal(values.view(torch.uint8), nothing[key].view(torch.uint8))  # the sign of a zero, too
    with pytest.raises(UserError, match=r"model\.lora_scale=much; give a number"):
        load(files, "much")
    with pytest.raises(UserError, match=r"model\.lora_scale=\[1\.0\] has 1 numbers for 2 files"):
        load(files, [1.0])


@pytest.mark.parametrize("named", [diffusers_names, old_names, kohya_names])
def test_loras_for_other_models_are_refused(model, tmp_path, named):
    factors, _ = pairs(model)
    file = tmp_path / "lora.safetensors"
    key = ("unet", LAYERS["unet"][1])
    wider = factors | {key: (torch.randn(RANK, 768), factors[key][1])}
    twin = tuple(values.clone() for values in factors[key])
    absent = factors | {("unet", "down_blocks.3.attentions.0.transformer_blocks.0.attn1.to_q"): twin}
    for spoilt in (wider, absent):
        save_file(named(spoilt), file)
        with pytest.raises(UserError, match=r"model\.lora='.*does not fit this model") as error:
            load(str(file))
        assert str(error.value).isprintable()


def test_files_that_are_no_loras_are_refused(tmp_path):
    file = tmp_path / "lora.safetensors"
    for names, words in (
        (["emb_params"], "is no LoRA that is read here: found emb_params"),
        (
            ["lora_unet_x.lora_down.weight", "lora_unet_x.dora_scale"],
            "is no LoRA that is read here: found lora_unet_x.dora_scale",
        ),
        (["lora_unet_x.lora_down.weight", "lora_unet_x.lora_up.weight"], "found unet_x"),  # of one dimension
        (["lora_unet_x.hada_w1_a"], "is no LoRA that is read here: found lora_unet_x.hada_w1_a"),
    ):
        save_file({name: torch.ones(1) for name in names}, file)
        with pytest.raises(UserError, match=words):
            load(str(file))
    file.write_bytes(b"torn")
    with pytest.raises(UserError, match=r"cannot be read .*get the file again"):
        load(str(file))
    with pytest.raises(UserError, match="does not exist; give a LoRA's safetensors"):
        load(str(tmp_path / "nothing.safetensors"))
    (tmp_path / "lora.pt").touch()
    with pytest.raises(UserError, match="pickles are not read"):
        load(str(tmp_path / "lora.pt"))


def test_what_a_header_says_of_the_training(model, tmp_path):
    """alpha is not the rank; and what would need another sum is refused."""
    factors, products = pairs(model)
    file = tmp_path / "lora.safetensors"
    settings = {
        "unet.lora_alpha": 8,
        "unet.r": RANK,
        "unet.use_dora": False,
        "text_encoder.lora_alpha": 2,
        "unet.alpha_pattern": {},
    }
    save_file(diffusers_names(factors), file, {"lora_adapter_metadata": json.dumps(settings)})
    before, after = states(model), states(load(str(file)))
    for (part, name), product in products.items():
        expected = before[part, f"{name}.weight"] + {"unet": 8, "text_encoder": 2}[part] / RANK * product
        torch.testing.assert_close(after[part, f"{name}.weight"], expected, rtol=1e-5, atol=1e-5)
    save_file(
        diffusers_names(factors), file, {"lora_adapter_metadata": json.dumps(settings | {"unet.use_rslora": True})}
    )
    with pytest.raises(UserError, match=r"found unet\.use_rslora=True"):
        load(str(file))


def test_it_is_what_diffusers_and_peft_make_of_it(model, tmp_path):
    """Of the form that they read whole."""
    pytest.importorskip("peft")
    file = tmp_path / "lora.safetensors"
    save_file(diffusers_names(pairs(model)[0]), file)
    theirs = StableDiffusionPipeline.from_pretrained(str(BUNDLED), dtype=torch.float32, safety_checker=None)
    theirs.load_lora_weights(load_file(file))
    theirs.fuse_lora(components=["unet", "text_encoder"], lora_scale=0.7)
    theirs.unload_lora_weights()
    ours, theirs = states(load(str(file), 0.7)), states(theirs)
    assert list(ours) == list(theirs)
    for key, values in ours.items():
        torch.testing.assert_close(values, theirs[key], rtol=1e-5, atol=1e-5)


def test_half_precision_is_added_in_full_and_overflow_is_named(model, tmp_path):
    factors, products = pairs(model)
    file = tmp_path / "lora.safetensors"
    save_file(diffusers_names(factors), file)
    half = states(load_stable_diffusion(str(BUNDLED), "cpu", "fp16", lora=str(file)))
    for part, name in products:
        whole = states(model)[part, f"{name}.weight"] + products[part, name]
        torch.testing.assert_close(half[part, f"{name}.weight"], whole.half(), rtol=2e-3, atol=1e-6)
    with pytest.raises(UserError, match=r"not finite; lower model\.lora_scale, or take model\.dtype=fp32"):
        load_stable_diffusion(str(BUNDLED), "cpu", "fp16", lora=str(file), lora_scale=1e6)


def test_maps_are_those_of_the_changed_weights(model, tmp_path):
    """Nothing else of a model knows of a LoRA: its maps are those of a folder that has the sum in it."""
    file = tmp_path / "lora.safetensors"
    save_file(kohya_names(pairs(model)[0]), file)
    changed = load(str(file), 0.1)
    shutil.copytree(BUNDLED, tmp_path / "sum")
    for part, name in FILES.items():
        save_file(getattr(changed, part).state_dict(), tmp_path / "sum" / part / name, {"format": "pt"})
    images, texts = [picture(60, 80, i) for i in range(2)], ["the white star", "the red heart"]
    maps = [
        make_segmenter(m)(images, texts) for m in (model, changed, load_stable_diffusion(str(tmp_path / "sum"), "cpu"))
    ]
    own, ours, theirs = (np.concatenate([heat.values.ravel() for heat in heats]) for heats in maps)
    assert np.array_equal(ours, theirs) and not np.allclose(ours, own, atol=0.01)


def test_the_digest_is_of_all_files_in_their_order(tmp_path):
    files = [str(tmp_path / name) for name in "ab"]
    for i, file in enumerate(files):
        save_file({"lora": torch.full((1,), float(i))}, file)
    one, both = loras_digest(files[:1]), loras_digest(files)
    assert len({one, both, loras_digest(files[::-1]), loras_digest([])}) == 4
    assert loras_digest([]) is None and loras_digest([str(tmp_path / "gone")]) is None
    save_file({name: values + 1 for name, values in load_file(files[0]).items()}, files[0])
    assert loras_digest(files[:1]) != one


def test_a_run_does_not_go_on_with_another_lora_or_other_weights(tmp_path):
    """The digest of what is read is part of a run's identity: of LoRAs, and of the set of weights that its precision
    takes."""
    file, folder = tmp_path / "lora.safetensors", shutil.copytree(BUNDLED, tmp_path / "model")
    whole = folder / "vae" / FILES["vae"]
    shutil.copy(whole, whole.with_name("diffusion_pytorch_model.fp16.safetensors"))
    save_file({name: values + 1 for name, values in load_file(whole).items()}, whole)
    save_file({"lora": torch.zeros(1)}, file)
    settings = config.read_settings(composed(f"model.path={folder}", f"model.lora={file}"))
    full, half = (
        with_model(Identity(configuration="c", version="1", dtype=dtype), settings) for dtype in ("fp32", "fp16")
    )
    assert full.weights == weights_digest(str(folder)) != half.weights == weights_digest(str(folder), half=True)
    assert full.lora == half.lora is not None
    save_file({"lora": torch.ones(1)}, file)
    with pytest.raises(UserError, match=f"cannot go on: lora {full.lora} / "):
        check_same(full, with_model(full, settings), "the run cannot go on")
    without = config.read_settings(composed(f"model.path={folder}"))
    assert with_model(full, without).lora is None and without.key != settings.key
