"""A tokenizer is whole, and stands words where Stable Diffusion was trained to find them."""

import json
import shutil

import pytest
from transformers import CLIPTokenizer

from attrbind_exp.backbones.stable_diffusion import load_stable_diffusion
from attrbind_exp.backbones.window import load_tokenizer
from tests.conftest import shared
from tests.test_weights import BUNDLED, copy_model, edit_json, refused


@pytest.fixture
def folder(tmp_path):
    return copy_model(tmp_path)


@pytest.fixture
def old_tokenizer(folder):
    """The tokenizer's files as transformers 4 saved CLIP's."""
    place = folder / "tokenizer"
    pieces = json.loads((place / "tokenizer.json").read_text())
    (place / "vocab.json").write_text(json.dumps(pieces["model"]["vocab"]))
    merges = [m if isinstance(m, str) else " ".join(m) for m in pieces["model"]["merges"]]
    (place / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    ends = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (place / "special_tokens_map.json").write_text(json.dumps(ends))
    (place / "tokenizer.json").unlink()
    return place


def test_both_forms_of_a_tokenizer_cut_alike(folder, old_tokenizer):
    texts = ["A photograph of the white star next to a blue square!", "", "café 42"]
    ours, theirs = (load_tokenizer(str(f))(texts).input_ids for f in (folder, BUNDLED))
    assert ours == theirs
    load_stable_diffusion(str(folder), "cpu")


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"])
def test_a_tokenizer_file_that_is_missing(folder, old_tokenizer, name):
    (old_tokenizer / name).unlink()
    found = ", ".join(sorted(f.name for f in old_tokenizer.iterdir()))
    message = refused(
        folder, f"no tokenizer at model.path='{folder}' (its files are not there: found {found} instead of"
    )
    assert "vocab.json and merges.txt and special_tokens_map.json and tokenizer_config.json" in message


@pytest.mark.parametrize("ends", [("<|endoftext|>", "<|startoftext|>"), ("<|startoftext|>", "!"), ("x", "y\x1b[31m")])
def test_other_marks_around_a_text_are_refused(folder, ends):
    edit_json(folder / "tokenizer" / "tokenizer_config.json", bos_token=ends[0], eos_token=ends[1])
    refused(folder, "starts and ends a text with ", "CLIP's are <|startoftext|>, <|endoftext|>")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_file_of_todays_tokenizer_that_is_missing(folder, name):
    (folder / "tokenizer" / name).unlink()
    refused(folder, "its files are not there")
    shutil.rmtree(folder / "tokenizer")
    refused(folder, "its files are not there: found nothing")


@pytest.mark.parametrize("side", ["padding_side", "truncation_side"])
def test_tokenizers_that_pad_or_cut_in_front(folder, side):
    edit_json(folder / "tokenizer" / "tokenizer_config.json", **{side: "left"})
    refused(folder, f"the tokenizer in '{folder / 'tokenizer'}' has {side}=left; Stable Diffusion's is right; save")


@pytest.mark.parametrize("length", [None, 0, -5, 10**30, 2, "24", 24.5])
def test_windows_without_a_length(folder, length):
    edit_json(folder / "tokenizer" / "tokenizer_config.json", model_max_length=length)
    refused(folder, "tokenizer")


@pytest.mark.parametrize("lines", [0, 1, 60, 117])
def test_merges_that_are_cut(folder, old_tokenizer, lines):
    """A word whose merge is not there would fall into its letters, without a word."""
    file = old_tokenizer / "merges.txt"
    assert len(file.read_text().splitlines()) == 119
    file.write_text("".join(file.read_text().splitlines(keepends=True)[: 1 + lines]))
    refused(folder, f"has {lines} merges for 118 words")


def test_the_tokenizer_of_stable_diffusion_is_whole():
    tokenizer = load_tokenizer(str(shared("sd15_config")))
    assert (len(tokenizer), tokenizer.model_max_length) == (49408, 77)


def test_a_saved_tokenizer_is_whole(tmp_path, folder, old_tokenizer):
    edit_json(old_tokenizer / "special_tokens_map.json", pad_token="!")  # as Stable Diffusion 2.x pads
    CLIPTokenizer.from_pretrained(old_tokenizer).save_pretrained(tmp_path / "saved" / "tokenizer")
    assert load_tokenizer(str(tmp_path / "saved")).pad_token == "!"
