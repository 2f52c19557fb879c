"""docs/cluster.md, command by command: made data in RefCOCO's layout, the bundled model, a Slurm of scripts, Ray on CPUs.

Its options and keys are composed by test_pages.py as well; here the commands are run.
"""

import json
import shlex

import pytest

from attrbind_exp.config import CONF
from attrbind_exp.runs.index import read_launched
from tests import fake_slurm
from tests.conftest import picture
from tests.test_command import command, process
from tests.test_pages import blocks

SMALLER = {  # a tenth of the runs, and a model that is here
    "dataset.split=val,testA,testB,train": "dataset.split=val",
    "shard=0/7,1/7,2/7,3/7,4/7,5/7,6/7": "shard=0/2,1/2",
    "launcher.gpus=7": "launcher.gpus=2",
}
SPLITS = ("val", "testA", "testB", "train")


def lines(word):
    """The commands of the page that hold a word, as arguments behind `python -m attrbind_exp.`."""
    code = "\n".join(text for kind, _, text in blocks("cluster") if kind == "bash")
    typed = [
        shlex.split(line, comments=True) for line in code.splitlines() if line.startswith("python -m attrbind_exp")
    ]
    return [(words[2].removeprefix("attrbind_exp."), words[3:]) for words in typed if word in " ".join(words)]


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """A command of the page with the places of this test in the place of /data."""
    monkeypatch.setenv("PYTHONPATH", str(CONF.parent))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    make_refcoco(tmp_path / "refer" / "refcoco")

    def made(arguments, *more):
        placed = [
            a.replace("/data/refer", f"{tmp_path}/refer").replace("/data/out", f"{tmp_path}/out") for a in arguments
        ]
        return [*(SMALLER.get(a, a) for a in placed), *more]

    return made


def make_refcoco(folder):
    """RefCOCO with two pictures a split, each with one square and two expressions."""
    images, annotations, refs = [], [], []
    (folder / "images").mkdir(parents=True)
    for number in range(8):
        name = f"COCO_train2014_{number:012}.jpg"
        picture(40, 60, number).save(folder / "images" / name)
        images.append({"id": number, "file_name": name, "height": 40, "width": 60})
        box = [[10, 10, 30, 10, 30, 30, 10, 30]]
        annotations.append({"id": number, "image_id": number, "category_id": 1, "segmentation": box, "iscrowd": 0})
        said = [{"sent_id": 2 * number + k, "sent": text} for k, text in enumerate(("the white star", "star"))]
        ids = {"ref_id": number, "ann_id": number, "image_id": number, "category_id": 1, "file_name": name}
        refs.append({**ids, "split": SPLITS[number // 2], "sentences": said})
    known = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "star"}]}
    (folder / "instances.json").write_text(json.dumps(known))
    (folder / "refs(unc).json").write_text(json.dumps(refs))


HERE = ("model=bundled", "model.dtype=auto")
QUIET = (*HERE, "gallery=0", "changed=0")


def test_the_doctor_plans_what_the_page_says(typed):
    (of_sweep, measured) = lines("doctor")
    code, out, err = command(*typed(of_sweep[1], *HERE), module="doctor")
    assert code == 0, out + err
    assert "up to 11 an expression" in out and "val + testA + testB + train (16 expressions) 176" in out
    assert "at 100.0 passes a second (as given) on each of 2" in out
    code, out, err = command(*typed(measured[1], *QUIET), module="doctor")
    assert code == 0 and "the model alone) on each of 1" in out, out + err


def test_the_first_expressions_on_one_gpu(typed, tmp_path):
    ((module, arguments),) = lines("hydra.run.dir=")
    code, _, err = command(*typed(arguments, *QUIET), module=module)
    assert code == 0 and (tmp_path / "out" / "first" / "report.html").is_file(), err


@pytest.mark.slow
def test_the_sweep_on_slurm(typed, tmp_path, monkeypatch):
    for name, value in fake_slurm.install(tmp_path / "slurm").items():
        monkeypatch.setenv(name, value)
    check_sweep(typed(lines("launcher=slurm")[0][1], *QUIET), tmp_path / "out" / "slurm")
    text = (tmp_path / "slurm" / "jobs" / "100.sh").read_text()
    assert "--partition=gpu" in text and "--account=ours" in text and "--time=240" in text and "--array=0-1%2" in text


@pytest.mark.slow
def test_the_sweep_on_gpus_of_one_machine_and_its_results(typed, tmp_path):
    pytest.importorskip("ray")
    check_sweep(typed(lines("launcher=gpus")[0][1], *QUIET), tmp_path / "out" / "gpus")
    for module, arguments in lines("attrbind_exp.report"):
        code, out, err = command(*typed(arguments), module=module)
        assert code == 0 and out, err


@pytest.mark.slow
def test_the_sweep_on_a_ray_cluster(typed, tmp_path):
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    node = {"num_cpus": 1, "object_store_memory": 78643200}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        cluster.add_node(**node)
        at = f"launcher.ray.init.address={cluster.address}"
        check_sweep(typed(lines("launcher=ray_cluster")[0][1], *QUIET, at), tmp_path / "out" / "ray")
    finally:
        cluster.shutdown()


def check_sweep(arguments, folder):
    """Two runs, the shards of a split, merged, and a table."""
    code, out, err = process(*arguments)
    assert code == 0, out[-2000:] + err[-2000:]
    assert [run.state for run in read_launched(folder)] == ["done"] * 2
    assert len(list(folder.glob("merged*/summary.json"))) == 1
    table = (folder / "results.csv").read_text()
    assert all(label in table for label in ("baseline", "attribute_binding alpha=0.9", "text_blind"))
