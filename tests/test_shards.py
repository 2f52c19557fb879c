"""A run in parts gives the figures of the whole, to the last digit."""

import json
import shutil

import pytest

from attrbind_exp import config
from attrbind_exp.types import UserError
from tests.test_command import command, composed, process


def figures(folder):
    """A summary without what differs by design."""
    summary = json.loads((folder / "summary.json").read_text())
    return {k: v for k, v in summary.items() if k not in ("seconds", "overrides")}


@pytest.mark.parametrize("shard", ["7/7", "1", "a/b", "0/0"])
def test_other_shards_are_refused(shard):
    with pytest.raises(UserError, match=f"shard={shard}; give K/N"):
        config.shard(composed(f"shard={shard}"))


@pytest.mark.parametrize("data", ["shapes", "shapes_classes"])
def test_merged_shards_equal_the_unsharded_run(tmp_path, data):
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
    code, out, err = process(str(tmp_path / "parts"), module="merge")
    assert code == 0, err
    assert out.strip().splitlines()[-1] == str(tmp_path / "parts" / "merged")
    assert figures(tmp_path / "parts" / "merged") == figures(tmp_path / "whole")
    rows = [(tmp_path / p / "expressions.jsonl").read_text() for p in ("parts/merged", "whole")]
    assert rows[0] == rows[1]
    shutil.rmtree(tmp_path / "parts" / "merged")
    next((tmp_path / "parts").glob("**/summary.json")).unlink()
    code, _, err = process(str(tmp_path / "parts"), module="merge")
    assert code == 2 and "no finished run of shard" in err
