"""Proposals made of pictures alone (benchmarks/proposals.py)."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attrbind_exp.config import CONF
from attrbind_exp.data.proposals import read_proposals
from attrbind_exp.types import Sample, UserError
from tests.conftest import picture, write_refer

SCRIPT = CONF.parent / "benchmarks" / "proposals.py"
if not SCRIPT.is_file():
    pytest.skip("benchmarks/ is not in an installed package", allow_module_level=True)
pytest.importorskip("cv2")

from benchmarks import proposals


def rectangles() -> tuple[np.ndarray, list[np.ndarray]]:
    """A picture (80, 120, 3) of two flat rectangles on a flat ground, and their masks."""
    pixels, masks = np.full((80, 120, 3), 200, np.uint8), []
    for (y, x), colour in (
        ((slice(10, 40), slice(15, 55)), (220, 30, 30)),
        ((slice(30, 70), slice(70, 110)), (30, 30, 220)),
    ):
        pixels[y, x] = colour
        masks.append(np.zeros((80, 120), bool))
        masks[-1][y, x] = True
    return pixels, masks


def equal(one, other):
    return one.shape == other.shape and (one == other).all()


def test_two_flat_rectangles_are_both_found_to_the_pixel():
    pixels, (red, blue) = rectangles()
    found = proposals.propose(Image.fromarray(pixels))
    # Beside them are thin ones along the blurred edges.
    assert sum(equal(red, mask) for mask in found) == sum(equal(blue, mask) for mask in found) == 1


def test_a_larger_picture_is_cut_small_and_its_masks_are_enlarged():
    pixels, masks = rectangles()
    large = Image.fromarray(pixels.repeat(8, 0).repeat(8, 1))  # 960 wide, cut at 640
    found = proposals.propose(large)
    for mask in masks:
        truth = mask.repeat(8, 0).repeat(8, 1)
        best = max((truth & m).sum() / (truth | m).sum() for m in found)
        # The smaller one is 320 x 240; at each side at most two small pixels are wrong, 3 of the large picture's.
        assert best > (320 - 6) * (240 - 6) / (320 * 240)


def test_a_picture_of_one_colour_has_no_proposal():
    assert proposals.propose(Image.new("RGB", (40, 30), "red")) == []


def test_no_two_masks_are_nearly_one_none_is_small_and_their_number_ends(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    image = Image.fromarray(noise).resize((160, 120), Image.Resampling.NEAREST)
    found = np.stack(proposals.propose(image)).reshape(-1, 160 * 120).astype(int)
    sizes = found.sum(1)
    assert 20 < len(found) <= proposals.MOST
    assert sizes.min() >= proposals.LEAST * 160 * 120 and sizes.max() < 160 * 120
    both = found @ found.T
    ious = both / (sizes[:, None] + sizes - both)
    assert (ious - np.eye(len(found))).max() <= proposals.ALIKE
    monkeypatch.setattr(proposals, "MOST", 7)
    first = np.stack(proposals.propose(image)).reshape(-1, 160 * 120)
    assert (first == found[:7]).all()


def test_alike_is_what_the_equation_says():
    halves = np.r_[np.full(2, 0.25), np.full(2, 0.25)]
    one = proposals.Region((0,), 6, (0, 0, 2, 3), halves)
    other = proposals.Region((1,), 2, (2, 0, 3, 2), np.array([0.5, 0.5, 0, 0]))
    # Histograms share 0.5; 8 of 20 pixels; the box of both is 3 x 3, of which 1 pixel is neither's.
    assert proposals.likeness(one, other, 20) == pytest.approx(0.5 + (1 - 8 / 20) + (1 - 1 / 20))
    both = one.joined(other)
    assert (both.parts, both.size, both.box) == ((0, 1), 8, (0, 0, 3, 3))
    np.testing.assert_allclose(both.colours, [5 / 16, 5 / 16, 3 / 16, 3 / 16])


def test_those_most_alike_are_grouped_first():
    pixels = np.zeros((40, 90, 3), np.uint8)
    pixels[:, :30], pixels[:, 30:60], pixels[:, 60:] = (200, 20, 20), (190, 24, 24), (20, 20, 200)
    labels = np.repeat([0, 1, 2], 30)[None].repeat(40, 0)
    assert proposals.touching(labels) == [(0, 1), (1, 2)]
    assert [r.parts for r in proposals.group(labels, pixels)] == [(0,), (1,), (2,), (0, 1), (2, 0, 1)]


def make(folder: Path, root: Path, threads: int = 1) -> dict[str, bytes]:
    """The files that the command makes of the data set in `root`/tiny."""
    typed = [
        "dataset=refcoco",
        "model=bundled",
        f"dataset.root={root}",
        "dataset.name=tiny",
        "dataset.split_by=made",
        "dataset.split=test",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    typed = [sys.executable, str(SCRIPT), str(folder), *typed, f"dataset.images={root}/tiny/images"]
    done = subprocess.run(typed, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "of 2 images" in done.stdout and "0 images failed" in done.stdout
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_the_picture_alone_decides_whatever_is_annotated_and_however_many_threads(tmp_path, refer_folder):
    for i in (1, 2):
        picture(120, 160, i).save(refer_folder / "images" / f"{i}.png")
    instances = json.loads((refer_folder / "instances.json").read_text())
    refs = json.loads((refer_folder / "refs(made).json").read_text())
    for image in instances["images"]:
        image["height"], image["width"] = 120, 160
    write_refer(refer_folder, instances, refs)
    once = make(tmp_path / "once", tmp_path)
    assert list(once) == ["1.json", "2.json"]
    for annotation in instances["annotations"]:
        annotation["segmentation"] = [[50, 60, 150, 60, 150, 110]]
    for ref in refs:
        ref["sentences"] = [s | {"sent": "a blue cross", "raw": "a blue cross"} for s in ref["sentences"][:1]]
    write_refer(refer_folder, instances, refs)
    assert make(tmp_path / "again", tmp_path, threads=2) == once
    sample = Sample("s", "1", Path("1.png"), "the star", None, None, (120, 160))
    masks, made = read_proposals(tmp_path / "once", sample), json.loads(once["1.json"])
    assert len(masks) == len(made) > 10 and len({m.tobytes() for m in masks}) == len(masks)
    assert all(m.shape == (120, 160) and 0 < m.sum() == one["area"] for m, one in zip(masks, made, strict=True))


def test_images_whose_files_would_have_one_name_are_refused():
    sample = Sample("s", "a/1.png", Path("/data/a/1.png"), "the star", None, None, (4, 6))
    assert list(proposals.name_images([sample, sample])) == ["1.png.json"]
    with pytest.raises(UserError, match="would both have their proposals in"):
        proposals.name_images([sample, replace(sample, image_id="b/1.png")])


def test_proposals_of_another_picture_of_that_name_are_not_overwritten(tmp_path):
    """As of val/1.png and test/1.png, whose files have one name in one folder."""
    mask = np.arange(6)[None].repeat(4, 0) < 3
    for _ in range(2):
        proposals.write_proposals(tmp_path, "1.png.json", [mask])
    before = (tmp_path / "1.png.json").read_bytes()
    with pytest.raises(UserError, match=r"holds other proposals, of another picture of that name .* another folder"):
        proposals.write_proposals(tmp_path, "1.png.json", [~mask])
    assert (tmp_path / "1.png.json").read_bytes() == before


@pytest.mark.parametrize("first", ["dataset=shapes", "file"])
def test_the_first_word_is_a_folder(tmp_path, monkeypatch, first):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["proposals.py", first, "dataset.limit=1"])
    with pytest.raises(UserError, match=f"'{first}' is no folder; the first word is the folder of the proposals"):
        proposals.main()
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_picture_that_is_not_there_is_counted_and_named(tmp_path, refer_folder, monkeypatch, capsys):
    (refer_folder / "images" / "2.png").unlink()
    typed = [
        "dataset=refcoco",
        f"dataset.root={tmp_path}",
        "dataset.name=tiny",
        "dataset.split_by=made",
        "dataset.split=test",
    ]
    folder = tmp_path / "made"
    monkeypatch.setattr(sys, "argv", ["proposals.py", str(folder), *typed, f"dataset.images={refer_folder}/images"])
    proposals.main()
    printed = capsys.readouterr().out
    assert "image_missing: image" in printed and "of 1 images in" in printed and "1 images failed" in printed
    assert [file.name for file in folder.iterdir()] == ["1.json"]
