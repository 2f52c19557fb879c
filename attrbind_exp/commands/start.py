"""How the commands that Hydra starts begin: their help is printed before Hydra and the libraries of a run load."""

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from attrbind_exp.commands.table import SAID_HELP
from attrbind_exp.paths import CONF

MODULES = {
    "run": "attrbind_exp.commands.run",
    "segment": "attrbind_exp.commands.segment",
    "compare": "attrbind_exp.commands.compare",
    "score": "attrbind_exp.commands.score",
    "parse": "attrbind_exp.commands.parse",
    "doctor": "attrbind_exp.commands.doctor.command",
    "demo": "attrbind_exp.demo.command",
    "pretrain": "attrbind_exp.pretrain.command",
}


def start(command: str) -> None:
    """Print the command's help where it is asked for, else begin it."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(help_text(command))
        return
    with loading():
        module = importlib.import_module(MODULES[command])
    module.start()


@contextmanager
def loading() -> Iterator[None]:
    """While it lasts nothing looks for garbage, and what it leaves is never looked through again.

    Libraries and models are a million objects that stay. Looking through them again and again for what can be
    freed is a tenth of a run's start.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def help_text(command: str) -> str:
    """What --help prints: hydra.help.template of conf/COMMAND.yaml."""
    with open(CONF / f"{command}.yaml", encoding="utf-8") as file:
        return as_called(yaml.safe_load(file)["hydra"]["help"]["template"]).rstrip() + f"\n\n  {SAID_HELP}"


def as_called(text: str | None) -> str:
    """A help text that speaks of `python -m attrbind_exp.COMMAND`, with `attrbind COMMAND` where that was typed."""
    text = text or ""
    return text.replace("python -m attrbind_exp.", "attrbind ") if Path(sys.argv[0]).stem == "attrbind" else text
