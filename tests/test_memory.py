"""Where a device's memory runs out: the same work in smaller parts, with the same results. torch's errors are faked."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from attrbind_exp import config
from attrbind_exp.api.segmenter import LoadedSegmenter
from attrbind_exp.backbones.stable_diffusion import TEXT_BATCH, load_stable_diffusion
from attrbind_exp.commands import run as run_command
from attrbind_exp.commands.doctor import rate as rate_file
from attrbind_exp.config import PACKAGE
from attrbind_exp.demo.compute import Compared, heat_map, see
from attrbind_exp.edits import Averaging, NounChunk, Variant
from attrbind_exp.evaluation import batch_size
from attrbind_exp.evaluation.batching import segment_images
from attrbind_exp.heatmaps import score_map
from attrbind_exp.heatmaps.daam import Daam
from attrbind_exp.heatmaps.diffsegmenter import DiffSegmenter
from attrbind_exp.memory import in_parts
from attrbind_exp.runs.configuration import kept_batch_size
from attrbind_exp.scoring import on_device
from attrbind_exp.scoring.counting import count_maps
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import UserError
from tests.conftest import make_segmenter, picture
from tests.test_caption import blip, pictures  # noqa: F401
from tests.test_command import composed, run
from tests.test_fast_core import scenes  # noqa: F401

BUNDLED = str(PACKAGE / "assets" / "bundled")


def small(work, most, size_of=len, error=torch.OutOfMemoryError):
    """`work` on a device that holds `most` rows of its first argument; how many it was asked for comes back, too."""
    asked = []

    def limited(rows, *rest, **named):
        asked.append(size_of(rows))
        if asked[-1] > most:
            raise error("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return work(rows, *rest, **named)

    return limited, asked


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_work_in_parts_by_hand(capsys, error):
    double, asked = small(lambda part, size: [2 * n for n in part], 2, error=error)
    assert in_parts(double, range(9), 8, "the number") == ([2 * n for n in range(9)], 2)
    assert asked == [8, 4, 2, 2, 2, 2, 1]
    assert capsys.readouterr().err.splitlines() == [f"WARNING: out of memory: the number is {n} now" for n in (4, 2)]
    assert in_parts(double, [], 8, "the number") == ([], 8)


def test_one_that_does_not_fit_is_said_in_one_line_and_other_errors_are_not_caught():
    nothing, asked = small(lambda part, size: part, 0)
    with pytest.raises(
        UserError, match=r"^out of memory even with the number 1 \(CUDA out of memory. Tried.* or model.device=cpu$"
    ):
        in_parts(nothing, range(3), 2, "the number")
    assert asked == [2, 1]

    def broken(part, size):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        in_parts(broken, range(3), 2, "the number")


def test_texts_are_encoded_fewer_together_from_then_on(monkeypatch):
    model = load_stable_diffusion(BUNDLED, "cpu")
    texts = [f"{n} white stars" for n in range(11)]
    plain = model.encode_text(texts)
    limited, asked = small(model.text_encoder.forward, 3)
    monkeypatch.setattr(model.text_encoder, "forward", limited)
    found = model.encode_text(texts)
    assert asked == [TEXT_BATCH, 4, *[2] * 6] and model.text_batch == 2
    assert [a.tokens for a in found] == [b.tokens for b in plain]
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a.states, b.states, atol=1e-5, rtol=0)


def test_a_picture_that_does_not_fit_is_said_in_one_line(monkeypatch):
    model = load_stable_diffusion(BUNDLED, "cpu")
    limited, _ = small(model.vae.encode, 0)
    monkeypatch.setattr(model.vae, "encode", limited)
    with pytest.raises(UserError, match="out of memory even with the number of pictures that are encoded together 1"):
        model.encode_pixels(model.pixels(picture(64, 64)))


def test_heat_maps_are_resized_fewer_together(monkeypatch, capsys):
    torch.manual_seed(0)
    completed, sharp = torch.rand(5, 8, 8), [False, True, False, False, True]
    plain = score_map.heat_map(completed, (30, 50), sharp)
    limited, asked = small(score_map.resize, 2)
    monkeypatch.setattr(score_map, "resize", limited)
    assert torch.equal(score_map.heat_map(completed, (30, 50), sharp), plain)
    assert asked == [5, 2, 2, 1]
    assert "the number of heat maps that are resized together is 2" in capsys.readouterr().err


def test_heat_maps_are_counted_fewer_together(monkeypatch, capsys):
    torch.manual_seed(0)
    heats, mask = torch.rand(5, 8, 8), np.eye(8, dtype=bool)
    plain = count_maps(heats, [mask])
    limited, asked = small(on_device.find_level, 2)
    monkeypatch.setattr(on_device, "find_level", limited)
    for mine, theirs in zip(count_maps(heats, [mask]), plain, strict=True):
        assert np.array_equal(mine.union, theirs.union) and mine.means == pytest.approx(theirs.means, abs=1e-12)
    assert asked == [5, 2, 2, 1]
    assert "the number of heat maps that are counted together is 2" in capsys.readouterr().err


def test_captions_are_made_fewer_together(blip, pictures, monkeypatch):  # noqa: F811
    from attrbind_exp.language.caption import BlipCaptioner

    texts = ["the dog"] * len(pictures)
    plain = BlipCaptioner(blip, max_new_tokens=6).caption(pictures, texts)
    captioner = BlipCaptioner(blip, max_new_tokens=6, batch_size=2)
    model, _, _ = captioner._load()
    limited, asked = small(model.generate, 1)
    monkeypatch.setattr(model, "generate", limited)
    assert captioner.caption(pictures, texts) == plain
    assert asked[:3] == [2, 1, 1] and captioner.batch_size == 1


FINEST = {8: 0.0, 4: 0.0, 2: 0.0, 1: 1.0}
TEXTS = ["the white star next to a blue square", "the star", "a red circle next to a blue square"]


def called(core):
    return [heat.values for heat in core([picture(64, 64, i) for i in range(3)], TEXTS, image_ids=["0"] * 3)]


def by_api(core):
    settings = SimpleNamespace(path=BUNDLED, name="bundled", batch_size=8)
    results = LoadedSegmenter(core, settings, "ncr", 0.9)([picture(64, 64, i) for i in range(3)], TEXTS)
    return [result.heat_map for result in results]


def by_demo(core):
    compared = Compared(core, [Variant("baseline"), Variant("ncr", (NounChunk(),))], 8)
    seen = see(compared, picture(64, 64), TEXTS)
    return [heat_map(compared, one, variant, (64, 64)) for one in seen for variant in range(2)]


@pytest.mark.parametrize("way", [called, by_api, by_demo])
def test_every_way_of_asking_halves_its_passes(model, monkeypatch, capsys, way):
    plain = way(make_segmenter(model))
    limited, asked = small(model.denoise, 1)
    monkeypatch.setattr(model, "denoise", limited)
    core = make_segmenter(model)
    np.testing.assert_allclose(way(core), plain, atol=1e-5)
    assert asked[0] > 1 and set(asked[asked.index(1) :]) == {1}
    assert "the number of embeddings of a pass is 1 now" in capsys.readouterr().err
    asked.clear()
    way(core)
    assert set(asked) == {1}  # what did not fit is not tried again
    monkeypatch.setattr(model, "denoise", small(model.denoise, 0)[0])
    with pytest.raises(UserError, match="out of memory even with the number of embeddings of a pass 1"):
        way(core)


def test_flat_maps_are_counted_once(model, monkeypatch):
    """Whatever is made twice: a pass that memory ran out in, rows that only fill it up, a text that nobody reads,
    variants that are one."""
    monkeypatch.setattr(score_map, "is_flat", lambda maps, _: maps.amax((-2, -1)) >= 0)  # every map is
    core = make_segmenter(model, weights=FINEST)
    (prompt,) = core.prepare(TEXTS[:1])
    read = Variant("read", (NounChunk(where="read"), Averaging(0.9, where="read")))
    edited = core.edit([prompt], [Variant("baseline"), read])[0]
    latents = torch.zeros(1, *model.latent_shape)

    def count(*variants, **given):
        core.flat = torch.zeros_like(core.flat)
        embeddings = [edited.embedding(v) for v in variants]
        core.complete(latents, ["0"], [prompt] * len(variants), embeddings, images=[0] * len(variants), **given)
        return core.flat.tolist()

    assert count(0) == [1] and count(0, 1) == [2]
    assert count(0, 0, 1, 0) == [2]
    assert count(0, 1, batch_size=4) == [2]
    assert count(1) == [1]


def test_a_pass_that_is_made_again_counts_its_flat_maps_once(model, scenes, monkeypatch):  # noqa: F811
    """Memory runs out between two seeds and between two methods of one pass."""
    monkeypatch.setattr(score_map, "is_flat", lambda maps, _: maps.amax((-2, -1)) >= 0)
    few = dict(list(scenes.items())[:1])
    settings = RunSettings([Variant("baseline")], batch_size=2, seeds=(0, 1))
    methods = {"diffsegmenter": DiffSegmenter(), "daam": Daam()}
    plain = make_segmenter(model, weights=FINEST, methods=methods)
    list(segment_images(few, plain, settings))
    assert sum(plain.flat.tolist()) > 0
    add_noise, complete = model.add_noise, Daam.complete
    for place, name, work in ((model, "add_noise", add_noise), (Daam, "complete", complete)):
        tries = []

        def once(*given, work=work, tries=tries):
            tries.append(given)
            if len(tries) == 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return work(*given)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(place, name, once)
            again = make_segmenter(model, weights=FINEST, methods=methods)
            list(segment_images(few, again, settings))
        assert len(tries) > 2 and again.flat.tolist() == plain.flat.tolist()


def test_two_rows_that_do_not_fit_leave_one(model, monkeypatch):
    segmenter = make_segmenter(model)
    monkeypatch.setattr(model, "device", torch.device("cuda"))

    def peak(_, rows, reads):
        if rows > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 10**9

    monkeypatch.setattr(batch_size, "measure_peak", peak)
    assert batch_size.fit_batch_size(segmenter, 5) == 1


def test_a_rate_is_measured_on_the_batch_that_fits(monkeypatch):
    settings = config.read_settings(composed("batch_size=4"))
    load, seen = rate_file.build_segmenter, []

    def built(given):
        segmenter = load(given)
        segmenter.backbone.denoise, asked = small(segmenter.backbone.denoise, 2)
        seen.append(asked)
        return segmenter

    monkeypatch.setattr(rate_file, "build_segmenter", built)
    rate, where = rate_file.measure_rate(settings)
    assert rate > 0 and where == "cpu" and seen == [[4, 2, 2, 2, 2, 2]]


def test_a_fitted_batch_size_is_written_down_and_kept(tmp_path, monkeypatch):
    """config.yaml says the number; a run that goes on takes it, whatever would fit now; a number that is typed counts."""
    fitted = []
    monkeypatch.setattr(batch_size, "fit_batch_size", lambda segmenter, default, _: fitted.append(default) or 3)
    given = ("dataset.limit=4", "tracker=none", "gallery=0", "changed=0", "text_processor=baseline")
    folder = tmp_path / "run"
    run(folder, *given)
    assert fitted == [64] and kept_batch_size(folder) == 3
    written = OmegaConf.load(folder / "config.yaml")
    assert written == OmegaConf.merge(OmegaConf.create(config.read_settings(composed(*given)).yaml), {"batch_size": 3})
    monkeypatch.setattr(batch_size, "fit_batch_size", lambda *_: pytest.fail("measured again"))
    again = run_command.with_fitting_batch(config.read_settings(composed(*given)), None, folder)
    assert again.run.batch_size == 3 and again.yaml == (folder / "config.yaml").read_text()
    typed = config.read_settings(composed(*given, "batch_size=7"))
    assert run_command.with_fitting_batch(typed, None, folder).run.batch_size == 7


@pytest.mark.parametrize("text", ["batch_size: auto\n", "batch_size: true\n", "batch_size: -3\n", "[", "- 3\n", ""])
def test_a_configuration_without_a_number_keeps_none(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    found = None
    try:
        found = kept_batch_size(tmp_path)
    except UserError as error:  # as everywhere for a file that is no YAML
        assert "config.yaml" in str(error)
    assert found is None
