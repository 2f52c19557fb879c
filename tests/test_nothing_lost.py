"""Whatever happens to a run: its rows and failures are kept, and nothing else is mixed with them."""

import json
import shutil
import sys

import numpy as np
import pytest

from attrbind_exp import config
from attrbind_exp.commands import rescore
from attrbind_exp.data.images import read_picture
from attrbind_exp.data.masks import decode_mask
from attrbind_exp.data.refer import load_refer
from attrbind_exp.edits import Variant
from attrbind_exp.evaluation import loop
from attrbind_exp.evaluation.loop import score
from attrbind_exp.runs import store as runs_store
from attrbind_exp.runs.store import RunStore
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tasks.task import Segmented, SegmentedImage
from attrbind_exp.types import Failure, HeatMap, Parse, Prompt, SampleError, UserError
from tests.conftest import make_variant, write_refer
from tests.test_command import command

VARIANTS = [Variant("baseline"), make_variant("ours", replace=True, alpha=0.9)]
SETTINGS = RunSettings(VARIANTS, batch_size=1, seeds=(0, 1))


def segment_without_a_model(samples_of, segmenter, settings, captioner=None, done=0):
    """Every image with heat maps that depend on the sample alone; what cannot be read fails as in a run."""
    for image, samples in list(samples_of.items())[done:]:
        items, failures, digest = [], [], ""
        for sample in samples:
            try:
                photo, digest = read_picture(sample.image_path, sample.size)
                truth = decode_mask(sample.segmentation, sample.size)
            except SampleError as error:
                failures.append(Failure(sample.sample_id, error.reason, str(error)))
                continue
            rng = np.random.default_rng([*sample.sample_id.encode()])
            prompt = Prompt(sample.text, Parse(sample.text, (0, 3), (0, 3), False), (1,), (1,), (1,), False)
            heats = [HeatMap(rng.random(sample.size, np.float32)) for _ in range(4)]
            items.append(Segmented(sample, photo, truth, prompt, heats, [[0, 1], [2, 3]]))
        yield SegmentedImage(image, items, failures, digest)


@pytest.fixture
def modelless(monkeypatch):
    monkeypatch.setattr(loop, "segment_images", segment_without_a_model)


@pytest.fixture
def spoilt_data(refer_folder):
    """Three images: of the first one of three expressions fails, and one stands twice; all of the second; none of the
    last."""
    instances, refs = (json.loads((refer_folder / name).read_text()) for name in ("instances.json", "refs(made).json"))
    instances["images"].append({"id": 3, "file_name": "3.png", "height": 40, "width": 60})
    shutil.copy(refer_folder / "images" / "1.png", refer_folder / "images" / "3.png")
    (refer_folder / "images" / "2.png").unlink()
    instances["annotations"][1]["segmentation"] = []
    instances["annotations"].append(instances["annotations"][0] | {"id": 4, "image_id": 3})
    sentences = [{"sent_id": 9, "sent": "a star"}, {"sent_id": 10, "sent": "the star"}]
    refs.append(refs[0] | {"ref_id": 4, "ann_id": 4, "image_id": 3, "sentences": sentences})
    write_refer(refer_folder, instances, [*refs, refs[0]])
    return load_refer(str(refer_folder.parent), refer_folder.name, "made", "test")


REASONS = ["duplicate_id"] * 2 + ["empty_mask"] + ["image_missing"] * 2


def left(folder):
    """What a run leaves: its rows, and its failures in any order."""
    return (folder / "expressions.jsonl").read_bytes(), sorted((folder / "failures.jsonl").read_text().splitlines())


def run(dataset, folder, settings=SETTINGS):
    with RunStore(folder, "key") as store:
        return score(dataset, None, settings, store)


def told(scored):
    return scored.task.figures(), scored.task.tally(), sorted(map(str, scored.failures))


def stop_after(lines, dataset, folder):
    """Start a run and stop it before the n-th line of code of its store; False where it ended before."""
    left_over = lines

    def trace(frame, event, argument):
        nonlocal left_over
        if not frame.f_code.co_filename.endswith(("runs/store.py", "evaluation/resume.py")):
            return None
        if event == "line":
            left_over -= 1
            if left_over == 0:
                raise KeyboardInterrupt
        return trace

    store = None
    sys.settrace(trace)
    try:
        store = RunStore(folder, "key")
        score(dataset, None, SETTINGS, store)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
        if store:
            store.close()
    return False


def test_a_stop_at_any_line_of_the_store_loses_no_failure(tmp_path, modelless, spoilt_data):
    whole = told(run(spoilt_data, tmp_path / "whole"))
    assert sorted(json.loads(line)["reason"] for line in left(tmp_path / "whole")[1]) == REASONS
    first = tmp_path / "first"
    with RunStore(first, "key") as store:  # an earlier start that was cut after the last image
        score(spoilt_data, None, SETTINGS, store)
    stops = 0
    for lines in range(30, 3000, 3):
        folder = tmp_path / str(lines)
        shutil.copytree(first, folder)
        if not stop_after(lines, spoilt_data, folder):
            break
        stops += 1
        if stops % 2:
            stop_after(lines // 2, spoilt_data, folder)  # and once more
        assert told(run(spoilt_data, folder)) == whole, lines
        assert left(folder) == left(tmp_path / "whole"), lines
        shutil.rmtree(folder)
    assert stops > 20


def test_what_an_earlier_start_lost_is_made_again(tmp_path, modelless, spoilt_data):
    """Failures that were forgotten, rows that were cut out: the images that they are of are done again."""
    whole = told(run(spoilt_data, tmp_path / "whole"))
    for spoil in ("failures", "rows"):
        folder = tmp_path / spoil
        shutil.copytree(tmp_path / "whole", folder)
        if spoil == "failures":
            (folder / "failures.jsonl").write_text("")
        else:
            lines = (folder / "expressions.jsonl").read_bytes().splitlines(keepends=True)
            (folder / "expressions.jsonl").write_bytes(b"".join(lines[4:]))  # one expression of the first image
        assert told(run(spoilt_data, folder)) == whole
        assert left(folder) == left(tmp_path / "whole")


def test_seconds_add_up_over_the_parts_of_a_run(tmp_path, modelless, spoilt_data, monkeypatch):
    now = iter(range(0, 10_000, 10))
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(now)))
    assert run(spoilt_data, tmp_path / "run").seconds == 40.0  # three images and the end, 10 s each
    assert (tmp_path / "run" / "seconds.txt").read_text() == f"{40:020.3f}\n"
    assert run(spoilt_data, tmp_path / "run").seconds == 40.0 + 20.0  # the last image and the end
    (tmp_path / "run" / "seconds.txt").write_text("nan")
    with pytest.raises(UserError, match=r"seconds\.txt' holds no number; remove that file"):
        run(spoilt_data, tmp_path / "run")


def swap(rows, one, other):
    rows[one], rows[other] = rows[other], rows[one]


def edit_row(number, **change):
    def change_row(rows):
        rows[number] = json.dumps(json.loads(rows[number]) | change, separators=(",", ":")).encode() + b"\n"

    return change_row


# Rows of images 1 (two expressions) and 3 (two), under two variants and two seeds.
@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda rows: rows.__setitem__(5, b"\x00" * 40 + b"\n"), "line 6 is no row"),
        (lambda rows: rows.__setitem__(2, rows[2][:50] + b"\n"), "line 3 is no row"),
        (lambda rows: rows.insert(8, b"\n"), "line 9 is no row"),
        (lambda rows: rows.insert(8, b"[" * 100_000 + b"\n"), "line 9 is no row"),
        (lambda rows: rows.insert(8, rows[8]), "line 10 is no row"),
        (lambda rows: rows.pop(1), "line 2 is no row"),
        (lambda rows: swap(rows, 0, 2), "line 1 is no row"),
        (lambda rows: swap(rows, 3, 4), "line 4 is no row"),
        (edit_row(9, sample_id="7:7"), "line 10 is no row"),
        (edit_row(9, image_id="x"), "line 10 is no row"),
        (edit_row(1, text_processor="theirs"), "line 2 is no row"),
        (edit_row(1, alpha=0.5), "line 2 is no row"),
        (edit_row(1, seed=7), "line 2 is no row"),
        (edit_row(1, union="many"), "line 2 is no row"),
        (edit_row(1, union=[1, 2]), "lines 1 to 8 are not what this run writes"),
    ],
)
def test_rows_that_were_spoilt_are_named_and_nothing_is_mixed(tmp_path, modelless, spoilt_data, spoil, where):
    run(spoilt_data, tmp_path)
    file = tmp_path / "expressions.jsonl"
    rows = file.read_bytes().splitlines(keepends=True)
    assert len(rows) == 16
    spoil(rows)
    file.write_bytes(b"".join(rows))
    with pytest.raises(UserError) as error:
        run(spoilt_data, tmp_path)
    message = str(error.value)
    assert str(file) in message and where in message and "remove the folder" in message and "\n" not in message
    assert file.read_bytes() == b"".join(rows)  # nothing was written beside them


@pytest.mark.parametrize("line", [b"\x00\x00\n", b"{}\n", b'{"sample_id": 7}\n', b"[" * 100_000 + b"\n"])
def test_failures_that_were_spoilt_are_named(tmp_path, modelless, spoilt_data, line):
    run(spoilt_data, tmp_path)
    file = tmp_path / "failures.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], line, *lines[1:]]))
    with pytest.raises(UserError, match=r"failures\.jsonl' line 2 is no failure"):
        run(spoilt_data, tmp_path)


def test_a_failure_whose_id_is_no_unicode_is_written(tmp_path):
    for _ in range(2):
        with RunStore(tmp_path, "key") as store:
            store.keep(0, [Failure("half \ud800 a pair", "reason", "message")])
    assert runs_store.read_failures(tmp_path) == [Failure("half \ud800 a pair", "reason", "message")]


SMALL = ("tracker=none", "gallery=0", "changed=0", "dataset.limit=2", "text_processor=baseline")


def everything(folder):
    return {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_rescoring_replaces_no_other_run(tmp_path):
    kept, other = tmp_path / "kept", tmp_path / "other"
    for folder in (kept, other):
        assert command(*SMALL, "keep_maps=true", f"hydra.run.dir={folder}")[0] == 0
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    before = everything(tmp_path)
    for arguments, out in (((), kept), ((), other), (("threshold=0.5",), other), ((), tmp_path / "sweep")):
        code, _, err = command(str(kept), *arguments, "--out", str(out), module="rescore")
        assert (code, err.count("\n")) == (2, 1)
        assert f"'{out}' holds another run" in err and "give another --out" in err
    assert everything(tmp_path) == before
    again = tmp_path / "again"
    for _ in range(2):  # what the same command made before is made again
        assert command(str(kept), "threshold=0.5", "--out", str(again), module="rescore")[0] == 0
        assert command(str(kept), "threshold=0.5", module="rescore")[0] == 0
    code, _, err = command(str(other), "threshold=0.5", "--out", str(again), module="rescore")
    assert code == 2 and "holds what was rescored from '../kept'" in err


def test_a_rescoring_that_was_stopped_anywhere_goes_on(tmp_path, monkeypatch):
    source, target = tmp_path / "kept", tmp_path / "again"
    assert command(*SMALL, "keep_maps=true", f"hydra.run.dir={source}")[0] == 0
    cfg = rescore.change(config.read_config(source), ["threshold=0.5"])
    moments = [(RunStore, "_claim"), (RunStore, "keep"), (RunStore, "add_rows"), (rescore, "finish")]
    for place, name in moments:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, stop)
            with pytest.raises(KeyboardInterrupt):
                rescore.rescore_rows(source, cfg, target)
    rescore.rescore_rows(source, cfg, target)
    assert (
        len((target / "expressions.jsonl").read_bytes().splitlines()) == 4
    )  # two expressions, each under the baseline and text-blind


def stop(*_):
    raise KeyboardInterrupt
