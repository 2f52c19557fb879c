"""The audit of parses: rows, counts, and what happens without tokenizer, with overrides and with failures."""

import csv
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from attrbind_exp.backbones.window import ClipWindow, load_tokenizer
from attrbind_exp.commands.parse import COLUMNS, audit, count_changed, read_prompts, summarize
from attrbind_exp.config import PACKAGE
from attrbind_exp.data.refer import load_refer
from attrbind_exp.edits import Padding, Variant
from attrbind_exp.language.overrides import IGNORED_COLUMNS, KNOWN
from attrbind_exp.types import Failure, Override, Sample, TextSettings
from tests.conftest import make_variant, write_refer
from tests.test_command import command


@pytest.fixture
def samples(refer_folder):
    return load_refer(str(refer_folder.parent), "tiny", "made", "test").samples


@pytest.fixture(scope="module")
def window():
    return ClipWindow(load_tokenizer(str(PACKAGE / "assets" / "bundled")))


def audited(samples, settings, window=None):
    return audit(samples, read_prompts(samples, settings, window), window)


def rows(folder):
    with open(folder / "parses.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_one_row_an_expression_in_order(samples, window):
    found = audited(samples, TextSettings(), window)
    assert [r.sample_id for r in found] == [s.sample_id for s in samples]
    assert [r.image_id for r in found] == ["1", "1", "1", "2", "2"]
    assert [(r.target, r.chunk) for r in found] == [
        ("star", "the white star"), ("star", "star"), ("heart", "a red heart"), ("circle", "the black circle"), ("circle", "circle"),
    ]  # fmt: skip
    assert [r.modifiers for r in found] == ["colour", "location", "colour", "colour", ""]
    assert [r.bound for r in found] == [True, True, True, True, False]
    assert found[0].target_tokens == "star</w>" and found[0].chunk_tokens == "the</w> white</w> star</w>"


def test_without_a_tokenizer_only_its_columns_are_missing(samples, window):
    tokens = ("target_tokens", "chunk_tokens", "truncated")
    with_tokens, without = (audited(samples, TextSettings(), w) for w in (window, None))
    assert all(getattr(r, name) is not None for r in with_tokens for name in tokens)
    assert [replace(r, **dict.fromkeys(tokens)) for r in with_tokens] == without


def test_the_gate_decides_what_is_bound(samples, window):
    for w in (window, None):
        assert all(r.bound for r in audited(samples, TextSettings(gate=False), w))


def test_counts_by_hand(samples, window):
    settings = TextSettings(
        overrides={"circle": Override((0, 6)), "gone": Override((0, 4)), "a red heart": Override((2, 5))}
    )
    failures = [Failure(str(i), "image_missing", "gone") for i in range(2)]
    assert asdict(summarize(audited(samples, settings, window), settings, "tiny", {"ncr": 3}, failures, "a note")) == {
        "n": 5, "n_modified": 4, "gate": True, "n_bound": 4, "n_changed": {"ncr": 3}, "n_fallback": {"override": 2},
        "modifiers": {"colour": 2, "location": 1, "other": 1, "none": 1},
        "targets": {"star": 2, "circle": 2, "red": 1}, "unused_overrides": ["gone"],
        "dataset": "tiny", "n_failed": 2, "failures": {"image_missing": 2}, "note": "a note",
    }  # fmt: skip


def test_what_each_method_can_change_is_counted():
    texts = ["the star", "the white star on the left", "next to a red circle, the blue star", "there is a red star"]
    settings = TextSettings()
    prompts = read_prompts(
        [Sample(str(i), "1", Path("1.png"), t, None, None, (4, 4)) for i, t in enumerate(texts)], settings
    )
    variants = [
        Variant("baseline"),
        make_variant("ncr", replace=True),
        make_variant("prefixed", replace=True, prefix="template"),
        make_variant("uea", alpha=1.0),
        make_variant("both", replace=True, prefix="template", alpha=0.9),
        Variant("pad", (Padding(),)),
    ]
    # "the star" has no modifier: nothing to bind, but the padding is every prompt's. Behind the prefix, the second's chunk stands where it stands in the prompt.
    assert count_changed(prompts, variants) == {
        "baseline": 0, "noun_chunk": 3, "noun_chunk_prefixed": 2, "uncond_average alpha=1": 0,
        "attribute_binding_prefixed alpha=0.9": 3, "padding": 4,
    }  # fmt: skip


def test_what_cannot_change_does_not_change(segmenter):
    """The count agrees with the embeddings themselves."""
    texts = ["the white star on the left", "next to a red circle, the blue star", "there is a red star", "the star"]
    variants = [Variant("baseline"), make_variant("prefixed", replace=True, prefix="template")]
    for edited in segmenter.edit(segmenter.prepare(texts), variants):
        plain, prefixed = (edited.embedding(v).keys for v in (0, 1))
        assert count_changed([edited.prompt], variants)["noun_chunk_prefixed"] == (
            (plain - prefixed).abs().max() > 1e-3
        )


def test_an_empty_dataset_has_an_empty_audit(window):
    assert audited([], TextSettings(), window) == []
    assert summarize([], TextSettings(), "none", {}).n == 0


def test_rows_of_the_audit_may_be_given_back_as_overrides():
    assert set(COLUMNS) == {*KNOWN, *IGNORED_COLUMNS}


def test_the_command_corrects_by_hand_and_needs_no_model(tmp_path, refer_folder):
    refs = json.loads((refer_folder / "refs(made).json").read_text())
    refs[2]["sentences"][1]["sent"] = " "
    write_refer(refer_folder, json.loads((refer_folder / "instances.json").read_text()), refs)
    model = tmp_path / "only_tokenizer"
    shutil.copytree(PACKAGE / "assets" / "bundled" / "tokenizer", model / "tokenizer")
    given = [
        f"dataset.root={refer_folder.parent}",
        "dataset.name=tiny",
        f"hydra.run.dir={tmp_path / 'out'}",
        f"model.path={model}",
    ]
    code, out, err = command(*given, module="parse")
    assert code == 0, err
    assert out.splitlines()[0] == "4 expressions of tiny test, 1 failed {'empty_expression': 1}"
    assert out.splitlines()[-1] == str(tmp_path / "out")
    assert "NOTE" not in out
    failure = json.loads((tmp_path / "out" / "failures.jsonl").read_text())
    assert failure["reason"] == "empty_expression"
    found = rows(tmp_path / "out")
    assert found[2]["target"] == "heart" and found[2]["fallback"] == ""

    found[2]["target"] = "red"
    with open(tmp_path / "mine.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerow(found[2])
    (model / "tokenizer" / "tokenizer.json").unlink()
    code, out, err = command(*given, f"text_processor.overrides={tmp_path / 'mine.csv'}", module="parse")
    assert code == 0, err
    assert out.count("NOTE: columns of tokens are empty: no tokenizer at") == 1
    again = rows(tmp_path / "out")
    assert (again[2]["target"], again[2]["fallback"], again[2]["target_tokens"]) == ("red", "override", "")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["n_fallback"] == {"override": 1} and summary["failures"] == {"empty_expression": 1}
    assert again[:2] == [{**r, "target_tokens": "", "chunk_tokens": "", "truncated": ""} for r in found[:2]]


def test_bad_overrides_end_in_one_line(tmp_path):
    (tmp_path / "o.csv").write_text("expression,target\na dog,cat\n")
    code, out, err = command(f"text_processor.overrides={tmp_path / 'o.csv'}", module="parse")
    assert (code, out) == (2, "")
    assert (
        err
        == f"error: '{tmp_path / 'o.csv'}' line 2: target 'cat' does not occur in 'a dog'; give words as they stand there\n"
    )
