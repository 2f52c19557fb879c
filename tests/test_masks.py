"""Masks as people have sent them: every one gives its area or a counted failure, and none reads memory of others."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import zlib
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from attrbind_exp.data.masks import decode_mask, encode_mask
from attrbind_exp.types import SampleError

CASES = json.loads((Path(__file__).parent / "cases" / "masks.json").read_text())
REASONS = {"mask_malformed", "mask_size", "empty_mask", "mask_missing"}
SIZE = (80, 120)
WHOLE = CASES[0]["segmentation"]["counts"]  # compressed run lengths of 1,300 pixels in 80 x 120
RUNS = CASES[1]["segmentation"]["counts"]  # the same ones, not compressed
SQUARE = [30, 20, 70, 20, 70, 50, 30, 50]


def answer(segmentation, size=SIZE):
    """{"area": pixels} or {"failure": reason}, as masks.json has it."""
    try:
        return {"area": int(decode_mask(segmentation, size).sum())}
    except SampleError as error:
        return {"failure": error.reason}


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_what_people_have_sent(case):
    assert answer(case["segmentation"], (case["height"], case["width"])) == case["expect"]


def spell(*numbers):
    """Numbers in COCO's compressed text: 5 bits a character, the lowest first; another 32 where more follow."""
    text = ""
    for number in numbers:
        while not -16 <= number < 16:
            text += chr(48 + (number & 31) + 32)
            number >>= 5
        text += chr(48 + (number & 31))
    return text


def compressed(counts, size=SIZE):
    return {"size": list(size), "counts": counts}


def zigzag(times, reach):
    return [[-reach, 0, reach, 70] * times]


MALFORMED = {
    "RLE as bytes that are cut": compressed(WHOLE.encode()[:-1]),
    "RLE that begins in the middle": compressed(WHOLE[1:]),
    "RLE that ends in the middle of a number": compressed(WHOLE + "P"),
    "RLE with a space": compressed(WHOLE + " "),
    "RLE with a newline": compressed(WHOLE + "\n"),
    "RLE with NUL, where C would stop": compressed(WHOLE + "\0" + "0"),
    "RLE with letters of another alphabet": compressed(WHOLE + "é"),
    "RLE with half a surrogate": compressed(WHOLE + "\ud800"),
    "RLE, a number of seven characters": compressed("PPPPPP0" + spell(9590, 10)),
    "RLE, a number of a million characters": compressed("P" * 1_000_000 + "0"),
    "RLE, a negative run that another makes up for": compressed(spell(-5, 9605)),
    "RLE, a run that is negative by its difference": compressed(spell(9000, 300, 400, -400)),
    "RLE, a run that wraps around at 32 bits": compressed(spell(9590, 2**28, 10 - 2**28, *[2**28, 0] * 15)),
    "RLE of a million empty runs": compressed("0" * 1_000_000),
    "RLE, size of zero": compressed("", (0, 120)),
    "RLE, size of one number": compressed(WHOLE, (80,)),
    "RLE, size of three numbers": compressed(WHOLE, (80, 120, 1)),
    "RLE, size as text": compressed(WHOLE, ("80", "120")),
    "RLE, size not whole": compressed(WHOLE, (80.5, 120)),
    "RLE, size of not-a-number": compressed(WHOLE, (float("nan"), 120)),
    "RLE, size of infinity": compressed(WHOLE, (float("inf"), 120)),
    "RLE, size of true": compressed(WHOLE, (True, 9600)),
    "RLE, size null": {"size": None, "counts": WHOLE},
    "RLE, size a number": {"size": 80, "counts": WHOLE},
    "RLE, size with names": {"size": {"height": 80, "width": 120}, "counts": WHOLE},
    "RLE, size of 400 digits": compressed(WHOLE, (10**400, 120)),
    "RLE, one row more than it has": compressed(WHOLE, (81, 120)),
    "RLE without counts": {"size": [80, 120]},
    "RLE, counts null": compressed(None),
    "RLE, counts a number": compressed(9600),
    "RLE, counts with names": compressed({"0": 9600}),
    "runs that are not whole": compressed([460.5, 9139.5]),
    "runs of not-a-number": compressed([float("nan"), 9600]),
    "runs of infinity": compressed([float("inf"), 9600]),
    "runs with null": compressed([460, None, 9140]),
    "runs of truths": compressed([True, 9599]),
    "runs in lists": compressed([[460], [9140]]),
    "runs in lists of unequal lengths": compressed([460, [10, 10], 9120]),
    "runs that wrap around at 32 bits": compressed([2**32 + 460, 9140]),
    "runs that wrap around at 64 bits": compressed([2**64 + 460, 9140]),
    "runs of 400 digits": compressed([10**400, 9600]),
    "runs, one of them text of a million letters": compressed(["1" * 1_000_000, *[0] * 100_000]),
    "runs that go on": compressed([*RUNS, 1]),
    "runs, none": compressed([]),
    "polygon as text": ["30 20 70 20 70 50"],
    "polygon with text": [["a", "b", *SQUARE]],
    "polygon with not-a-number as text": [["nan", 0, *SQUARE]],
    "polygon with infinity as text": [["-inf", 0, *SQUARE]],
    "polygon with an empty text": [["", 0, *SQUARE]],
    "polygon with true": [[True, 0, *SQUARE]],
    "polygon with a number of 400 digits": [[10**400, 0, *SQUARE]],
    "polygon with a list in it": [[[30], 20, 70, 20, 70, 50]],
    "polygon with names in it": [[{"x": 30}, 20, 70, 20, 70, 50]],
    "polygon to the right beyond ten times the picture": [[0, 0, 1200.5, 0, 70, 70]],
    "polygon below beyond ten times the picture": [[0, 0, 70, 0, 70, 800.5]],
    "polygon to the left beyond ten times the picture": [[-1200.5, 0, 70, 0, 70, 70]],
    "polygon above beyond ten times the picture": [[0, -800.5, 70, 0, 70, 70]],
    "polygon, only the second one bad": [SQUARE, [0, 0, None, 0, 70, 70]],
    "polygon, a bad one of two points": [SQUARE, [None, 1, 3, 4]],
    "polygon of three numbers beside a good one": [SQUARE, [1, 2, 3]],
    "polygon that goes to and fro without end": zigzag(5000, 1200),
    "polygons that together go to and fro without end": zigzag(20, 1200) * 300,
    "null beside a good polygon": [SQUARE, None],
    "a number": 7,
    "true": True,
    "no keys": {},
    "union of nothing that is a list": {"union": "all"},
    "union with null": {"union": [[SQUARE], None]},
    "union, one of them cut": {"union": [[SQUARE], compressed(WHOLE[:-4])]},
    "a picture without a name": {"png": None},
    "a picture of a number": {"png": 7},
    "a picture's name with NUL": {"png": "a\0.png"},
    "a picture that never ends": {"png": "/dev/zero"},
}


@pytest.mark.parametrize("segmentation", MALFORMED.values(), ids=list(MALFORMED))
def test_more_that_is_malformed(segmentation):
    assert answer(segmentation) == {"failure": "mask_malformed"}


GOOD = {
    "RLE as bytes": (compressed(WHOLE.encode()), 1300),
    "RLE, size as whole floats": (compressed(WHOLE, (80.0, 120.0)), 1300),
    "RLE with a zero longer than it need be": (compressed(WHOLE.replace("V200", "V2P00")), 1300),
    "RLE with empty runs at its end": (compressed(spell(9000, 600, 0, -600)), 600),
    "RLE of all pixels": (compressed(spell(0, 9600)), 9600),
    "runs as whole floats": (compressed([float(n) for n in RUNS]), 1300),
    "runs with empty ones among them": (compressed([0, 10, 0, 20, 9000, 0, 570]), 30),
    "polygon that reaches just to ten times the picture": ([[-1200, -800, 1200, -800, 1200, 800, -1200, 800]], 9600),
    "polygons that overlap": ([SQUARE, [60, 40, 80, 40, 80, 60, 60, 60]], 1500),
    "polygons, 19,200 side by side and on each other": (
        [[x, y, x + 2, y, x + 2, y + 2, x, y + 2] for x in range(0, 120, 2) for y in range(0, 80, 2)] * 8,
        9600,
    ),
    "polygon of tuples": ([tuple(SQUARE)], 1200),
    "polygon of numpy": ([np.array(SQUARE, np.float32)], 1200),
    "polygon of nothing beside a good one": ([[], SQUARE], 1200),
    "union of overlapping objects": ({"union": [[SQUARE], [[60, 40, 80, 40, 80, 60, 60, 60]]]}, 1500),
    "union in a union": ({"union": [{"union": [[SQUARE]]}, compressed([0, 10, 9590])]}, 1210),
}


@pytest.mark.parametrize(("segmentation", "area"), GOOD.values(), ids=list(GOOD))
def test_odd_masks_that_are_good(segmentation, area):
    assert answer(segmentation) == {"area": area}


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (compressed([9600]), "empty_mask"),
        (compressed(spell(9600)), "empty_mask"),
        ([[]], "empty_mask"),
        ({"union": []}, "empty_mask"),
        ({"union": [[SQUARE], []]}, "empty_mask"),
        ({"png": "none.png"}, "mask_missing"),
        (compressed([50_000, 50_000], (250, 400)), "mask_size"),
        (compressed([2**32 - 1], (1, 2**32 - 1)), "mask_size"),
    ],
)
def test_other_reasons(segmentation, reason):
    assert answer(segmentation) == {"failure": reason}


@pytest.mark.parametrize(
    "size",
    [
        (0, 120),
        (-80, 120),
        (80.5, 120),
        (None, 120),
        ("80", "120"),
        (True, 120),
        (10**9, 10**9),
        (10**400, 1),
        (80,),
        None,
    ],
)
@pytest.mark.parametrize(
    "segmentation", [[SQUARE], compressed(WHOLE), {"png": "none.png"}], ids=["polygon", "RLE", "PNG"]
)
def test_an_image_of_no_size_has_no_mask(segmentation, size):
    assert answer(segmentation, size) == {"failure": "mask_size"}


def uncompressed(mask):
    """The run lengths of a mask (H, W), down its columns."""
    pixels = mask.T.ravel()
    edges = np.flatnonzero(np.diff(pixels)) + 1
    runs = np.diff([0, *edges, pixels.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if pixels[0] else runs}


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (37, 53), (480, 640)], ids=str)
@pytest.mark.parametrize("share", [1e-5, 0.1, 0.5, 0.9, 1])
def test_run_lengths_are_read_as_pycocotools_reads_them(size, share):
    mask = np.random.default_rng(0).random(size) < share
    mask[0, 0] = mask[-1, -1] = True
    for written in (mask, ~mask) if share < 1 and mask.size > 1 else (mask,):
        runs = encode_mask(written)
        assert np.array_equal(coco_mask.decode(runs), written)
        for form in (runs, uncompressed(written)):
            read = decode_mask(form, size)
            assert np.array_equal(read, written) and read.dtype == bool and read.flags.c_contiguous


def png(mask, mode):
    """The bytes of a mask (H, W) bool drawn in a PIL mode."""
    file = BytesIO()
    Image.fromarray(mask).convert(mode).save(file, "PNG")
    return file.getvalue()


def test_pictures_of_masks_are_checked_to_their_last_pixel(tmp_path):
    mask = decode_mask(compressed(WHOLE), SIZE)
    whole, path = png(mask, "L"), tmp_path / "mask.png"
    path.write_bytes(whole)
    assert answer({"png": str(path)}) == answer({"png": path}) == {"area": 1300}
    for at in range(len(whole) - 12):  # without the mark of its end
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert answer({"png": str(path)}) == {"failure": "mask_malformed"}, at


def test_a_pipe_in_place_of_a_picture_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "mask.png")
    assert answer({"png": str(tmp_path / "mask.png")}) == {"failure": "mask_malformed"}


# 10,000 damages. They happen in a process of their own, which a second of its time or 200 MB more end.

DAMAGES, MEMORY = 10_000, 200 * 2**20


def damage(data, rng):
    """`data`, text or bytes or a list of numbers, with up to four places flipped, cut or doubled."""
    kind, values = type(data), list(data.encode() if isinstance(data, str) else data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        start = rng.randrange(len(values) + 1)
        end = start + rng.choice([1, 1, 2, 4, 30, len(values)])
        match rng.choice(["flip", "cut", "double"]):
            case "flip" if start < len(values):
                values[start] = flip(values[start], rng) if kind is list else values[start] ^ 1 << rng.randrange(8)
            case "cut":
                del values[start:end]
            case "double":
                values[start:start] = values[start:end]
    if kind is list:
        return values
    return bytes(values) if kind is bytes else bytes(values).decode("latin-1")


def flip(number, rng):
    """The number with one bit of its eight bytes flipped: also infinite, no number, beyond all bounds."""
    return float(
        (np.array([number], np.float64).view(np.uint64) ^ np.uint64(1 << rng.randrange(64))).view(np.float64)[0]
    )


def with_checksums(picture):
    """A PNG with right checksums wherever its chunks can be told apart, so that damage comes past them."""
    data, at = bytearray(picture), 8
    while at + 12 <= len(data) and (end := at + 8 + int.from_bytes(data[at : at + 4])) + 4 <= len(data):
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4)
        at = end + 4
    return bytes(data)


def damaged_masks(folder):
    """(size, segmentation) of good masks, each damaged in a way of its own; the same ones at every call."""
    rng = random.Random(0)
    rows, columns = np.mgrid[:80, :120]
    ring = abs(np.hypot(rows - 40, columns - 60) - 25) < 8
    whole = {"compressed": encode_mask(ring)["counts"], "runs": uncompressed(ring)["counts"]}
    polygon = [float(n) for turn in np.arange(0, 6.28, 0.1) for n in (60 + 30 * np.cos(turn), 40 + 30 * np.sin(turn))]
    texts = [json.dumps(form) for form in (uncompressed(ring), encode_mask(ring), [SQUARE, [9, 9, 30.5, 9, 9, 40.25]])]
    pictures = [png(ring, mode) for mode in ("1", "L", "P", "RGB", "RGBA")]
    for number in range(DAMAGES):
        match number % 5:
            case 0:
                yield compressed(damage(whole["compressed"], rng))
            case 1:
                yield compressed(damage(whole["runs"], rng))
            case 2:
                yield [damage(polygon, rng), SQUARE][: rng.choice([1, 2])]
            case 3:
                try:
                    yield json.loads(damage(rng.choice(texts), rng))
                except ValueError:
                    yield None  # never comes so far
            case 4:
                path = folder / f"{number}.png"
                picture = damage(rng.choice(pictures), rng)
                path.write_bytes(picture if rng.random() < 0.3 else with_checksums(picture))
                yield {"png": str(path)}


def answer_within_bounds(segmentation):
    signal.setitimer(signal.ITIMER_PROF, 1)  # the process ends where its own time runs out
    given = answer(segmentation)
    signal.setitimer(signal.ITIMER_PROF, 0)
    return given


def answer_all(folder):
    """Print the answers to all damages as JSON. They are given twice, the second time from the last to the first."""
    masks = list(damaged_masks(Path(folder)))
    answer([SQUARE])
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    first = [answer_within_bounds(mask) for mask in masks]
    second = [answer_within_bounds(mask) for mask in reversed(masks)]
    assert first == second[::-1]
    print(json.dumps(first))


def test_ten_thousand_damages_give_an_area_or_a_counted_failure(tmp_path):
    code = f"from tests.test_masks import answer_all; answer_all({str(tmp_path)!r})"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    answers = json.loads(done.stdout)
    areas = [given["area"] for given in answers if "area" in given]
    reasons = Counter(given["failure"] for given in answers if "failure" in given)
    assert len(areas) + reasons.total() == DAMAGES and all(0 < area <= 9600 for area in areas)
    assert reasons.keys() <= REASONS and min(len(areas), reasons["mask_malformed"]) > 1000
    print(len(areas), reasons)
