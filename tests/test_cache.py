"""The cache: what comes back is what went in, or nothing."""

import copy
import dataclasses
import multiprocessing
import os
import signal
import time

import pytest
import torch

from attrbind_exp.backbones import cached as cached_module
from attrbind_exp.backbones.backbone import encode_images
from attrbind_exp.backbones.cached import CachedBackbone
from attrbind_exp.backbones.stable_diffusion import StableDiffusion
from attrbind_exp.cache import Cache, digest
from attrbind_exp.language import parse_cache
from attrbind_exp.language.parse import parse_expressions
from attrbind_exp.language.parse_cache import parse_cached
from attrbind_exp.types import Override
from tests.conftest import picture, states_of
from tests.test_core import as_pipeline


def entries(folder):
    return [f for f in folder.glob("*/??/*") if f.is_file()]


def test_what_comes_back_is_what_went_in(tmp_path):
    cache = Cache(tmp_path)
    for value in (torch.randn(2, 3), torch.randn(4).half(), torch.randn(4).bfloat16()):
        cache.put_tensor("latents", digest(value), lambda value=value: value)
        cache.flush()
        assert torch.equal(Cache(tmp_path).get_tensor("latents", digest(value)), value)
    assert cache.get("latents", "0" * 64) is None
    assert len({digest(torch.zeros(4)), digest(torch.zeros(2, 2)), digest(torch.zeros(4).half()), digest(0)}) == 4


@pytest.mark.parametrize("harm", [lambda b: b[:-3], lambda b: b[:20], lambda b: b"", lambda b: b[:-1] + b"\x00\x01"])
def test_a_damaged_entry_is_none_and_is_said(tmp_path, capsys, harm):
    cache = Cache(tmp_path)
    cache.put("latents", "ab12", b"what was computed")
    file = entries(tmp_path)[0]
    file.write_bytes(harm(file.read_bytes()))
    assert cache.get("latents", "ab12") is None
    assert "is damaged" in capsys.readouterr().err
    cache.put("latents", "ab12", b"again")
    assert cache.get("latents", "ab12") == b"again"


def write_until_killed(folder, ready):
    cache = Cache(folder)
    while True:
        for i in range(50):
            cache.put("latents", f"{i:064d}", str(i).encode() * 300_000)
        ready.set()


def test_a_killed_writer_leaves_nothing_that_another_reads_wrongly(tmp_path):
    reader, seen, fork = Cache(tmp_path), 0, multiprocessing.get_context("fork")
    for kill in range(4):
        ready = fork.Event()
        writer = fork.Process(target=write_until_killed, args=(tmp_path, ready))
        writer.start()
        ready.wait()
        end = time.monotonic() + 0.05 + 0.04 * kill
        while time.monotonic() < end:
            seen += _check(reader)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        seen += _check(reader)
    assert seen > 0, "the reader met entries"


def _check(reader):
    met = 0
    for i in range(50):
        found = reader.get("latents", f"{i:064d}")
        assert found is None or found == str(i).encode() * 300_000
        met += found is not None
    return met


def test_the_folder_stays_below_its_limit_and_the_oldest_go_first(tmp_path):
    cache = Cache(tmp_path, gigabytes=10_000e-9)
    for i in range(30):
        cache.put("latents", f"{i:064d}", bytes(900))
        os.utime(tmp_path / "latents" / "00" / f"{i:064d}", (i, i))
        if i == 5:
            assert cache.get("latents", "0" * 64) is not None  # asked for: not the oldest any more
            os.utime(tmp_path / "latents" / "00" / ("0" * 64), (1000, 1000))
    kept = {int(f.name) for f in entries(tmp_path)}
    assert sum(f.stat().st_size for f in entries(tmp_path)) <= 10_000
    assert {0, 29, 28} <= kept and 1 not in kept


def test_warm_equals_cold_and_no_cache(tmp_path, model):
    images, texts = [picture(64, 64, i) for i in range(3)], ["a red star", "a red heart", "a red star"]
    plain = encode_images(model, images), states_of(model, texts)
    for expected in (0, 3):  # three latents, first unknown, then known
        cached = CachedBackbone(StableDiffusion(as_pipeline(model)), Cache(tmp_path))
        found = encode_images(cached, images), states_of(cached, texts)
        cached.cache.flush()
        assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))
        assert cached.cache.hits == expected and {f.parts[-3] for f in entries(tmp_path)} == {"latents"}
    encoded = []
    handle = cached.vae.encoder.register_forward_hook(lambda *_: encoded.append(1))
    assert torch.equal(encode_images(cached, images[:1])[0], plain[0][0]) and not encoded
    handle.remove()


def test_parses_come_back_as_they_were_and_follow_what_they_depend_on(tmp_path, model, monkeypatch):
    cache, texts = Cache(tmp_path), ["the white dog on the left", "hot dog", "children in red"]
    categories, override = ["dog", "hot dog", None], {texts[0]: Override((10, 13), (4, 13))}
    plain = parse_expressions(texts, categories)
    assert parse_cached(cache, texts, categories, "noun_chunk", None, {}) == plain
    corrected = parse_cached(cache, texts, categories, "noun_chunk", None, override)
    assert corrected[0].fallback == "override" and corrected[1:] == plain[1:]
    assert parse_cached(cache, texts, categories, "subtree", None, {}) == parse_expressions(
        texts, categories, "subtree"
    )
    assert parse_cached(cache, texts, None, "noun_chunk", None, {}) == parse_expressions(texts)
    assert cache.hits == 0
    monkeypatch.setattr(parse_cache, "parse_expressions", None)
    assert parse_cached(cache, texts, categories, "noun_chunk", None, {}) == plain and cache.hits == 1


def test_what_latents_depend_on_is_in_their_key(tmp_path, model, monkeypatch):
    """Weights, settings, precision, libraries, threads: with another one, nothing is read that was made otherwise."""
    image, whole = picture(64, 64), as_pipeline(model)

    def key(pipeline=whole):
        return CachedBackbone(StableDiffusion(pipeline), Cache(tmp_path)).pixels(image).key

    def changed(change):
        vae = copy.deepcopy(model.vae)
        change(vae)
        pipeline = as_pipeline(model)
        pipeline.vae = vae
        return key(pipeline)

    keys = [key(), changed(lambda vae: next(vae.encoder.parameters()).data.mul_(1.5))]
    keys.append(changed(lambda vae: vae.register_to_config(scaling_factor=2.0)))
    keys.append(changed(lambda vae: vae.register_to_config(norm_num_groups=2)))
    for place, name, value in [
        (cached_module, "version", lambda _: "another"),
        (torch, "__version__", "another"),
        (torch, "get_num_threads", lambda: 99),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, value)
            keys.append(key())
    half = StableDiffusion(whole)
    half.dtype = torch.float16
    keys.append(CachedBackbone(half, Cache(tmp_path)).pixels(image).key)
    assert len(set(keys)) == len(keys) == 8
    assert key() == keys[0] == changed(lambda vae: vae.register_to_config(_name_or_path="/elsewhere"))


def test_a_parse_of_other_fields_is_another_entry(monkeypatch):
    before = parse_cache.parser_identity.__wrapped__()
    monkeypatch.setattr(parse_cache, "Parse", dataclasses.make_dataclass("Parse", ["text", "novel"]))
    assert parse_cache.parser_identity.__wrapped__() != before == parse_cache.parser_identity()
