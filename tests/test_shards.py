"""A run in parts gives the figures of the whole, to the last digit."""

import json
import shutil

import pytest
from omegaconf import OmegaConf

from attrbind_exp.commands.merge import shard_sets
from attrbind_exp.config.settings import shard as read_shard
from attrbind_exp.types import UserError
from tests.test_command import command, composed, process


def figures(folder):
    """A summary without what differs by design."""
    summary = json.loads((folder / "summary.json").read_text())
    return {k: v for k, v in summary.items() if k not in ("seconds", "overrides")}


@pytest.mark.parametrize("shard", ["7/7", "1", "a/b", "0/0"])
def test_other_shards_are_refused(shard):
    with pytest.raises(UserError, match=f"shard={shard}; give K/N"):
        read_shard(composed(f"shard={shard}"))


@pytest.mark.parametrize("data", ["shapes", "shapes_classes"])
def test_merged_shards_equal_the_unsharded_run(tmp_path, data, monkeypatch):
    given = [
        f"dataset={data}",
        "dataset.fraction=0.08",
        "batch_size=8",
        "tracker=none",
        "gallery=0",
        "changed=0",
        "text_processor=paper",
    ]
    assert command(*given, f"hydra.run.dir={tmp_path / 'whole'}")[0] == 0
    code, _, err = command("-m", "shard=0/3,1/3,2/3", *given, f"hydra.sweep.dir={tmp_path / 'parts'}")
    assert code == 0, err
    (merged,) = (tmp_path / "parts").glob("merged*")  # at the sweep's end; by hand it is the same
    first = (merged / "summary.json").read_text()
    shutil.rmtree(merged)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPROFILEIMPORTTIME", "1")
        code, out, err = process(str(tmp_path / "parts"), module="merge")
    assert code == 0, err
    loaded = {line.rpartition("|")[2].strip() for line in err.splitlines() if line.startswith("import time:")}
    assert "attrbind_exp.commands.merge" in loaded and not loaded & {"torch", "spacy", "diffusers", "transformers"}
    assert out.strip().splitlines()[-1] == str(merged)
    assert (merged / "summary.json").read_text() == first
    assert figures(merged) == figures(tmp_path / "whole")
    rows = [(folder / "expressions.jsonl").read_text() for folder in (merged, tmp_path / "whole")]
    assert rows[0] == rows[1]
    shutil.rmtree(merged)
    next((tmp_path / "parts").glob("**/summary.json")).unlink()
    code, _, err = process(str(tmp_path / "parts"), module="merge")
    assert code == 2 and "no finished run of shard" in err


def test_shards_of_several_runs_are_merged_apart_and_stand_in_the_tables(tmp_path):
    given = ["dataset.fraction=0.04", "batch_size=8", "tracker=none", "gallery=0", "changed=0"]
    sweep = [f"hydra.sweep.dir={tmp_path / 'parts'}", "sweep=table4_ablation", "dataset=shapes", "model=bundled"]
    code, _, err = command(*sweep, *given, "shard=0/2,1/2")
    assert code == 0, err
    merged = sorted((tmp_path / "parts").glob("merged*"))
    assert [json.loads((f / "summary.json").read_text())["split"] for f in merged] == ["test", "val"]
    lines = (tmp_path / "parts" / "results.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * (5 + 4)  # two splits of five variants, three floors and a ceiling, none a shard's


def test_a_rescored_shard_is_no_shard_of_the_sweep(tmp_path):
    for shard in ("0/2", "1/2"):
        cfg = composed(f"shard={shard}")
        for inside in ("", "rescored/threshold=0.5"):
            run = tmp_path / f"shard={shard}" / inside
            run.mkdir(parents=True)
            (run / "summary.json").write_text("{}")
            cfg.threshold.value = 0.5 if inside else None
            OmegaConf.save(cfg, run / "config.yaml", resolve=True)  # as a run writes it
        (tmp_path / "shard=1/2" / "rescored" / "threshold=0.5" / "summary.json").unlink(missing_ok=True)
    (shards,) = shard_sets(tmp_path).values()
    assert shards == {shard: tmp_path / f"shard={shard}" for shard in ("0/2", "1/2")}
