"""The commands that can be typed. A new one is a line here, a stub beside the package's other stubs, and its module."""

from typing import NamedTuple

SAID = ("--verbose", "--quiet")  # which every command takes
SAID_HELP = "-v, --verbose says more, -q, --quiet errors and the last line alone."
HYDRA = ("--help", "--config-dir", "--cfg", *SAID, "--multirun")


class Command(NamedTuple):
    """`does`: its line in the help; `flags`: what completion offers after "-". `module`: where its `main` is; None for
    those that Hydra starts, which are listed in start.MODULES. `groups`: of a command that Hydra does not start, the
    groups of run that it takes."""

    does: str
    flags: tuple[str, ...] = ("--help", *SAID)
    module: str | None = None
    groups: tuple[str, ...] = ()


COMMANDS = {
    "segment": Command("a picture and an expression: heat maps and a mask", (*HYDRA, "--mask", "--heat", "--rle")),
    "compare": Command("one picture under several edits, side by side", HYDRA),
    "demo": Command("a page to try it: pictures, sliders, edits side by side", HYDRA[:-1]),
    "run": Command("score a model and its edits on a dataset; with -m or sweep= several runs", HYDRA),
    "score": Command("another system's masks or heat maps, scored as our own runs are", HYDRA),
    "parse": Command("how a dataset's expressions are read, without a model", HYDRA),
    "doctor": Command("is everything there for a run?", HYDRA[:-1]),
    "report": Command(
        "a run or a sweep as one HTML page, or a figure of it for a paper",
        ("--help", "--config-dir", "--open", "--figure", "--format", "--width", *SAID),
        "attrbind_exp.commands.report",
    ),
    "merge": Command("one run of its shards", ("--help", "--config-dir", *SAID), "attrbind_exp.commands.merge"),
    "rescore": Command(
        "other layers or thresholds of a finished run, without a model",
        ("--help", "--config-dir", "--out", *SAID),
        "attrbind_exp.commands.rescore",
        ("attention_layers", "threshold"),
    ),
    "results": Command(
        "all tables and figures that sweeps left, as one page",
        ("--help", "--methods", *SAID),
        "attrbind_exp.commands.results",
    ),
    "study": Command("the binding study as a page", ("--help", "--of", *SAID), "attrbind_exp.commands.study"),
    "dashboard": Command(
        "a W&B workspace of sweeps; needs an account",
        ("--help", "--sweep", *SAID),
        "attrbind_exp.commands.dashboard",
    ),
    "pretrain": Command("make the bundled model again", HYDRA[:-1]),
}
