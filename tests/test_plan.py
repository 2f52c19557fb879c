"""What the doctor says that a run will cost, against sums made by hand and against what the core makes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from attrbind_exp import config
from attrbind_exp.commands.doctor import plan
from attrbind_exp.commands.doctor.command import count_units, of_one_run
from attrbind_exp.config import PACKAGE
from attrbind_exp.evaluation.batching import share_passes
from attrbind_exp.types import Sample, UserError
from tests.conftest import shared
from tests.test_command import composed

REFCOCO = {"train": 120_624, "val": 10_834, "testA": 5_657, "testB": 5_095}
SWEEP = ("val", "testA", "testB")


def settings_of(*given, model="bundled"):
    return config.read_settings(composed("dataset=refcoco", "dataset.root=/data/refer", f"model={model}", *given))


def findings(settings, rate=None, gpus=1, folder=None, counted=plan.Counted(10_834, REFCOCO, SWEEP)):
    return {f.check: f.text for f in plan.plan_run(settings, counted, rate, gpus, folder)}


def test_refcoco_whole_by_eleven_variants_on_seven_gpus():
    settings = settings_of("text_processor=paper", "alpha=grid")  # the baseline, nine alphas, the empty prompt
    cost = plan.cost_of(settings)
    assert cost == plan.Cost(embeddings=11, plain=2, texts=11, variants=11, steps=1, draws=1, seeds=1)
    assert cost.passes(142_210) == cost.rows(142_210) == 1_564_310
    assert plan.hours(1_564_310, 100, 7) == pytest.approx(0.62076, abs=1e-5)  # 15,643.1 s / 7
    found = findings(settings, 100.0, 7)
    assert "up to 11 an expression" in found["passes"] and "this run (10,834 expressions) 119,174" in found["passes"]
    assert "val + testA + testB (21,586 expressions) 237,446" in found["passes"]
    assert "train + val + testA + testB (142,210 expressions) 1,564,310" in found["passes"]
    assert "0.62 h, at 100.0 passes a second (as given) on each of 7" in found["hours"]
    assert "(142,210 expressions) 3.13 GB" in found["size"]  # 1,564,310 rows of 2 kB


@pytest.mark.parametrize(
    ("given", "embeddings", "plain", "variants", "passes"),
    [
        (["text_processor=baseline", "text_blind=false"], 1, 1, 1, 1),
        (["text_processor=baseline"], 2, 2, 2, 2),
        (["text_processor=ablation"], 6, 2, 6, 6),
        (["text_processor=ablation", "alpha=1"], 4, 2, 6, 4),  # at alpha = 1 averaging adds nothing to either chunk
        (["text_processor=paper", "seeds=3", "model.draws=2", "model.timesteps=[50,100]"], 3, 2, 3, 36),
        (["text_processor=paper", "heatmap=[diffsegmenter,daam]", "attention_layers=grid"], 3, 2, 54, 3),  # read, no pass
        (["text_processor=baseline", "heatmap=[diffsegmenter,elbo]", "seeds=2"], 2, 2, 4, 44),  # (2 + 20 losses) x 2
    ],
)  # fmt: skip
def test_passes_by_hand(given, embeddings, plain, variants, passes):
    cost = plan.cost_of(settings_of(*given))
    assert (cost.embeddings, cost.plain, cost.variants, cost.passes(1)) == (embeddings, plain, variants, passes)


def test_edits_that_are_only_read_cost_no_pass(segmenter):
    settings = settings_of("text_processor=read_only", "alpha=grid", "keep_maps=true")
    cost = plan.cost_of(settings)
    assert (cost.embeddings, cost.plain, cost.variants, cost.passes(1), cost.maps(1)) == (2, 2, 11, 2, 11)
    edited = segmenter.edit(segmenter.prepare(["white star left of a red star"]), settings.run.variants)[0]
    assert (len(share_passes(edited.embeddings)), len(edited.embeddings)) == (cost.embeddings, cost.texts)


def test_as_many_passes_as_the_core_makes(segmenter):
    settings = settings_of("text_processor=binding_study", "alpha=study")
    cost = plan.cost_of(settings)
    bound, plain = segmenter.edit(segmenter.prepare(["white star left of a red star", "star"]), settings.run.variants)
    assert bound.prompt.bind and not plain.prompt.bind
    assert (len(bound.embeddings), len(plain.embeddings)) == (cost.embeddings, cost.plain)


def test_passes_that_compare_an_expression_with_its_rivals_are_said():
    settings = settings_of("text_processor=baseline", "heatmap=elbo", "heatmap.elbo.loss_timesteps=[1,501]")
    said = findings(settings)["passes"]
    assert "up to 4 an expression (2 embeddings x timesteps 1 x draws 1 x seeds 1, and loss_timesteps 2" in said
    assert "4 where there is nothing to bind" in said


def test_no_rate_is_made_up():
    settings = settings_of("text_processor=paper")
    said = findings(settings)["hours"]
    assert said == "not measured here: give rate=PASSES_PER_SECOND of one GPU; or rate=measure"
    assert "no weights are here" in findings(settings, "measure")["hours"]


def test_hours_say_that_texts_read_besides_are_left_out():
    said = findings(settings_of("text_processor=read_only", "alpha=grid"), 100.0)["hours"]
    assert said.endswith("; 9 texts read besides on these passes are not in it")
    assert "besides" not in findings(settings_of("text_processor=paper"), 100.0)["hours"]


def test_a_measured_rate_says_where():
    settings = replace(settings_of("text_processor=baseline", "cache.folder=null"), batch_size=2)
    said = findings(settings, "measure", folder=PACKAGE / "assets" / "bundled")["hours"]
    assert "measured on this machine's cpu, the model alone" in said


def test_bytes_by_hand():
    settings = settings_of("text_processor=paper", "keep_maps=true", "save_masks=png")
    bundled = PACKAGE / "assets" / "bundled"
    assert plan.map_bytes(settings, bundled) == 4 * 16 * 16 * 2  # four resolutions on its grid, float16
    found = findings(settings, folder=bundled, counted=plan.Counted(1_000, {}, (), pixels=640 * 480))["size"]
    assert (
        "rows this run (1,000 expressions) 6.0 MB" in found and "kept maps this run (1,000 expressions) 6.1 MB" in found
    )
    assert (
        "masks, about this run (1,000 expressions) 0.23 GB" in found
    )  # 3,000 maps of 307,200 pixels, a quarter byte each
    assert "32.4 MB in fp32, 16.2 MB in fp16" in found
    assert "kept maps unknown until the model is there" in findings(settings)["size"]


def test_kept_maps_of_a_single_file(tmp_path):
    """Its settings lie in the package, not beside it; 64 x 64 cells at 512 px."""
    file = tmp_path / "mine.safetensors"
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(320, 4, 3, 3)}, file)
    assert plan.map_bytes(settings_of("keep_maps=true"), file) == 4 * 64 * 64 * 2


def test_kept_maps_of_stable_diffusion():
    folder = shared("sd15_config")
    assert plan.map_bytes(settings_of("keep_maps=true"), folder) == 4 * 64 * 64 * 2


def test_a_sweeps_arguments_are_planned_as_one_run():
    typed = [
        "sweep=table3_alpha",
        "launcher=gpus",
        "launcher.gpus=7",
        "launcher.ray.init.address=auto",
        "shard=0/2,1/2",
    ]
    assert of_one_run(typed) == ["hydra.mode=RUN", "sweep=table3_alpha", "gpus=7"]
    assert of_one_run(["dataset=refcoco", "rate=9"]) == ["dataset=refcoco", "rate=9"]


def test_classes_of_an_image_are_counted_once_and_expressions_are_not():
    seen = [("a", "dog"), ("a", "dog"), ("b", "dog"), ("b", "cat")]
    found = [Sample(str(i), image, Path("x"), name, name, None, (1, 1)) for i, (image, name) in enumerate(seen)]
    assert count_units(found, "attrbind_exp.data.coco.load_coco") == 3
    assert count_units(found, "attrbind_exp.data.refer.load_refer") == 4


@pytest.mark.parametrize(("rate", "gpus", "words"), [("fast", 1, "rate=fast"), (0, 1, "rate=0"), (9, 0, "gpus=0")])
def test_what_is_no_rate_is_refused(rate, gpus, words):
    with pytest.raises(UserError, match=words):
        plan.check_rate(rate, gpus)
