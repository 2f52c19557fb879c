"""The code of the documentation's pages runs: blocks of one page, one after the other, in one folder.

A block with a title is a file. Python without a title is a script, and every line of a bash block is a command. Commands
on the bundled benchmark get a small part of it. A command that says `# needs ..` behind itself wants data, weights or
machines that are not here: of ours the settings are composed, so that every option and key in it is known; others stay.
docs/extend.md has a test of its own, which looks at what its commands leave.
"""

import multiprocessing
import os
import re
import runpy
import shlex
import sys
import textwrap
import traceback

import pytest

from attrbind_exp.config import CONF

DOCS = CONF.parent / "docs"
PAGES = [
    "checkpoints",
    "cluster",
    "config-keys",
    "edits",
    "faq",
    "first-steps",
    "latent-steps",
    "method",
    "other-systems",
    "own-pictures",
    "python-reference",
    "reading-results",
    "readings",
    "refcoco-and-coco",
    "refinement",
    "run-folder",
    "sweeps-gpus-slurm",
    "taking-away",
    "tune",
]
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="docs/ is not in an installed package")
# A list's blocks are indented; what they hold is not.
BLOCK = re.compile(r'^(?P<in> *)```(\w+)(?: title="([^"]+)")?\n(.*?)^(?P=in)```', re.MULTILINE | re.DOTALL)
NEEDS = re.compile(r"\s+# needs .*$")
COMPOSED = ("run", "segment", "score", "parse", "doctor")
SMALL = {
    "run": ("dataset.limit=2", "tracker=none", "gallery=0", "changed=0"),
    "parse": ("dataset.limit=2",),
    "score": ("dataset.limit=2", "gallery=0"),
}
PRELOADED = [
    "attrbind_exp.api.load",
    "attrbind_exp.commands.run",
    "attrbind_exp.commands.segment",
    "attrbind_exp.commands.build",
    "attrbind_exp.commands.finish",
    "attrbind_exp.commands.merge",
    "attrbind_exp.commands.rescore",
    "attrbind_exp.backbones.stable_diffusion",
    "attrbind_exp.evaluation.loop",
    "attrbind_exp.reporting.write",
    "attrbind_exp.reporting.figures",
    "spacy",
    "pandas",
    "matplotlib.pyplot",
    "pytest",
]


def blocks(page):
    """(language, title or "", text) of each block of code."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return [(kind, title, textwrap.dedent(code)) for _, kind, title, code in BLOCK.findall(text)]


def command(line, composed=False):
    """What a bash line does here: a module's name and its arguments, or None for what only works elsewhere. `composed`:
    a run's settings are put together and printed, and that is all, as with everything that needs something."""
    needs = NEEDS.search(line)
    words = shlex.split(line, comments=True)
    if words[:2] != ["python", "-m"] or not words[2].startswith("attrbind_exp."):
        assert needs, f"say what it needs, by '# needs ..': {line}"
        return None
    module, arguments = words[2], words[3:]
    name = module.removeprefix("attrbind_exp.")
    if not (needs or composed):
        given = {word.partition("=")[0] for word in arguments}
        return module, [*arguments, *(word for word in SMALL.get(name, ()) if word.partition("=")[0] not in given)]
    if name not in COMPOSED:
        return None if needs else (module, arguments)
    if "-m" in arguments or any(word.startswith("sweep=") for word in arguments):  # the first of its runs
        arguments = [re.sub(r"^([\w.]+=[^\[{,]+),.*", r"\1", word) for word in arguments]
    if "-m" in arguments:  # which no launcher starts
        arguments = [word for word in arguments if word != "-m" and not word.startswith("launcher")]
    return module, [*arguments, "--cfg", "job"]


def goes_on_with(line, text):
    """Whether a page names the folder of a command, or the one above it, elsewhere too."""
    folder = re.search(r"hydra\.run\.dir=(\S+)", line)
    if folder is None:
        return False
    parent = folder[1].rpartition("/")[0]
    return text.count(folder[1]) > 1 or ("/" in parent and text.count(parent) > 1)


def execute(kind, code, arguments, folder, printed):
    """In a process of its own: run a script's text or a module, what is printed goes to the file `printed`."""
    stream = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.chdir(folder)
    sys.argv = [code if kind == "module" else "script.py", *arguments]
    try:
        if kind == "module":
            runpy.run_module(code, run_name="__main__", alter_sys=True)
        else:
            exec(compile(code, "script.py", "exec"), {"__name__": "__main__"})
    except BaseException as error:
        if not isinstance(error, SystemExit) or error.code:
            traceback.print_exc()
            raise SystemExit(1) from None


@pytest.fixture(scope="module")
def start():
    """Runs a block in a copy of one process that has loaded the libraries: their loading costs more than a block does."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)

    def run(*arguments):
        process = context.Process(target=execute, args=arguments)
        process.start()
        process.join(120)
        assert not process.is_alive()
        return process.exitcode

    return run


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, tmp_path, start):
    """Of several runs of a page, the first is run and those with whose results it goes on; others are composed."""
    run_page(page, tmp_path, start, everything=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_all_code_of_a_page_runs(page, tmp_path, start):
    run_page(page, tmp_path, start, everything=True)


def run_page(page, tmp_path, start, everything):
    printed, text, ran = tmp_path / "printed.txt", (DOCS / f"{page}.md").read_text(encoding="utf-8"), False
    for kind, title, code in blocks(page):
        if title:
            file = tmp_path / title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(code, encoding="utf-8")
        elif kind == "python":
            assert start("script", code, [], tmp_path, printed) == 0, printed.read_text() + code
        elif kind == "bash":
            for line in filter(None, code.splitlines()):
                is_run = "attrbind_exp.run" in line and not NEEDS.search(line)
                found = command(line, composed=is_run and ran and not everything and not goes_on_with(line, text))
                ran = ran or is_run
                assert not found or start("module", *found, tmp_path, printed) == 0, printed.read_text() + line


def test_every_page_with_code_is_run():
    with_code = {file.stem for file in DOCS.glob("*.md") if re.search(r"^ *```(python|bash)", file.read_text(), re.M)}
    elsewhere = {"extend", "examples", "commands"}  # test_extend.py, test_examples.py, test_attrbind.py
    assert with_code - elsewhere == set(PAGES)


def test_what_a_line_needs_decides_what_is_run():
    run, merge = "attrbind_exp.run", "attrbind_exp.merge"
    assert command(f"python -m {run} gallery=3") == (run, ["gallery=3", "dataset.limit=2", "tracker=none", "changed=0"])
    assert command(f"python -m {run} gallery=3", composed=True) == (run, ["gallery=3", "--cfg", "job"])
    assert command(f"python -m {run} model=sd15  # needs weights") == (run, ["model=sd15", "--cfg", "job"])
    assert command(f"python -m {run} -m alpha=1,2 launcher=gpus  # needs GPUs") == (run, ["alpha=1", "--cfg", "job"])
    assert command(f"python -m {run} sweep=t shard=0/2,1/2  # needs GPUs")[1] == [
        "sweep=t",
        "shard=0/2",
        "--cfg",
        "job",
    ]
    assert command(f"python -m {merge} out") == command(f"python -m {merge} out", composed=True) == (merge, ["out"])
    assert command(f"python -m {merge} DIR  # needs shards") is None
    assert command("wandb sync DIR  # needs an account") is None
    with pytest.raises(AssertionError, match="needs"):
        command("rm -r outputs")


def test_a_run_that_a_page_goes_on_with_is_known():
    text = "run hydra.run.dir=outputs/a\nrun hydra.run.dir=outputs/b\nmerge outputs/b\nrun hydra.run.dir=outputs/c/d\nmerge outputs/c"
    lines = text.splitlines()
    assert [bool(goes_on_with(line, text)) for line in lines] == [False, True, False, True, False]
