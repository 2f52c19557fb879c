"""What an error says to who can mend it. Hydra's own tells of a class that cannot be loaded, and not why."""

import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import hydra
from hydra.errors import InstantiationException

from attrbind_exp.runs.shown import did_you_mean
from attrbind_exp.types import UserError

TARGET = re.compile(r"Error (?:locating|in call to) target '([^']+)'")
KEY = re.compile(r"full_key: (\S+)")
MACHINERY = (str(Path(hydra.__file__).parent), "<frozen", str(Path(sys.modules["importlib"].__file__ or "").parent))


def told(error: BaseException) -> str:
    """The error's message; where Hydra wrapped another error, that one's, with the file and the line it came from."""
    if isinstance(error, UserError):
        return str(error)
    causes = list(_causes(error))
    if user := next((cause for cause in causes if isinstance(cause, UserError)), None):
        return str(user)
    target = TARGET.search(str(error))
    if not isinstance(error, InstantiationException) or target is None or not causes:
        return str(error)
    key = KEY.search(str(error))
    what = f"{f'{key[1]}: ' if key else ''}_target_ {target[1]}"
    verb = "loaded" if "locating" in target[0] else "made"
    return f"{what} {_missing(target[1], causes[-1]) or f'cannot be {verb}: {_raised(causes[-1])}'}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The errors that an error was raised from, the first one last."""
    while error.__cause__ is not None:
        error = error.__cause__
        yield error


def _missing(target: str, error: BaseException) -> str | None:
    """What is said where a module or what it should hold is not there; None where the error is another one."""
    if not isinstance(error, ModuleNotFoundError) or not f"{target}.".startswith(f"{error.name}."):
        return None
    module, _, name = target.rpartition(".")
    if (found := sys.modules.get(module)) is not None:
        own = [n for n, value in vars(found).items() if getattr(value, "__module__", None) == module]
        has = did_you_mean(name, own) or f"it has {', '.join(own) or 'nothing'}"
        return f"names nothing: '{found.__file__}' has no {name}; {has}"
    return (
        f"names no module: there is no {error.name}; its file {target.split('.')[0]}.py belongs into the folder "
        "that --config-dir names, or into one on PYTHONPATH"
    )


def _raised(error: BaseException) -> str:
    """An error's kind and message, with the file and the line of it that is not Hydra's or Python's own."""
    if isinstance(error, SyntaxError):
        return f"'{error.filename}', line {error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(MACHINERY)]
    at = f"'{frames[-1].filename}', line {frames[-1].lineno}: " if frames else ""
    return f"{at}{type(error).__name__}: {error}"
