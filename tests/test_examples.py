"""examples/: short scripts that run by themselves; the pictures on docs/examples.md are what they draw."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attrbind_exp.config import CONF
from tests.test_pages import start  # noqa: F401

EXAMPLES, DOCS = CONF.parent / "examples", CONF.parent / "docs"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
RUN = [
    "text_processor=paper",
    "tracker=none",
    "dataset.limit=2",
    "gallery=0",
    "changed=0",
    "hydra.run.dir=outputs/first",
]
pytestmark = pytest.mark.skipif(not SCRIPTS, reason="examples/ is not in an installed package")


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_an_example_draws_its_picture(script, tmp_path, start):  # noqa: F811
    printed = tmp_path / "printed.txt"
    reads_a_run = "outputs/first" in script.read_text()
    if reads_a_run:
        assert start("module", "attrbind_exp.run", RUN, tmp_path, printed) == 0, printed.read_text()
    assert start("script", script.read_text(), [], tmp_path, printed) == 0, printed.read_text()
    drawn = pixels(tmp_path / f"{script.stem}.png")
    kept = pixels(DOCS / "images" / "examples" / f"{script.stem}.png")
    assert drawn.shape == kept.shape and kept.std() > 10
    if not reads_a_run:  # of a small run, here
        assert np.abs(drawn - kept).mean() < 3, "make examples draws the pictures anew"


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"), np.float32)


def test_examples_are_short_and_their_pictures_small():
    assert len(SCRIPTS) == 8
    for script in SCRIPTS:
        picture = DOCS / "images" / "examples" / f"{script.stem}.png"
        assert len(script.read_text().splitlines()) <= 30, script
        with Image.open(picture) as image:
            assert image.mode == "P" and picture.stat().st_size < 100_000, picture


def test_the_page_shows_each_script_and_its_picture():
    page = (DOCS / "examples.md").read_text()
    included = re.findall(r"^--8<--\nexamples/(\w+)\.py\n--8<--$", page, re.MULTILINE)
    assert sorted(included) == [script.stem for script in SCRIPTS]
    assert re.findall(r"\(images/examples/(\w+)\.png\)", page) == included
