"""Captions: BLIP loaded for real with random weights, the cache under every abuse, captions replayed from a file."""

import json
import shutil
import sqlite3
import subprocess
import sys

import pytest
import torch

from attrbind_exp.language.caption import BlipCaptioner, FileCaptioner
from attrbind_exp.language.caption_cache import CaptionCache
from attrbind_exp.types import UserError
from tests.conftest import picture, shared
from tests.test_command import command

WORDS = ["dog", "teddy bear", "parking meter", "cat"]


def save_blip(folder, small=True):
    """BLIP's own architecture with random weights, in a few layers unless `small` is False."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    source = shared("blip_config")
    config = BlipConfig.from_pretrained(source)
    if small:
        for part in (config.text_config, config.vision_config):
            part.num_hidden_layers, part.num_attention_heads, part.hidden_size, part.intermediate_size = 2, 4, 64, 64
        config.text_config.encoder_hidden_size, config.vision_config.image_size = 64, 384
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(config)
    for name, weight in model.named_parameters():  # fresh weights hardly look at the picture
        if "crossattention" in name or "vision_model" in name:
            weight.data.mul_(8)
    model.save_pretrained(folder)
    for file in source.glob("*"):
        if file.name != "config.json":
            shutil.copy(file, folder)
    return str(folder)


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    return save_blip(tmp_path_factory.mktemp("blip"))


@pytest.fixture(scope="module")
def pictures():
    return [picture(60, 90, seed) for seed in range(4)]


def test_captions_continue_the_expression(blip, pictures):
    captions = BlipCaptioner(blip, max_new_tokens=6).caption(pictures, WORDS)
    for word, caption in zip(WORDS, captions, strict=True):
        assert caption.startswith(word) and len(caption) > len(word)
        assert "[SEP]" not in caption and "photograph" not in caption[: len(word) + 1]


def test_a_batch_captions_as_one_by_one_whatever_the_lengths(blip, pictures):
    together = BlipCaptioner(blip, max_new_tokens=6)
    alone = BlipCaptioner(blip, max_new_tokens=6, batch_size=1)
    assert together.caption(pictures, WORDS) == [
        alone.caption([p], [w])[0] for p, w in zip(pictures, WORDS, strict=True)
    ]


def test_blip_sees_what_the_plain_library_sees(blip, pictures):
    """Against transformers' own processor and generate, one prompt at a time."""
    from transformers import AutoTokenizer, BlipForConditionalGeneration
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    model, tokenizer = BlipForConditionalGeneration.from_pretrained(blip), AutoTokenizer.from_pretrained(blip)
    pixels = BlipImageProcessorPil.from_pretrained(blip)(pictures[0], return_tensors="pt").pixel_values
    ids = tokenizer("a photograph of teddy bear", return_tensors="pt").input_ids
    pieces = [i for token, i in tokenizer.get_vocab().items() if token.startswith("##")]
    text = tokenizer.decode(
        model.generate(pixels, ids, max_new_tokens=6, do_sample=False, begin_suppress_tokens=pieces)[0],
        skip_special_tokens=True,
    )
    expected = text.removeprefix("a photograph of ")
    assert expected.startswith("teddy bear ") and "##" not in expected
    assert BlipCaptioner(blip, max_new_tokens=6).caption([pictures[0]], ["teddy bear"]) == [expected]


def test_a_warm_cache_needs_no_model_and_keys_what_matters(blip, pictures, tmp_path, monkeypatch):
    def captioner(**settings):
        return BlipCaptioner(blip, cache=str(tmp_path), **{"max_new_tokens": 4} | settings)

    cold = captioner()
    captions = cold.caption([pictures[0], *pictures], ["dog", *WORDS])
    assert (cold.hits, cold.misses) == (0, 4) and captions[0] == captions[1]
    warm = captioner()
    monkeypatch.setattr(warm, "_load", lambda: pytest.fail("the model was asked for"))
    assert warm.caption(pictures, WORDS) == captions[1:] and (warm.hits, warm.misses) == (4, 0)
    one = {"picture": captioner().key("other", "dog"), "prompt": captioner().key("a", "cat"), "plain": captioner().key("a", "dog"),
           "length": captioner(max_new_tokens=5).key("a", "dog"), "beams": captioner(num_beams=3).key("a", "dog")}  # fmt: skip
    assert len(set(one.values())) == 5


def test_other_weights_under_the_same_name_are_other_captions(blip, tmp_path):
    copy = shutil.copytree(blip, tmp_path / "copy")
    before = BlipCaptioner(str(copy)).key("a", "dog")
    with open(copy / "model.safetensors", "ab") as file:
        file.write(b"more")
    assert BlipCaptioner(str(copy)).key("a", "dog") != before


def test_a_damaged_cache_is_put_aside_with_a_warning(tmp_path, capsys):
    CaptionCache(tmp_path).put({"a": "dog"})
    (tmp_path / "captions.sqlite").write_bytes(b"this is no database" * 100)
    assert CaptionCache(tmp_path).get(["a"]) == {}
    assert "is damaged" in capsys.readouterr().err and len(list(tmp_path.glob("*broken*"))) == 1
    CaptionCache(tmp_path).put({"a": "cat"})
    assert CaptionCache(tmp_path).get(["a", "b"]) == {"a": "cat"}


def test_a_row_that_was_changed_on_disk_is_not_returned(tmp_path):
    cache = CaptionCache(tmp_path)
    cache.put({"a": "dog", "b": "cat"})
    with sqlite3.connect(cache.file) as database:
        database.execute("UPDATE captions SET caption = 'fog' WHERE key = 'a'")
    assert cache.get(["a", "b"]) == {"b": "cat"}
    cache.put({"a": "dog"})
    assert cache.get(["a"]) == {"a": "dog"}


def test_weights_that_lack_tensors_or_are_cut_off_are_refused(blip, pictures, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(blip, tmp_path / "copy")
    weights = {k: v for k, v in load_file(copy / "model.safetensors").items() if "crossattention" not in k}
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"weights lack \d+ tensors, text_decoder.*crossattention"):
        BlipCaptioner(str(copy)).caption(pictures[:1], ["dog"])
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(UserError, match="no BLIP at"):
        BlipCaptioner(str(copy)).caption(pictures[:1], ["dog"])


def test_an_expression_longer_than_the_window_is_captioned(blip, pictures):
    text = "dog " * 599 + "dog"
    assert BlipCaptioner(blip, max_new_tokens=3).caption(pictures[:1], [text])[0].startswith(text)


def test_a_writer_killed_half_way_leaves_nothing(tmp_path):
    cache = CaptionCache(tmp_path)
    cache.put({"old": "kept"})
    script = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA cache_size=1'); db.execute('BEGIN')\n"
        "db.executemany('INSERT INTO captions VALUES (?, ?, 0)', ((str(i), 'torn' * 200) for i in range(3000)))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(cache.file)], check=False)
    assert CaptionCache(tmp_path).get(["old", *map(str, range(3000))]) == {"old": "kept"}


def test_two_processes_may_write_at_once(tmp_path):
    script = (
        "import sys; from pathlib import Path; from attrbind_exp.language.caption_cache import CaptionCache\n"
        "c = CaptionCache(Path(sys.argv[1]))\n"
        "for i in range(60): c.put({f'{sys.argv[2]}-{i}': 'own', 'both': sys.argv[2]})\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), name]) for name in "ab"]
    assert [w.wait() for w in writers] == [0, 0]
    kept = CaptionCache(tmp_path).get([f"{n}-{i}" for n in "ab" for i in range(60)] + ["both"])
    assert len(kept) == 121 and kept["both"] in "ab"


def test_many_keys_are_asked_for_in_parts(tmp_path):
    cache = CaptionCache(tmp_path)
    cache.put({str(i): f"caption {i}" for i in range(2500)})
    assert len(cache.get([str(i) for i in range(3000)])) == 2500
    with sqlite3.connect(cache.file) as database:
        assert database.execute("SELECT count(*) FROM captions").fetchone() == (2500,)


def test_missing_blip_names_the_command(pictures, tmp_path):
    with pytest.raises(UserError, match="hf download Salesforce/blip-image-captioning-base --include"):
        BlipCaptioner("Salesforce/blip-image-captioning-base").caption(pictures[:1], ["dog"])
    with pytest.raises(UserError, match=r"no BLIP at captioner\.path='/nowhere'"):
        BlipCaptioner("/nowhere").caption(pictures[:1], ["dog"])


def lines(path, *rows):
    path.write_text("".join(r + "\n" if isinstance(r, str) else json.dumps(r) + "\n" for r in rows))
    return str(path)


def test_a_file_replays_captions_by_picture_first(tmp_path, pictures):
    file = lines(
        tmp_path / "c.jsonl",
        "",
        {"expression": "dog", "caption": "dog on a bench"},
        {"expression": "dog", "caption": "dog in the snow", "image": "2.jpg"},
    )
    captioner = FileCaptioner(file)
    assert captioner.caption(pictures[:3], ["dog", "dog", "cat"], ["1.jpg", "2.jpg", "2.jpg"]) == [
        "dog on a bench", "dog in the snow", None
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"expression": "dog", "cap', "line 2: not whole JSON"), ({"expression": "dog"}, "line 2: no column 'caption'"),
        ({"expression": "dog", "caption": "a dog"}, "line 2: caption 'a dog' does not start with its expression 'dog'"),
        ({"expression": "dog", "caption": "doghouse"}, "does not start with"), ("[1]", "line 2: .* is no JSON object"),
        ({"expression": "dog", "caption": "dog", "image": [1]}, "must be text"),
        ({"expression": "cat", "caption": "cat awake"}, "line 2: another caption stands above for 'cat' on every picture"),
    ],
)  # fmt: skip
def test_bad_caption_files_name_the_line(tmp_path, row, words):
    with pytest.raises(UserError, match=words):
        FileCaptioner(lines(tmp_path / "c.jsonl", {"expression": "cat", "caption": "cat asleep"}, row))


def test_a_run_with_captions_binds_what_they_add_and_counts_what_is_missing(tmp_path):
    """Class names gain a modifier from their captions; a class without one fails its image."""
    rows = [
        {"expression": s, "caption": f"{s} that is red"}
        for s in ("circle", "square", "triangle", "star", "heart", "cross")
    ]
    file = lines(tmp_path / "c.jsonl", *rows)
    code, _, err = command(
        "dataset=shapes_classes", "dataset.limit=12", "tracker=none", "gallery=1", "captioner=file", f"captioner.file={file}",
        f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert code == 0, err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["n_bound"] > 0 and summary["captioner"] == "file"
    assert summary["failures"] == {"caption_missing": summary["n_failed"]} and summary["n_failed"] > 0
    row = json.loads((tmp_path / "run" / "expressions.jsonl").read_text().splitlines()[0])
    assert all(p["prompt"].endswith("that is red") for p in row["looked_for"].values())


@pytest.mark.slow
def test_the_exact_architecture_of_blip_captions(tmp_path, pictures):
    captions = BlipCaptioner(save_blip(tmp_path, small=False), max_new_tokens=3).caption(pictures[:2], WORDS[:2])
    assert all(c.startswith(w) for c, w in zip(captions, WORDS, strict=False))
