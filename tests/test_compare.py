"""attrbind compare: what load_segmenter().compare draws, typed."""

import shutil

import numpy as np
import pytest
from PIL import Image

from attrbind_exp import load_segmenter
from attrbind_exp.commands.completion import complete
from attrbind_exp.commands.segment_arguments import rewrite_compare
from attrbind_exp.config import PACKAGE
from attrbind_exp.types import UserError
from tests.test_command import command

PICTURE = PACKAGE / "assets" / "shapes" / "images" / "val_0000.jpg"
TEXT = "the orange circle next to blue circle"


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        (["a.jpg", "a dog"], ["image=a.jpg", "expression=a dog"]),
        (["a.jpg", "a dog", "baseline", "ncr+uea", "seed=1"], ["seed=1", "image=a.jpg", "expression=a dog", "edits=['baseline','ncr+uea']"]),
        (["image=a.jpg", "a dog", "uea"], ["image=a.jpg", "expression=a dog", "edits=['uea']"]),
        (["image=a.jpg", "expression=a", "--cfg", "job", "uea"], ["--cfg", "job", "image=a.jpg", "expression=a", "edits=['uea']"]),
        (["edits=[uea]", "a.jpg", "a dog"], ["edits=[uea]", "image=a.jpg", "expression=a dog"]),
    ],
)  # fmt: skip
def test_words_become_keys(typed, given):
    assert rewrite_compare(typed) == given


def test_words_that_cannot_be_meant():
    for typed, said in (
        (["a.jpg", "a", "uea", "edits=[ncr]"], "in one of the two ways"),
        (["a.jpg", "a", "--mask", "m.png"], "choose from --help"),
    ):
        with pytest.raises(UserError, match=said):
            rewrite_compare(typed)


def test_it_draws_and_prints_what_python_has(tmp_path):
    shutil.copy(PICTURE, tmp_path / "a.jpg")
    code, out, err = command(
        "a.jpg", TEXT, "baseline", "ncr+uea", "alpha=0.5", "hydra.run.dir=out", module="compare", cwd=tmp_path
    )
    assert code == 0 and err == "", err
    with pytest.warns(UserWarning, match="the bundled model knows only shapes"):
        found = load_segmenter(alpha=0.5).compare(tmp_path / "a.jpg", TEXT, ["baseline", "ncr+uea"])
    lines = out.splitlines()
    assert lines[0] == f"expression  {TEXT}" and lines[-1] == str(tmp_path / "out")
    for line, result in zip(lines[1:3], found.values(), strict=True):
        share = f"{100 * result.mask(0.5).mean():.1f} % of the image"
        assert line.split("  ")[0] == result.edit and line.endswith(
            f"target circle; noun chunk the orange circle; {share}"
        )
    assert lines[3].startswith("WARNING") and lines[4] == f"picture     {tmp_path}/out/comparison.png"
    drawn = Image.open(tmp_path / "out" / "comparison.png")
    assert np.array_equal(np.asarray(drawn), np.asarray(found.picture(0.5)))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ([], "no image given"), (["a.jpg"], "no expression given"), (["a.jpg", "a dog", "alpha=grid"], "compare takes one number"), (["a.jpg", "a dog", "alpha=-1"], "from 0 on"),
        (["a.jpg", "a dog", "threshold.value=null"], "threshold=null"), (["a.jpg", "a dog", "edits=uea"], "edits=uea"), (["a.jpg", "a dog", "mask=m.png"], "no key 'mask'"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_one_line(tmp_path, typed, said):
    code, _, err = command(*typed, module="compare", cwd=tmp_path)
    assert code == 2 and said in err and len(err.splitlines()) == 1, err


def test_words_are_completed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").touch()
    assert complete(["attrbind", "co"]) == ["compare"] and complete(["attrbind", "sc"]) == ["score"]
    assert complete(["attrbind", "compare", "ph"]) is None  # a file's name
    assert complete(["attrbind", "score", "pred"]) == ["predictions="]
    assert complete(["attrbind", "score", "predictions=x"]) is None
    assert complete(["attrbind", "score", "miss"]) == ["missing="]
