"""The binding study's page from runs made by hand."""

import sys
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from PIL import Image

from attrbind_exp.commands import study
from attrbind_exp.reporting import binding_study as binding
from attrbind_exp.reporting.paper_tables import Run
from attrbind_exp.scoring.figures import Binding, Difference, Estimate
from tests.made_runs import expression_row, make_summary, variant_figures, write_files

LABELS = ("baseline", "noun_chunk_prefixed", "uncond_average alpha=0.5", "uncond_average alpha=1.1")
KEYS = [f"{k / 100:.2f}" for k in range(30, 76, 5)]


def name_of(label):
    name, _, alpha = label.partition(" alpha=")
    return name, float(alpha) if alpha else None


def write_run(folder, split, overrides=(), rows=(), **more):
    """A finished run whose variants are best at 0.35, 0.40, 0.45, 0.50."""
    figures = Estimate(50.0, 40.0, 60.0, 4)
    places = dict.fromkeys(("target", "distractor", "other", "background"), figures)
    curves = [{k: 40.0 - abs(i + 1 - j) for j, k in enumerate(KEYS)} for i in range(len(LABELS))]
    told = {
        "binding": Binding(places, places, figures, figures, figures),
        "difference": Difference(1.0, 0.5, 1.5, 1, 0, 0, 0.01),
        **more,
    }
    variants = [variant_figures(name_of(label), curve, 4, **told) for label, curve in zip(LABELS, curves, strict=True)]
    summary = make_summary(variants, split=split, overrides=[f"dataset.split={split}", *overrides])
    write_files(folder, summary, rows)
    for name in ("improved", "harmed"):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / f"{name}.png")
    return Run(folder, summary)


def row(label, number, iou, peak):
    second, rival = number % 2 == 1, number < 2
    slices = {
        "order": "target_second" if second else "one_noun", "rivalry": "rare_beside_usual" if rival else "none",
        "pair": "rare", "kind": "colour", "same_shape": "distractor" if rival else "alone", "same_colour": "alone",
    }  # fmt: skip
    at = {k: iou + 0.01 * j for j, k in enumerate(KEYS)}
    return expression_row(name_of(label), str(number), at, image_id=f"i{number // 2}", peak=peak, slices=slices)


def rows():
    """Baseline 0.2 and its rivals missed; replacement adds 0.3 where the target stands second."""
    gains = {LABELS[0]: (0, 0), LABELS[1]: (0, 0.3), LABELS[2]: (-0.1, -0.1), LABELS[3]: (0.05, 0.05)}
    return [
        row(label, n, 0.2 + gains[label][n % 2], "distractor" if label == LABELS[0] and n < 2 else "target")
        for label in LABELS
        for n in range(4)
    ]


def runs(folder):
    sweep = folder / "binding_study" / "shapes_bundled"
    return write_run(sweep / "v", "val"), write_run(sweep / "t", "test", rows=rows())


def test_rows_stand_at_the_thresholds_that_val_chose(tmp_path):
    val, test = runs(tmp_path)
    found = binding.read_expressions(test, val)
    assert found.groupby("label").threshold.first().to_dict() == {
        LABELS[0]: 0.35, LABELS[1]: 0.40, LABELS[2]: 0.45, LABELS[3]: 0.50
    }  # fmt: skip
    base, replaced = (found[found.label == label] for label in LABELS[:2])
    assert base.iou.tolist() == pytest.approx([21] * 4) and base.rival.tolist() == [True, True, False, False]
    assert replaced.gain.tolist() == pytest.approx([1, 31, 1, 31])
    groups = binding.by_group(replaced)
    assert {k: len(v) for k, v in groups.items()} == {
        "all": 4, "one noun": 2, "target first": 0, "target second": 2, "rare beside usual": 2
    }  # fmt: skip
    table = binding.slice_table(base).set_index("")
    assert table.loc["all", "peak on target, %"] == "50.0" and table.loc["all", "with distractor"] == "2"
    assert table.loc["rivalry = rare_beside_usual", "peak on distractor, %"].startswith("100.0")
    gains = binding.gains(found).set_index(["group", "alpha"])
    assert gains.loc[("all", 0.5), "mean"] == pytest.approx(-8) and gains.loc[("all", 1.1), "mean"] == pytest.approx(8)


def test_a_table_over_a_setting_has_one_column_a_method(tmp_path):
    """Labels say the setting that is swept over; its values stand in the first column."""
    found = []
    for value in ("eos", "mean"):
        run = write_run(tmp_path / value, "test", [f"text_processor.uncond={value}"])
        variants = [replace(v, label=f"{v.label} uncond={value}") if v.alpha else v for v in run.summary.variants]
        found.append(Run(run.folder, msgspec.structs.replace(run.summary, variants=variants)))
    table, note = study.settings_table(found, "text_processor.uncond").split("\n\n")
    head, _, *lines = table.splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == ["uncond", "n", *LABELS]
    assert [[cell.strip() for cell in line.strip("|").split("|")][::3] for line in lines] == [
        ["eos", "+1.0 [+0.5, +1.5]"], ["mean", "+1.0 [+0.5, +1.5]"]
    ]  # fmt: skip
    assert note.endswith("over the 6 comparisons of this table")  # 0.01 > 0.05 / 6: none survives


def test_gains_are_marked_over_the_whole_table(tmp_path):
    """0.3 in every second expression of two images: their means are equal, so nothing is left to chance. The baseline
    is no comparison, "target first" has no expression, "rare beside usual" a single image: 3 times 3 comparisons."""
    val, test = runs(tmp_path)
    table, note = study.gain_table(binding.read_expressions(test, val)).split("\n\n")
    lines = {cells[0]: cells[1:] for line in table.splitlines() if (cells := [c.strip() for c in line[1:].split("|")])}
    assert lines[LABELS[0]][:3] == ["+0.0 [+0.0, +0.0]", "+0.0 [+0.0, +0.0]", "-"]
    assert lines[LABELS[1]][0] == "+16.0 [+16.0, +16.0] *" and "9 comparisons" in note


def test_the_page_is_made_by_one_command(tmp_path, monkeypatch, capsys):
    runs(tmp_path / "outputs")
    write_run(tmp_path / "outputs" / "binding_layers" / "shapes_bundled" / "h", "test", ["attention_layers=half"])
    write_run(
        tmp_path / "outputs" / "binding_uncond" / "shapes_bundled" / "e",
        "test",
        ["text_processor.uncond=eos"],
        mIoU_spread=0.25,
    )
    page = tmp_path / "docs" / "study.md"
    monkeypatch.setattr(sys, "argv", ["study", str(tmp_path / "outputs"), str(page)])
    study.main()
    text = page.read_text()
    assert "| half" in text and "| eos" in text and "0.25" in text and "+16.0 [" in text
    assert sorted(f.name for f in (tmp_path / "docs" / "images").iterdir()) == [
        "study_alpha.png", "study_harmed.png", "study_improved.png"
    ]  # fmt: skip
    assert text.startswith(study.HEAD.strip())
    page.write_text("# What we found\n\nWords.\n\n## Does\n\nold tables\n")
    study.main()
    assert page.read_text().startswith("# What we found\n\nWords.\n\n## Does mis-binding occur, and where?\n")
    assert page.read_text().partition("\n## ")[2] == text.partition("\n## ")[2]
    (tmp_path / "outputs" / "binding_study" / "shapes_bundled" / "v" / "summary.json").unlink()
    with pytest.raises(SystemExit):
        study.main()
    assert "no finished run of split val" in capsys.readouterr().err
