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
    baseline, prefixed = (summary["variants"][k]["slices"] for k in (0, 3))
    assert 15 <= baseline["rivalry"]["rare_beside_usual"]["peak"]["distractor"] <= 60, "there is something to mend"
    second = prefixed["order"]["target_second"]["mIoU"] - baseline["order"]["target_second"]["mIoU"]
    assert second == pytest.approx(3.4, abs=0.6), "what README and study say that the prefixed chunk mends"
