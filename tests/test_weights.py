"""Weights are loaded whole or not at all."""

import json
import os
import random
import shutil
import struct

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from attrbind_exp.backbones.stable_diffusion import StableDiffusion, load_stable_diffusion, weights_digest
from attrbind_exp.backbones.weights import FILES, READ, find_model
from attrbind_exp.config import PACKAGE
from attrbind_exp.types import UserError
from tests.conftest import picture, states_of

BUNDLED = PACKAGE / "assets" / "bundled"
TENSORS = {"unet": 442, "vae": 156, "text_encoder": 52}
INDEX = "diffusion_pytorch_model.safetensors.index.json"


def copy_model(tmp_path):
    """A whole model, to be spoilt."""
    return shutil.copytree(BUNDLED, tmp_path / "model")


@pytest.fixture
def folder(tmp_path):
    return copy_model(tmp_path)


def weights_of(folder, part):
    return folder / part / FILES[part]


def change(folder, part, edit):
    """Save a part's tensors again after `edit`; their names in the file's order."""
    file = weights_of(folder, part)
    tensors = {name: values.clone() for name, values in load_file(file).items()}
    names = sorted(tensors)
    edit(tensors, names)
    save_file(tensors, file, {"format": "pt"})
    return names


def edit_json(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refused(folder, *words, dtype="fp32"):
    with pytest.raises(UserError) as error:
        load_stable_diffusion(str(folder), "cpu", dtype)
    message = str(error.value)
    assert message.isprintable() and all(word in message for word in words), message
    return message


def digests_of(folder):
    return [weights_digest(part) for part in parts_of(load_stable_diffusion(str(folder), "cpu"))]


def parts_of(model):
    return model.unet, model.vae, model.text_encoder


@pytest.fixture(scope="module")
def bundled_digests(model):
    return [weights_digest(part) for part in parts_of(model)]


def test_what_is_loaded_is_what_diffusers_loads(model):
    """Weight by weight, and in what comes out."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        str(BUNDLED), dtype=torch.float32, safety_checker=None, requires_safety_checker=False
    )
    theirs = StableDiffusion(pipeline)
    for part, other in zip(parts_of(model), parts_of(theirs), strict=True):
        assert list(part.state_dict()) == list(other.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(part.state_dict().values(), other.state_dict().values()))
        assert all(torch.equal(a, b) for a, b in zip(part.buffers(), other.buffers(), strict=True))
        assert not any(p.is_meta or p.requires_grad for p in part.parameters())
        assert part.config._attn_implementation == "sdpa" if part is model.text_encoder else True
    texts = ["a photograph of the white star", ""]
    assert torch.equal(states_of(model, texts), states_of(theirs, texts))
    pixels = model.pixels(picture(64, 64))
    assert torch.equal(model.encode_pixels(pixels), theirs.encode_pixels(pixels))


def test_a_run_does_not_see_a_file_that_changes_under_it(folder):
    for part in FILES:
        change(folder, part, lambda tensors, _: tensors.update({k: v.float() for k, v in tensors.items()}))
    model = load_stable_diffusion(str(folder), "cpu", "fp32")
    before = [weights_digest(part) for part in parts_of(model)]
    for part in FILES:
        file = weights_of(folder, part)
        with file.open("r+b") as f:
            f.seek(-4096, os.SEEK_END)
            f.write(bytes(4096))
    assert [weights_digest(part) for part in parts_of(model)] == before


# What is not whole


@pytest.mark.parametrize("part", FILES)
def test_one_tensor_that_is_missing(folder, part):
    names = change(folder, part, lambda tensors, names: tensors.pop(names[7]))
    refused(folder, f"'{weights_of(folder, part)}' does not fit {part}/config.json: of {TENSORS[part]} tensors "
            f"1 missing ({names[7]}); save it again by diffusers'")  # fmt: skip


@pytest.mark.parametrize("part", FILES)
def test_seven_that_are_missing_are_counted_and_five_named(folder, part):
    removed = change(folder, part, lambda tensors, names: [tensors.pop(name) for name in names[:7]])[:7]
    message = refused(folder, f"of {TENSORS[part]} tensors 7 missing (", " ..)")
    named = message.partition(" missing (")[2].partition(" ..)")[0].split(", ")
    assert len(named) == 5 and set(named) < set(removed)
    change(folder, part, lambda tensors, names: [tensors.pop(name) for name in names])
    refused(folder, f"of {TENSORS[part]} tensors {TENSORS[part]} missing (")


@pytest.mark.parametrize("part", FILES)
def test_unexpected_tensors(folder, part):
    change(folder, part, lambda tensors, _: tensors.update({f"more.{i}": torch.ones(1) for i in range(7)}))
    refused(folder, f"'{weights_of(folder, part)}'",
            f"of {TENSORS[part]} tensors 7 unexpected (more.0, more.1, more.2, more.3, more.4 ..); save it")  # fmt: skip


@pytest.mark.parametrize("part", FILES)
def test_misshapen_tensors(folder, part):
    def swap(tensors, names):
        name = next(n for n in names[1:] if tensors[n].dim() >= 2 and tensors[n].shape[0] != tensors[n].shape[1])
        tensors[name] = tensors[name].transpose(0, 1).contiguous()  # as many numbers as before
        tensors[names[0]] = tensors[names[0]][..., None].contiguous()

    names = change(folder, part, swap)
    message = refused(folder, f"of {TENSORS[part]} tensors 2 of another shape (", ", not [", f"{names[0]} [")
    assert "missing" not in message and "unexpected" not in message


@pytest.mark.parametrize(
    ("part", "dtype"),
    [("unet", torch.int64), ("unet", torch.float8_e4m3fn), ("unet", torch.bool), ("vae", torch.int8), ("text_encoder", torch.complex64)],
)  # fmt: skip
def test_tensors_of_an_odd_type(folder, part, dtype):
    names = change(folder, part, lambda tensors, names: tensors.update({names[3]: tensors[names[3]].to(dtype)}))
    refused(folder, f"1 of an odd type ({names[3]} {str(dtype)[6:]})", str(weights_of(folder, part)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_floating_point_of_any_usual_width_is_read(folder, dtype, bundled_digests):
    for part in FILES:
        change(folder, part, lambda tensors, _: tensors.update({k: v.to(dtype) for k, v in tensors.items()}))
    assert (digests_of(folder) == bundled_digests) == (dtype != torch.bfloat16)  # which keeps fewer digits


@pytest.mark.parametrize(
    ("part", "value"), [("unet", float("nan")), ("vae", float("inf")), ("text_encoder", float("-inf"))]
)
def test_numbers_that_are_not_finite(folder, part, value):
    names = change(folder, part, lambda tensors, names: tensors[names[5]].view(-1)[-1].fill_(value))
    seen = f"1 of {TENSORS[part]} tensors have numbers that are not finite in float32 ({names[5]}); save it again"
    refused(folder, f"'{weights_of(folder, part)}': {seen}")


def test_weights_that_half_precision_cannot_hold(folder):
    names = change(folder, "unet", lambda tensors, names: tensors.update({names[0]: tensors[names[0]].float() + 1e5}))
    refused(folder, f"not finite in float16 ({names[0]}); choose model.dtype=bf16 or fp32, or save", dtype="fp16")
    load_stable_diffusion(str(folder), "cpu", "bf16")


def test_all_kinds_stand_in_one_line(folder):
    def spoil(tensors, names):
        tensors.pop(names[0])
        tensors["line\nbreak\x1b[31m\u2028"] = torch.ones(1)
        tensors[names[1]] = torch.ones(3, 3, 3)
        tensors[names[2]] = tensors[names[2]].int()

    change(folder, "vae", spoil)
    refused(
        folder,
        "1 missing (",
        "; 1 unexpected (line\\nbreak\\x1b[31m\\u2028); 1 of another shape (",
        "; 1 of an odd type (",
    )


def test_the_parts_of_two_models_do_not_mix(folder):
    other = load_file(weights_of(folder, "vae"))
    save_file(other, weights_of(folder, "unet"))
    refused(folder, "of 442 tensors", "missing", "unexpected")
    shutil.copy(weights_of(BUNDLED, "unet"), weights_of(folder, "unet"))
    edit_json(folder / "tokenizer" / "tokenizer_config.json", model_max_length=20)
    refused(folder, "holds parts of different models, text windows: 20 in tokenizer/, 24 in text_encoder/; save")
    edit_json(folder / "tokenizer" / "tokenizer_config.json", model_max_length=24)
    tokenizer = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 632, "content": "<sks>"})
    (folder / "tokenizer" / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused(folder, "tokens: 633 in tokenizer/, 632 in text_encoder/")


def test_a_unet_for_a_text_encoder_of_another_width(folder):
    def narrow(tensors, names):
        for name in names:
            if "attn2.to_k" in name or "attn2.to_v" in name:
                tensors[name] = tensors[name][:, :64].contiguous()

    change(folder, "unet", narrow)
    edit_json(folder / "unet" / "config.json", cross_attention_dim=64)
    refused(folder, "channels of an embedding: 64 in unet/, 128 in text_encoder/")


@pytest.mark.parametrize(
    ("part", "changes", "words"),
    [
        ("text_encoder", {"hidden_size": "wide"}, "text_encoder/config.json': "),
        ("text_encoder", {"num_attention_heads": 0}, "text_encoder/config.json': "),
        ("text_encoder", {"num_hidden_layers": 10**9}, "asks for 1000000000 layers in a row"),
        ("unet", {"layers_per_block": [1, [10**9], 1, 1]}, "asks for 1000000000 layers"),
        ("unet", {"block_out_channels": [32, 64]}, "unet/config.json': "),
        ("unet", {"norm_num_groups": 0}, "unet/config.json': "),
        ("unet", {"sample_size": None}, "has sample_size=None"),
        ("vae", {"down_block_types": ["Nothing"] * 3}, "vae/config.json': "),
        ("vae", {"block_out_channels": None}, "vae/config.json': "),
        ("scheduler", {"beta_schedule": "none\n"}, "scheduler': "),
        ("scheduler", {"num_train_timesteps": "many"}, "scheduler': "),
    ],
)  # fmt: skip
def test_spoilt_configs_are_told_in_a_line(folder, part, changes, words):
    edit_json(folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json"), **changes)
    refused(folder, str(folder), words)


@pytest.mark.parametrize("part", FILES)
def test_json_that_is_torn_or_nested(folder, part):
    file = folder / part / "config.json"
    for content in ("{", "[]", "", "\xff", '{"a":' * 100_000, "[" * 100_000):
        file.write_text(content, encoding="latin-1")
        refused(folder, str(file))
    file.unlink()
    refused(folder, str(file))


# Headers that lie


def header(table, body=b""):
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + body


FOUR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01",
        b"\xff" * 8,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 90_000_000) + b"{}",
        header(b"{"),
        header(b"[]"),
        header(b"\xff\xfe"),
        header(b'{"a":' * 100_000),
        header({"a": {**FOUR, "shape": [2**62, 2**62]}}, bytes(4)),
        header({"a": {**FOUR, "shape": [-1]}}, bytes(4)),
        header({"a": {**FOUR, "data_offsets": [0, 2**40]}}, bytes(4)),
        header({"a": {**FOUR, "data_offsets": [4, 0]}}, bytes(4)),
        header({"a": FOUR, "b": FOUR}, bytes(4)),
        header({"a": {**FOUR, "dtype": "F7"}}, bytes(4)),
        header({"a": {**FOUR, "dtype": "F4", "shape": [8]}}, bytes(4)),
        header({"a": {**FOUR, "dtype": "F8_E8M0", "shape": [4]}}, bytes(4)),
        header({"a": {"dtype": "F32"}}, bytes(4)),
        header({"a": FOUR}, bytes(40)),
        header({"a": FOUR}),
        header({"__metadata__": {"format": "pt"}}),
        header({}),
        b"PK\x03\x04 a pickle of torch.save",
    ],
)
def test_headers_that_lie_are_told_in_a_line(folder, content):
    weights_of(folder, "unet").write_bytes(content)
    refused(folder, str(weights_of(folder, "unet")), "; save it again by diffusers'")


def test_random_damage_is_refused_or_loads(folder):
    """Bytes flipped, cut or doubled, in headers more often than elsewhere."""
    draw = random.Random(0)
    whole = {part: weights_of(folder, part).read_bytes() for part in FILES}
    refusals = 0
    for _ in range(24):
        part = draw.choice(list(whole))
        data = bytearray(whole[part])
        at = draw.randrange(draw.choice([8, 2_000, len(data)]))
        length = draw.randrange(1, 200)
        how = draw.choice(["flip", "cut", "double", "end"])
        if how == "flip":
            data[at] ^= 1 << draw.randrange(8)
        elif how == "cut":
            del data[at : at + length]
        elif how == "double":
            data[at:at] = data[at : at + length]
        else:
            del data[at:]
        weights_of(folder, part).write_bytes(data)
        try:
            load_stable_diffusion(str(folder), "cpu")
        except UserError as error:
            assert str(error).isprintable() and str(weights_of(folder, part)) in str(error)
            refusals += 1
        weights_of(folder, part).write_bytes(whole[part])
    assert refusals > 16


# Weights in several files


def split(folder, part="unet", **changes):
    """A part's weights in two files with an index, as save_pretrained(max_shard_size=..) leaves them."""
    file = weights_of(folder, part)
    tensors = load_file(file)
    names = sorted(tensors)
    stem = file.name.removesuffix(".safetensors")
    table = {name: f"{stem}-0000{1 + (i > 200)}-of-00002.safetensors" for i, name in enumerate(names)}
    for shard in set(table.values()):
        save_file({n: tensors[n].clone() for n in names if table[n] == shard}, file.with_name(shard))
    file.with_name(f"{file.name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table, **changes}))
    file.unlink()
    return names, sorted(set(table.values()))


def test_shards_are_read_as_one_file(folder, bundled_digests):
    names, shards = split(folder)
    assert digests_of(folder) == bundled_digests
    first = load_file(folder / "unet" / shards[0])
    save_file({k: v for k, v in first.items() if k != names[9]}, folder / "unet" / shards[0])
    refused(folder, f"'{folder / 'unet' / INDEX}' does not fit unet/config.json: of 442 tensors 1 missing ({names[9]})")
    save_file({**first, names[300]: torch.ones(1)}, folder / "unet" / shards[0])
    refused(folder, f"of 442 tensors 1 twice ({names[300]})")
    (folder / "unet" / shards[0]).unlink()
    refused(folder, f"'{folder / 'unet' / INDEX}' names {shards[0]}, not there")


@pytest.mark.parametrize("part", ["unet", "text_encoder"])  # one is diffusers', one transformers'
@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "/etc/passwd", "/tmp/x.safetensors", "../x.safetensors", "../../unet/x.safetensors",
             "sub/x.safetensors", "..", "", "a.safetensors/..", "model.safetensors\n", "\ud800.bin"]
)  # fmt: skip
def test_an_index_names_safetensors_beside_it_and_nothing_else(folder, part, name, tmp_path):
    save_file(load_file(weights_of(folder, part)), tmp_path / "x.safetensors")
    index = weights_of(folder, part).with_name(f"{FILES[part]}.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"a": name}}))
    for _ in range(2):  # whether or not the weights lie there as a whole, too
        refused(folder, f"'{index}' names ", "; only safetensors beside it are read; save it again")
        weights_of(folder, part).unlink(missing_ok=True)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"a":' * 100_000]
)  # fmt: skip
def test_an_index_that_is_none(folder, content):
    (folder / "unet" / INDEX).write_text(content)
    refused(folder, f"'{folder / 'unet' / INDEX}'")


def test_two_sets_of_weights_are_not_chosen_from(folder):
    split(folder)
    shutil.copy(weights_of(BUNDLED, "unet"), weights_of(folder, "unet"))
    refused(folder, "two sets of weights: ", str(weights_of(folder, "unet")), "remove one of them")


def test_shards_are_fetched_by_the_command():
    from huggingface_hub.utils import filter_repo_objects

    names = {
        f"{part}/{FILES[part].removesuffix('.safetensors')}-00001-of-00002.safetensors" for part in FILES
    } | {f"{part}/{FILES[part]}.index.json" for part in FILES}  # fmt: skip
    assert set(filter_repo_objects(names, allow_patterns=list(READ))) == names


def test_files_that_are_no_files(folder):
    """A folder, a named pipe or a broken link in place of weights: nothing is waited for."""
    file = weights_of(folder, "vae")
    file.unlink()
    for make in (file.mkdir, lambda: os.mkfifo(file), lambda: file.symlink_to("nothing")):
        make()
        with pytest.raises(UserError, match="lacks weights: found vae/ without"):
            find_model(str(folder))
        file.rmdir() if file.is_dir() else file.unlink()
