"""The user's own folder, --config-dir DIR: options of any group as YAML files, and Python files beside them.

Hydra itself finds the options of such a folder. What is added here: its Python files can be imported, our own look-ups
see its options, and all of that holds in the processes of Ray, Slurm and joblib too, which inherit the environment.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrbind_exp.paths import OWN_FOLDER, own_folder
from attrbind_exp.types import UserError

CONFIG_DIR = "--config-dir"


def take_config_dir(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The folder that --config-dir (or -cd, Hydra's short form) names, and all other arguments."""
    rest, folder, waiting = [], None, False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if waiting:
            folder, waiting = argument, False
        elif argument in (CONFIG_DIR, "-cd"):
            waiting = True
        elif name == CONFIG_DIR and equals:
            folder = value
        else:
            rest.append(argument)
    if waiting or folder == "":
        raise UserError(f"{CONFIG_DIR} names no folder; give {CONFIG_DIR}=DIR with your own options and Python files")
    return (None if folder is None else Path(folder)), rest


def own_option(group: str, name: str) -> str:
    """What an error says of an option that is not there: where one of the user's own would lie."""
    own, file = own_folder(), f"{group}/{name}.yaml"
    return f"; your own would be '{own / file}'" if own else f"; one of your own needs {CONFIG_DIR}=DIR with DIR/{file}"


def add_config_dir(parser: argparse.ArgumentParser) -> None:
    """Give a command that is not started by Hydra the option --config-dir; its value is meant for use_config_dir."""
    parser.add_argument(
        CONFIG_DIR, type=Path, metavar="DIR", help="your own options and Python files, as run takes them"
    )


@contextmanager
def use_config_dir(folder: Path | None) -> Iterator[None]:
    """While it lasts, the options and Python files in a user's own folder are found like ours, by this process and by
    all that it starts. Raises UserError where the folder does not exist."""
    if folder is None:
        yield
        return
    path = folder.expanduser().absolute()
    if not path.is_dir():
        raise UserError(f"no folder at {CONFIG_DIR}='{folder}'; give one with your own options and Python files")
    before = {name: os.environ.get(name) for name in (OWN_FOLDER, "PYTHONPATH")}
    os.environ[OWN_FOLDER] = str(path)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(path), before["PYTHONPATH"])))
    sys.path.insert(1, str(path))  # where PYTHONPATH stands in the processes that are started from here
    try:
        yield
    finally:
        sys.path.remove(str(path))
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
