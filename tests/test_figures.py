"""The figures that README shows are the ones that the shipped files give."""

import re

import pytest

from attrbind_exp.config import CONF
from tests.test_command import run

README = CONF.parent / "README.md"


def shown(row: str) -> list[float]:
    """The figures of one row of README's first table."""
    line = next(line for line in README.read_text().splitlines() if line.startswith(f"| {row} "))
    return [float(n) for n in re.findall(r"-?\d+\.\d+", line)]


def test_readme_shows_what_make_run_prints(tmp_path):
    summary = run(tmp_path / "run", "text_processor=ablation")
    assert (summary["n_scored"], summary["n_failed"]) == (1710, 0)
    assert [v["mIoU"] for v in summary["variants"]] == pytest.approx(shown("all"), abs=0.3)
    rare = [v["slices"]["pair"]["rare"]["mIoU"] for v in summary["variants"]]
    assert rare == pytest.approx(shown("pair = rare"), abs=0.6)
    assert summary["variants"][0]["mIoU"] >= 55
