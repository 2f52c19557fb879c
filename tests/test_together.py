"""Everything at once: edits of the pass and of the reading, the text-blind floor, two heat-map methods, two noise seeds,
kept maps and pictures in one run. Its rows are those of a run for each variant alone."""

import json
from dataclasses import replace

import numpy as np
import pytest

from attrbind_exp import config
from attrbind_exp.edits import chain
from attrbind_exp.evaluation.loop import score
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.runs.rows import encode_rows, read_images
from attrbind_exp.runs.store import RunStore
from tests.test_command import command, composed

READ = "{name: read, edits: ['${text_processor.ncr_read}','${text_processor.uea_read}']}"
METHODS = (
    "{name: baseline, edits: []}",
    "{name: chunk, edits: ['${text_processor.ncr}']}",
    READ,
    "{name: ours, edits: ['${text_processor.ncr}','${text_processor.uea}']}",
)
ASKED = (
    "dataset=shapes",
    "dataset.split=val",
    "dataset.limit=13",
    "text_processor=read_only",
    f"text_processor.methods=[{','.join(METHODS)}]",
    "text_processor.report=read",
    "alpha=[0.5,0.9]",
    "heatmap=[diffsegmenter,daam]",
    "seeds=2",
    "keep_maps=true",
    "cache.folder=null",
    "batch_size=5",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The run's folder."""
    folder = tmp_path_factory.mktemp("together") / "run"
    code, _, err = command(*ASKED, "tracker=none", "gallery=2", "changed=1", f"hydra.run.dir={folder}")
    assert code == 0, err
    return folder


def lines(folder):
    return (folder / "expressions.jsonl").read_bytes()


def read_rows(folder):
    return [row for _, rows in read_images(folder) for row in rows]


def test_rows_are_those_of_a_run_for_each_variant_alone(folder, model, tmp_path, monkeypatch):
    """To the last byte. Alone no two expressions share a row of a pass, either."""
    monkeypatch.setattr(chain, "embedding_key", lambda *_: object())
    settings = config.read_settings(composed(*ASKED))
    dataset, methods = settings.load_dataset(), settings.segmenter.make_methods()
    found = read_rows(folder)
    assert len({row.image_id for row in found}) == 3
    variants = settings.run.variants
    # Baseline, chunk and text-blind once, the others twice; two methods; two seeds.
    assert len(variants) == 14 and len(found) == 13 * 14 * 2
    for number, variant in enumerate(variants):
        own = {variant.heatmap: methods[variant.heatmap]}
        segmenter = Segmenter(model, settings.segmenter.text, settings.segmenter.maps, own)
        alone = replace(settings.run, variants=[variant], headline=0, keep_maps=False)
        with RunStore(tmp_path / str(number), "alone") as store:
            score(dataset, segmenter, alone, store)
        mine = [row for row in found if (row.text_processor, row.alpha, row.heatmap) == key_of(variant)]
        assert len(mine) == 26
        # An expression's references stand in its first row alone.
        theirs = [without(row) for row in read_rows(tmp_path / str(number))]
        assert encode_rows(map(without, mine)) == encode_rows(theirs), variant.label


def key_of(variant):
    return variant.name, variant.alpha, variant.heatmap


def without(row):
    return type(row)(**{n: {} if n == "references" else getattr(row, n) for n in row.__struct_fields__})


def test_what_was_kept_gives_the_same_figures_and_pictures_are_drawn(folder, tmp_path):
    again = tmp_path / "again"
    code, _, err = command(str(folder), "--out", str(again), module="rescore")
    assert code == 0, err
    for mine, theirs in zip(read_rows(again), read_rows(folder), strict=True):
        assert (mine.text_processor, mine.alpha, mine.heatmap, mine.seed) == (
            theirs.text_processor,
            theirs.alpha,
            theirs.heatmap,
            theirs.seed,
        )
        # Maps are kept in half precision.
        assert np.abs(np.array(mine.intersection) - theirs.intersection).max() <= 8
        assert mine.references == theirs.references
    names = sorted(
        file.parent.name for file in folder.rglob("*.png") if "gallery" in str(file) or "improved" in str(file)
    )
    assert len(names) >= 3, names


def test_a_run_that_was_stopped_goes_on_to_the_same_rows(folder):
    whole, summary = lines(folder), json.loads((folder / "summary.json").read_text())
    rows = read_rows(folder)
    first = [row for row in rows if row.image_id == rows[0].image_id]
    (folder / "summary.json").unlink()
    (folder / "expressions.jsonl").write_bytes(encode_rows(rows[: len(first) + 5]))  # and a torn image
    code, _, err = command(*ASKED, "tracker=none", "gallery=2", "changed=1", f"hydra.run.dir={folder}")
    assert code == 0, err
    assert lines(folder) == whole
    again = json.loads((folder / "summary.json").read_text())
    assert [v["mIoU"] for v in again["variants"]] == [v["mIoU"] for v in summary["variants"]]
