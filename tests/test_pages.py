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
PAGES = (
    "config-keys", "faq", "first-steps", "index", "method", "own-pictures", "python-reference", "reading-results",
    "refcoco-and-coco", "sweeps-gpus-slurm",
)  # fmt: skip
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="docs/ is not in an installed package")
# A list's blocks are indented; what they hold is not.
BLOCK = re.compile(r'^(?P<in> *)```(\w+)(?: title="([^"]+)")?\n(.*?)^(?P=in)```', re.MULTILINE | re.DOTALL)
NEEDS = re.compile(r"\s+# needs .*$")
COMPOSED = ("run", "segment", "parse", "doctor")
SMALL = {"run": ("dataset.limit=2", "tracker=none", "gallery=0", "changed=0"), "parse": ("dataset.limit=2",)}
PRELOADED = [
    "attrbind_exp.commands.run", "attrbind_exp.commands.segment", "attrbind_exp.commands.build",
    "attrbind_exp.commands.finish", "attrbind_exp.commands.merge", "attrbind_exp.commands.rescore",
    "attrbind_exp.backbones.stable_diffusion", "attrbind_exp.evaluation.loop", "attrbind_exp.reporting.write",
    "attrbind_exp.reporting.figures", "spacy", "pandas", "matplotlib.pyplot", "pytest",
]  # fmt: skip


def blocks(page):
    """(language, title or "", text) of each block of code."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return [(kind, title, textwrap.dedent(code)) for _, kind, title, code in BLOCK.findall(text)]


def command(line):
    """What a bash line runs here: the module's name and its arguments. (None, []) for what only runs elsewhere."""
    needs = NEEDS.search(line)
    words = shlex.split(line, comments=True)
    ours = words[:2] == ["python", "-m"] and words[2].startswith("attrbind_exp.")
    if not ours:
        assert needs, f"say what it needs, by '# needs ..': {line}"
        return None, []
    name, arguments = words[2].removeprefix("attrbind_exp."), words[3:]
    if needs:
        return (words[2], [*arguments, "--cfg", "job"]) if name in COMPOSED else (None, [])
    given = {word.partition("=")[0] for word in arguments}
    return words[2], [*arguments, *(word for word in SMALL.get(name, ()) if word.partition("=")[0] not in given)]


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
    printed = tmp_path / "printed.txt"
    for kind, title, code in blocks(page):
        if title:
            file = tmp_path / title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(code, encoding="utf-8")
        elif kind == "python":
            assert start("script", code, [], tmp_path, printed) == 0, printed.read_text() + code
        elif kind == "bash":
            for line in filter(None, code.splitlines()):
                module, arguments = command(line)
                if module:
                    assert start("module", module, arguments, tmp_path, printed) == 0, printed.read_text() + line


def test_every_page_with_code_is_run():
    with_code = {file.stem for file in DOCS.glob("*.md") if re.search(r"^ *```(python|bash)", file.read_text(), re.M)}
    elsewhere = {"extend", "examples"}  # test_extend.py, test_examples.py
    assert with_code - elsewhere == set(PAGES)


def test_what_a_line_needs_decides_what_is_run():
    run = "attrbind_exp.run"
    assert command(f"python -m {run} gallery=3") == (run, ["gallery=3", "dataset.limit=2", "tracker=none", "changed=0"])
    assert command("python -m attrbind_exp.merge out") == ("attrbind_exp.merge", ["out"])
    assert command(f"python -m {run} model=sd15  # needs weights") == (run, ["model=sd15", "--cfg", "job"])
    assert command("python -m attrbind_exp.merge DIR  # needs shards") == (None, [])
    assert command("wandb sync DIR  # needs an account") == (None, [])
    with pytest.raises(AssertionError, match="needs"):
        command("rm -r outputs")
