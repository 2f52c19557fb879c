"""attrbind, the one word on the command line: as it is installed, as it is typed, and as two shells complete it."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from attrbind_exp import __version__
from attrbind_exp.commands import segment_arguments
from attrbind_exp.commands.attrbind import HELP
from attrbind_exp.commands.completion import SCRIPTS, complete, listed
from attrbind_exp.commands.segment_files import coco_result, wanted_files
from attrbind_exp.commands.table import COMMANDS
from attrbind_exp.config import CONF, PACKAGE
from attrbind_exp.tracking.wandb_tracker import WandbTracker
from attrbind_exp.types import CHOICES, HeatMap, UserError
from tests.conftest import picture
from tests.test_command import command

ROOT = CONF.parent


def attrbind(*arguments, cwd=None):
    """`python -m attrbind_exp ...` in this process: (exit code, stdout, stderr)."""
    return command(*arguments, module="__main__", cwd=cwd)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with what pip makes of the wheel that is built from the sdist, and the environment to use it in."""
    folder = tmp_path_factory.mktemp("installed")

    def call(*arguments, cwd):
        done = subprocess.run([sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    call("hatchling", "build", "-t", "sdist", "-d", str(folder), cwd=CONF.parent)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as file:
        file.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    for name in (
        "tests/test_attrbind.py",
        "requirements.lock",
        "README.md",
        "LICENSE",
        "docs/commands.md",
        "mkdocs.yml",
        "examples/one_picture.py",
        "CHANGELOG.md",
    ):
        assert (source / name).is_file()
    call("hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=source)
    wheel = str(next(folder.glob("*.whl")))
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--no-compile", "--target", str(folder / "site"))
    call("pip", "install", "--quiet", *offline, wheel, cwd=folder)
    shutil.rmtree(folder / "source")
    path = f"{folder / 'site' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return folder / "site", os.environ | {"PYTHONPATH": str(folder / "site"), "PATH": path}


def test_what_is_installed_works_from_an_empty_folder(installed, tmp_path):
    site, environment = installed
    picture(48, 64).save(tmp_path / "photo.png")
    look = "import attrbind_exp, hydra_plugins.attrbind_exp_launchers as h; print(attrbind_exp.__file__, h.__file__)"
    places = subprocess.run([sys.executable, "-c", look], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert all(Path(place).is_relative_to(site) for place in places.stdout.split()) and len(places.stdout.split()) == 2
    typed = ["attrbind", "segment", "photo.png", "the white star", "--mask", "m.png"]
    done = subprocess.run(typed, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / done.stdout.splitlines()[-1]
    assert (tmp_path / "m.png").read_bytes() == (folder / "mask.png").read_bytes()
    said = subprocess.run(["attrbind", "merge", "--help"], env=environment, capture_output=True, text=True).stdout
    assert said.startswith("usage: attrbind merge ") and "python -m" not in said


def test_every_command_is_there_and_no_other():
    stubs = {f.stem for f in PACKAGE.glob("*.py") if '__name__ == "__main__"' in f.read_text()} - {"__main__"}
    assert set(COMMANDS) == stubs | {"pretrain", "demo"}
    assert all(f"  {name:<10}" in HELP for name in COMMANDS)


def test_the_page_of_commands_and_the_files_beside_the_code_say_what_is_so():
    page = (ROOT / "docs" / "commands.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|.*`attrbind (\w+)[ `]", page, re.MULTILINE) == [(n, n) for n in COMMANDS]
    assert re.findall(r"^\| `(--\w+) ", page, re.MULTILINE) == list(segment_arguments.FLAGS)
    (lint,) = re.findall(r"^lint:.*\n\t(.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = [re.match(r"\.venv/bin/(\S+(?: check| format)?)", hook["entry"])[1] for hook in repository["hooks"]]
    assert hooks == re.findall(r"\$\(BIN\)/(\S+(?: check| format)?)", lint)
    # The Dockerfile takes torch's line out of the lock, and builds with what the lock has.
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    assert [sum(line.startswith(f"{name}==") for line in lock) for name in ("torch", "hatchling")] == [1, 1]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_the_same_under_both_names(name):
    module = "pretrain.__main__" if name == "pretrain" else name
    wrong = ["/nowhere", "--hlep"] if COMMANDS[name].module else ["no_such_key=1"]
    assert attrbind(name, *wrong) == command(*wrong, module=module)
    assert attrbind(name, *wrong)[0] == 2
    code, said, _ = attrbind(name, "--help")
    assert code == 0
    if COMMANDS[name].module:  # completion offers the flags that the command has
        assert set(re.findall(r"--[a-z-]+", said)) == set(COMMANDS[name].flags)


def test_help_and_version_and_wrong_words():
    assert attrbind() == attrbind("--help") == attrbind("-h") == attrbind("help") == (0, HELP, "")
    assert attrbind("--version") == (0, f"attrbind {__version__}\n", "")
    for word, said in [("rnu", "did you mean run?"), ("Segment", "did you mean segment?"), ("alpha=0.9", "attrbind run alpha=0.9"),
                       ("--verison", "choose from segment, compare, demo, run"), ("a\x1b[2Jb\n", "'ab ';")]:  # fmt: skip
        code, out, err = attrbind(word)
        assert (code, out) == (2, "") and said in err and len(err.splitlines()) == 1 and err.startswith("error: ")
    assert attrbind("--completion", "fish")[0] == attrbind("--complete")[0] == 2


@pytest.mark.parametrize(
    "typed", [["--help"], ["--version"], ["rnu"], ["--complete", "bash", "attrbind run dataset=re", "="]]
)
def test_what_is_answered_before_libraries_load(typed):
    look = "import atexit, runpy, sys; atexit.register(lambda: print('loaded', *sys.modules)); "
    go = f"sys.argv[1:] = {typed!r}; runpy.run_module('attrbind_exp', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", look + go], capture_output=True, text=True)
    loaded = set(done.stdout.rpartition("loaded ")[2].split())
    assert "attrbind_exp.commands.attrbind" in loaded and not {"hydra", "omegaconf", "torch", "pandas"} & loaded
    if typed[0] != "--complete":
        assert "numpy" not in loaded


def test_ctrl_c_ends_every_command_alike(monkeypatch):
    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr("attrbind_exp.commands.merge.main", stop)
    assert attrbind("merge", "x") == (130, "", "stopped\n")


def test_a_sweep_runs_when_it_is_begun_by_the_one_word(tmp_path):
    given = ["tracker=none", "gallery=0", "changed=0", "dataset.limit=1", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    code, _, err = attrbind("run", "text_processor=baseline,noun_chunk", *given, "-m")
    assert code == 0, err
    found = [json.loads(f.read_text()) for f in (tmp_path / "sweep").rglob("summary.json")]
    assert sorted(v["text_processor"] for s in found for v in s["variants"]) == ["baseline", "noun_chunk", "text_blind"]
    runs = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert "python -m attrbind_exp.run " in json.dumps(runs)


# segment: words, flags, files


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        (["a.jpg", "white dog"], ["image=a.jpg", "expression=white dog"]),
        (["a.jpg", "seed=1", "white dog", "model=sd15"], ["seed=1", "model=sd15", "image=a.jpg", "expression=white dog"]),
        (["image=a.jpg", "white dog"], ["image=a.jpg", "expression=white dog"]),
        (["expression=dog", "a.jpg"], ["expression=dog", "image=a.jpg"]),
        (["a.jpg", "a dog, size = big"], ["image=a.jpg", "expression=a dog, size = big"]),
        (["./a=b.jpg", "dog"], ["image=./a=b.jpg", "expression=dog"]),
        (["a.jpg", "--mask", "m.png", "dog", "--rle=r.json"], ["mask=m.png", "rle=r.json", "image=a.jpg", "expression=dog"]),
        (["--heat", "-odd.npz", "a.jpg", "dog"], ["heat=-odd.npz", "image=a.jpg", "expression=dog"]),
        (["a.jpg", "dog", "--cfg", "job"], ["--cfg", "job", "image=a.jpg", "expression=dog"]),
        (["a.jpg", "dog", "seed=1", "--cfg", "job"], ["--cfg", "job", "seed=1", "image=a.jpg", "expression=dog"]),
        (["seed=1", "--", "-a.jpg", "x=1"], ["seed=1", "image=-a.jpg", "expression=x=1"]),
        (["+a.b=1", "~seed", "-m"], ["-m", "+a.b=1", "~seed"]),
    ],
    ids=" ".join,
)  # fmt: skip
def test_words_and_flags_of_segment_become_keys(typed, given):
    assert segment_arguments.rewrite(typed) == given


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["a.jpg", "white", "dog"], "attrbind segment a.jpg 'white dog'"), (["--mask"], "--mask names no file"),
        (["a.jpg", "dog", "--maks", "m.png"], "did you mean --mask?"), (["image=a.jpg", "expression=x", "dog"], "no word beside keys"),
    ],
    ids=str,
)  # fmt: skip
def test_words_and_flags_of_segment_that_cannot_be_meant(tmp_path, typed, words):
    code, out, err = attrbind("segment", *typed, cwd=tmp_path)
    assert (code, out) == (2, "") and words in err and len(err.splitlines()) == 1


def test_mask_heat_and_run_lengths_are_written_where_told(tmp_path, monkeypatch, capsys):
    image = tmp_path / "COCO_val2014_000000000139.png"
    picture(30, 50).save(image)
    typed = [str(image), "the white star", f"hydra.run.dir={tmp_path / 'out'}"]
    files = ["--mask", "new/m, 1.png", "--heat", "heat.npz", "--rle", "r.json"]
    code, out, err = attrbind("segment", *typed, *files, cwd=tmp_path)
    assert code == 0, err
    *shown, first, second, third, folder = out.splitlines()
    assert [first, second, third] == [f"written     {name}" for name in ("new/m, 1.png", "heat.npz", "r.json")]
    assert folder == str(tmp_path / "out")
    before = {f.name: f.read_bytes() for f in (tmp_path / "out").iterdir()}
    assert attrbind("segment", *typed, cwd=tmp_path)[1].splitlines() == [*shown, folder]  # as it is without the flags
    assert {f.name: f.read_bytes() for f in (tmp_path / "out").iterdir()} == before
    assert set(before) == {"heat_maps.png", "mask.png"}

    mask = np.asarray(Image.open(tmp_path / "new" / "m, 1.png"))
    assert mask.shape == (30, 50) and set(np.unique(mask)) == {0, 255}
    heat = np.load(tmp_path / "heat.npz", allow_pickle=False)
    assert set(heat) == {"heat", "threshold", "expression", "target", "chunk", "method", "model"}
    assert heat["heat"].dtype == np.float32 and heat["threshold"] == 0.5
    assert ((heat["heat"] >= np.float32(0.5)) == (mask > 0)).all()
    said = {name: heat[name].item() for name in ("expression", "target", "chunk", "method", "model")}
    assert said == {"expression": "the white star", "target": "star", "chunk": "the white star",
                    "method": "attribute_binding alpha=0.9", "model": "bundled"}  # fmt: skip

    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "commands.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, names := {})
    assert (names["mask"] == (mask > 0)).all() and capsys.readouterr().out == "star\n"

    (result,) = json.loads((tmp_path / "r.json").read_text())
    assert {k: result[k] for k in said} == said and result["file_name"] == image.name
    assert result["score"] == pytest.approx(heat["heat"][mask > 0].mean(), abs=1e-6)
    truth = COCO()
    truth.dataset = {"images": [{"id": 139, "height": 30, "width": 50}], "categories": [{"id": 1}], "annotations": []}
    truth.createIndex()
    loaded = truth.loadRes(str(tmp_path / "r.json"))
    assert (loaded.annToMask(loaded.loadAnns(loaded.getAnnIds(139))[0]) == (mask > 0)).all()


def test_run_lengths_of_no_pixel_and_of_any_picture():
    heat = HeatMap(np.array([[0, 0.2, 0.8], [0, 0.6, 1]], np.float32))
    empty = coco_result(HeatMap(np.zeros((2, 3), np.float32)), 0.5, "dir/photo.jpg", {})
    assert empty["score"] == 0 and empty["image_id"] == 1 and coco_mask.area(empty["segmentation"]) == 0
    found = coco_result(heat, 0.5, "dir/photo.jpg", {"target": "dog"})
    assert found["score"] == 0.8 and found["target"] == "dog" and found["file_name"] == "photo.jpg"
    assert coco_mask.decode(found["segmentation"]).tolist() == [[0, 0, 1], [0, 1, 1]]


@pytest.mark.parametrize(
    ("given", "words"),
    [({"mask": "m.jpg"}, "ends in .png"), ({"heat": "m.npy"}, "ends in .npz"), ({"rle": "m"}, "ends in .json"),
     ({"mask": "a.png"}, "the picture itself")],
)  # fmt: skip
def test_files_that_are_not_written(tmp_path, monkeypatch, given, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        wanted_files(given, str(tmp_path / "a.png"))
    (tmp_path / "d.png").mkdir()
    with pytest.raises(UserError, match="name a file that ends"):
        wanted_files({"mask": "d.png"}, "a.png")
    assert wanted_files({"mask": "~nobody-here.png"}, "a.png") == {"mask": Path("~nobody-here.png")}
    assert wanted_files({"mask": None, "heat": "h.NPZ", "rle": None}, "a.png") == {"heat": Path("h.NPZ")}


def test_several_runs_do_not_write_one_file(tmp_path):
    picture(20, 20).save(tmp_path / "a.png")
    code, _, err = attrbind("segment", "a.png", "dog", "-m", "alpha=0.9", "--mask", "m.png", cwd=tmp_path)
    assert code == 2 and "several runs cannot write one mask" in err and not (tmp_path / "m.png").exists()


# Completion


def completed(line):
    return complete([*line.split(" ")])


def test_completion_knows_what_can_come_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "modern.jpg").write_bytes(b"")
    (tmp_path / "own" / "dataset").mkdir(parents=True)
    (tmp_path / "own" / "dataset" / "reference.yaml").write_text("name: mine\n")
    assert completed("attrbind re") == ["report", "rescore", "results"]
    assert completed("attrbind run dataset=re") == [f"dataset={n}" for n in ("refcoco", "refcoco_plus", "refcocog")]
    own = completed("attrbind run --config-dir own dataset=re")
    assert own == sorted([*completed("attrbind run dataset=re"), "dataset=reference"])
    assert (
        own == completed("attrbind run --config-dir=own dataset=re")
        and completed("attrbind run --config-dir=no d") == []
    )
    assert completed("attrbind run -m alpha=paper,gr") == ["alpha=paper,grid"]
    assert completed("attrbind run sweep=table1") == ["sweep=table1_coco"]
    assert completed("attrbind run launcher=g") == ["launcher=gpus"]
    assert completed("attrbind run dataset.spl") == ["dataset.split=", "dataset.split_by=", "dataset.splits="]
    assert completed("attrbind run cach") == ["cache."] and completed("attrbind run threshold.") == ["threshold.value="]
    assert {"dataset=", "seed=", "sweep="} < set(completed("attrbind run "))
    assert "sweep=" not in completed("attrbind parse ") and completed("attrbind run seed=") == []
    assert (
        completed("attrbind segment --ma") == ["--mask"]
        and completed("attrbind rescore DIR thr") == ["threshold=", "threshold."][::-1]
    )
    files = ["run model.path=", "segment ", "segment mod", "segment image=", "segment x --mask ", "segment x --mask=m", "report ", "merge x", "rescore ", "run --config-dir "]  # fmt: skip
    assert [completed(f"attrbind {line}") for line in files] == [None] * len(files)
    assert (
        completed("attrbind segment modern.jpg mod")
        == ["model.", "model="]
        == completed("attrbind segment image=x mod")
    )
    assert completed("attrbind segment --what x mod") == completed("attrbind nothing ") == []


def test_completion_offers_the_values_of_keys_that_take_few(tmp_path):
    def values(line):
        return [word.partition("=")[2] for word in completed(f"attrbind {line}")]

    assert values("run save_masks=") == ["none", "npz", "png", "rle"] and values("run figure.width=si") == ["single"]
    assert values("run text_blind=") == ["false", "true"] and values("run text_processor.ing_offsets=") == ["1", "2"]
    assert values("run -m model.dtype=fp32,bf") == ["fp32,bf16"] == values("segment -m model.dtype=fp32,bf")
    assert values("run tracker.mode=") == ["auto", "offline", "online"] and values("run model.device=c") == [
        "cpu",
        "cuda",
    ]
    assert values("run dataset=coco dataset.split=") == ["train2014", "train2017", "val2014", "val2017"]
    assert values("run dataset=refcoco dataset.split=te") == ["testA", "testB"]
    assert {"test", "testA", "val2014"} < set(values("run dataset.split="))
    assert values("run dataset=nothing dataset.split_by=g") == ["google"]
    assert (
        values("run model.timesteps=")
        == values("run nothing.at.all=")
        == values("run dataset=folder dataset.split=")
        == []
    )
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("name: mine\nhead: left   # left (as ours: old) | right\n")
    assert values(f"run --config-dir {tmp_path} model=mine model.head=") == ["left", "right"]


def test_what_a_comment_lists_is_what_is_checked():
    for group in {key.partition(".")[0] for key in CHOICES}:
        for file in (CONF / group).glob("*.yaml"):
            found = {key: set(listed(file, key)) for key in re.findall(r"^(\w+):", file.read_text(), re.MULTILINE)}
            checked = {key: {str(v).lower() for v in CHOICES.get(f"{group}.{key}", ())} for key in found}
            assert not {key: found[key] for key in found if found[key] and checked[key] and found[key] != checked[key]}
    assert listed(CONF / "tracker" / "wandb.yaml", "mode") == list(WandbTracker.MODES)


# What is typed, with a TAB where the shell is to complete -> the line that stands there then.
TYPED = {
    "attrbind seg\t": "attrbind segment ",
    "attrbind run datas\t": "attrbind run dataset",  # = or .
    "attrbind run dataset=shapes_\t": "attrbind run dataset=shapes_classes ",
    "attrbind run -m dataset=shapes,folde\t": "attrbind run -m dataset=shapes,folder ",
    "attrbind run dataset.fr\t": "attrbind run dataset.fraction=",
    "attrbind run --config-dir own dataset=refe\t": "attrbind run --config-dir own dataset=reference ",
    "attrbind segment ph\t": "attrbind segment photo.jpg ",
    "attrbind segment image=ph\t": "attrbind segment image=photo.jpg ",
    "attrbind segment photo.jpg 'white dog' --mask ou\t": "attrbind segment photo.jpg 'white dog' --mask out.png ",
    "attrbind run tracker.mode=of\t": "attrbind run tracker.mode=offline ",
    "attrbind run -m save_masks=rle,p\t": "attrbind run -m save_masks=rle,png ",
    "attrbind run seed=\t": "attrbind run seed=",  # no file names where none belong
}
# What each shell reads when it starts. Control-X Control-N notes the line that stands there.
RC = {
    "bash": """PS1='ready> '; eval "$(attrbind --completion bash)"
note() { printf '%s\\n' "$READLINE_LINE" >> noted; }; bind -x '"\\C-x\\C-n": note'
""",
    "zsh": """PS1='ready> '; eval "$(attrbind --completion zsh)"
note() { print -r -- "$BUFFER" >> noted }; zle -N note; bindkey -e; bindkey '^X^N' note
""",
}
SHELLS = {"bash": ["bash", "--noprofile", "--rcfile", ".zshrc", "-i"], "zsh": ["zsh", "-d", "-i"]}


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_shell_completes_what_is_typed(installed, tmp_path, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not on this machine")
    (tmp_path / "own" / "dataset").mkdir(parents=True)
    (tmp_path / "own" / "dataset" / "reference.yaml").write_text("name: mine\n")
    for name in ("photo.jpg", "out.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".zshrc").write_text(RC[shell])
    environment = installed[1] | {"TERM": "dumb", "INPUTRC": "/dev/null", "ZDOTDIR": str(tmp_path)}
    keys = "".join(f"{line}\x18\x0e\x15" for line in TYPED)
    shown = type_into(SHELLS[shell], f"{keys}exit\r", tmp_path, environment)
    assert (tmp_path / "noted").is_file(), shown
    assert (tmp_path / "noted").read_text().splitlines() == list(TYPED.values()), shown


def type_into(program, keys, cwd, environment):
    """Start a shell in a terminal of its own, type the keys at its first prompt, and return what it has shown."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(cwd)
        os.execvpe(program[0], program, environment)
    shown, waiting = b"", keys.encode()
    try:
        while said := os.read(terminal, 1024):
            shown += said
            if waiting and b"ready> " in shown:
                os.write(terminal, waiting)
                waiting = b""
    except OSError:  # how Linux says that the other end is closed
        pass
    os.waitpid(process, 0)
    return shown.decode(errors="replace")
