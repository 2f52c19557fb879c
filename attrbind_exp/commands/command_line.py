"""What may be typed: the command line as Hydra needs it and back, the names of folders, and how a command ends."""

import hashlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from attrbind_exp.commands.causes import told
from attrbind_exp.commands.disk import disk_errors
from attrbind_exp.commands.free_text import FREE_TEXT
from attrbind_exp.commands.grammar import read_values, show
from attrbind_exp.commands.known_keys import check_keys, mend_missing
from attrbind_exp.commands.own_folder import CONFIG_DIR, own_option, take_config_dir, use_config_dir
from attrbind_exp.commands.segment_arguments import WITH_VALUE
from attrbind_exp.commands.unused_folders import remove_if_unused, remove_unused
from attrbind_exp.commands.verbosity import take_verbosity, use_verbosity
from attrbind_exp.log import log
from attrbind_exp.paths import SWEEPS, options, own_folder
from attrbind_exp.runs.shown import clean, did_you_mean, shell_command
from attrbind_exp.types import UserError
from attrbind_exp.work import end

NUMBER_GROUPS = ("alpha", "threshold")


def rewrite_arguments(arguments: Sequence[str]) -> list[str]:
    """The command line as Hydra needs it; everything else is passed on as typed.

    Hydra refuses a number for a config group, so `alpha=0.9` becomes `alpha.value=0.9`; `sweep=NAME` adds the file
    sweeps/NAME.yaml; free text (expressions, paths) is quoted, so that commas and spaces need no second pair of quotes;
    -m may stand anywhere; a multirun's folder is named by what was typed. The user's own folder is that of
    use_config_dir. Raises UserError for an option that a group does not have, and for a launcher that would launch
    nothing.
    """
    multirun = [a for a in arguments if a in ("-m", "--multirun")]
    rewritten = [_rewrite(a) for a in arguments if a not in ("-m", "--multirun")]
    several = multirun or any(a.startswith("+sweeps=") for a in rewritten)
    if not several and any(a.startswith("hydra/launcher=") for a in rewritten):
        raise UserError("launcher= is for sweeps; add -m and what is swept (-m alpha=0.5,0.9), or sweep=NAME")
    if any(a.startswith("+sweeps=") for a in rewritten):
        rewritten.insert(0, f"hydra.searchpath=['file://{SWEEPS.parent}']")
    elif multirun and not any(a.startswith("hydra.sweep.dir=") for a in rewritten):
        rewritten.insert(0, f"hydra.sweep.dir='outputs/sweep/{_escape(sweep_name(rewritten))}'")
    return multirun[:1] + rewritten


def sweep_name(arguments: Sequence[str]) -> str:
    """A folder's name for a multirun: the same for the same command, so that it goes on when it is started again."""
    told = [a for a in arguments if not a.startswith(("hydra", "tracker", "gallery=", "changed="))]
    name = re.sub(r"[^\w.,=+\[\]-]+", "-", ",".join(told).replace(".value=", "=")) or "default"
    return name if len(name) <= 120 else f"{name[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def group_name(sweep_dir: str) -> str:
    """The last two parts of a sweep's folder: table3_alpha/refcoco_sd15."""
    return "/".join(Path(sweep_dir).absolute().parts[-2:])


MULTIRUN = "hydra.mode=MULTIRUN"  # what Hydra makes of -m
TYPED = {"+sweeps=": "sweep=", "hydra/launcher=": "launcher=", "hydra.launcher.": "launcher."}


def as_typed(overrides: Sequence[str]) -> list[str]:
    """What a person types for the overrides that Hydra saw; the way back from rewrite_arguments."""
    own = own_folder()
    first = [f"{CONFIG_DIR}={own}"] if own else []
    first += ["-m"] if MULTIRUN in overrides else []
    return first + [_as_typed(o) for o in overrides if o != MULTIRUN and not o.startswith("hydra.searchpath=")]


def command(overrides: Sequence[str]) -> str:
    """The command of a run or a sweep with these overrides, to be pasted into a shell."""
    return shell_command(["python", "-m", "attrbind_exp.run", *as_typed(overrides)])


def _as_typed(override: str) -> str:
    for rewritten, typed in TYPED.items():
        if override.startswith(rewritten):
            override = typed + override.removeprefix(rewritten)
    # Only quotes that would be put around the text again are taken away.
    quoted = re.fullmatch(r"([a-z_.]+)='([^'\"\\$]+)'", override)
    return f"{quoted[1]}={quoted[2]}" if quoted and quoted[1] in FREE_TEXT and quoted[2] != "null" else override


def _rewrite(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if equals and ("/" in value or ".." in value):
        _check_option(key, value)
    if not equals or not re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", key):
        return re.sub(r"^([+~]+)launcher\.", r"\1hydra.launcher.", argument)
    if key in FREE_TEXT:
        argument = f"{key}={_quote(value)}"
    if key.split(".")[0] == "launcher":
        return _rewrite_launcher(argument)
    if key == "sweep":
        if value not in options("sweeps"):
            meant = did_you_mean(value, options("sweeps"))
            raise UserError(f"unknown sweep '{value}'; {meant}choose from {', '.join(options('sweeps'))}")
        return f"+sweeps={value}"
    known = options(key)
    if not known and "range(" not in value:
        return argument
    values = read_values(argument, known)
    if values is None:
        return argument
    return _rewrite_group(key, known, values) if known else f"{key}={','.join(map(show, values))}"


def _rewrite_group(key: str, known: Sequence[str], values: Sequence[object]) -> str:
    """GROUP=VALUE, or several values, with numbers by the key that they have in the group. Raises UserError for what
    is no option."""
    shown = ",".join(map(show, values))
    parts = [part for value in values for part in (value if isinstance(value, list) else [value])]
    if key in NUMBER_GROUPS and any(_is_number(p) for p in parts):
        if not all(_is_number(p) for p in parts):
            raise UserError(f"{key}={shown} mixes numbers and names; sweep over one kind at a time")
        return f"{key}.value={shown}"
    for part in parts:
        if show(part) not in known:
            also = "a number or one of " if key in NUMBER_GROUPS else ""
            meant = did_you_mean(show(part), known)
            own = own_option(key, show(part))
            raise UserError(f"unknown {key} '{show(part)}'; {meant}choose {also}{', '.join(known)}{own}")
    return f"{key}={','.join(_name(value) for value in values)}"


def _name(value: object) -> str:
    """An option's name, or a list of them: in quotes where Hydra would read a number, true or null."""
    if isinstance(value, list):
        return f"[{','.join(map(_name, value))}]"
    return value if isinstance(value, str) else f"'{show(value)}'"


def _check_option(key: str, value: str) -> None:
    """Raise UserError where an option of a group holds "/" or "..": it is a name, and would be looked for elsewhere."""
    group = re.fullmatch(r"[+~]*([\w/]+)(@[\w.:]*)?", key)
    if group and (group[1] in ("sweep", "launcher") or options(group[1])):
        own = "sweeps" if group[1] == "sweep" else "hydra/launcher" if group[1] == "launcher" else group[1]
        raise UserError(f"{key}={value} names a path; an option is a name: choose from {', '.join(options(own))}")


def _rewrite_launcher(argument: str) -> str:
    """launcher=NAME and launcher.KEY=VALUE by the names that they have in Hydra."""
    key, _, value = argument.partition("=")
    if key != "launcher":
        return f"hydra.{argument}"
    if value not in options("hydra/launcher"):
        known = options("hydra/launcher")
        raise UserError(f"unknown launcher '{value}'; {did_you_mean(value, known)}choose from {', '.join(known)}")
    return f"hydra/{argument}"


def _quote(value: str) -> str:
    """Free text in Hydra's quotes, so that it is one value whatever is in it; null, references to other keys,
    choice(..) and what is quoted already stay as they are."""
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    kept = quoted or value == "null" or "${" in value or re.fullmatch(r"choice\(.*\)", value)
    return value if kept else f"'{_escape(value)}'"


def path_override(key: str, path: Path) -> str:
    """The override that sets `key` to this very path, whatever is in it: a `${` in a path refers to no other key."""
    literal = re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + r"\${", str(path))
    return f"{key}='{_escape(literal)}'"


def _escape(value: str) -> str:
    """A value for Hydra's single quotes: only backslashes before a quote and quotes themselves are special there."""
    return re.sub(r"(\\*)'", lambda m: m[1] * 2 + r"\'", re.sub(r"(\\+)$", r"\1\1", value))


def _is_number(value: object) -> bool:
    try:
        float(show(value))
    except ValueError:
        return False
    return True


MENDABLE = (UserError, HydraException, OmegaConfBaseException, yaml.YAMLError)


def run_main(
    main: Callable[[], Any], command: str = "run", rewrite: Callable[[Sequence[str]], list[str]] = list
) -> None:
    """Run the Hydra entry point of a command: what a user can mend ends in one line and exit code 2, a bug in a
    traceback. `rewrite`: makes KEY=VALUE of what the command alone takes."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let errors through to here
    try:
        asked, arguments = take_verbosity(sys.argv[1:])
        folder, arguments = take_config_dir(arguments)
        with use_verbosity(asked, serves=command == "demo"), use_config_dir(folder), disk_errors():
            named = [] if folder is None else [CONFIG_DIR, str(own_folder())]
            arguments = rewrite(arguments)
            check_words(command, arguments)
            check_keys(command, arguments)
            sys.argv[1:] = [*named, *rewrite_arguments(arguments)]
            main()
    except MENDABLE as error:
        exit_with(error)
    except KeyboardInterrupt:
        end()
        log.error("stopped; started again in the same folder, it goes on from here")
        sys.exit(130)
    finally:
        remove_unused()


def check_words(command: str, arguments: Sequence[str]) -> None:
    """Raise UserError for a word that is neither KEY=VALUE nor a flag or its value, of which Hydra speaks in terms of
    its grammar."""
    for before, word in zip(["", *arguments], arguments):
        if "=" not in word and not word.startswith(("-", "~")) and before not in WITH_VALUE:
            raise UserError(
                f"'{clean(word)}' is no KEY=VALUE, which is all that {command} takes; see attrbind {command} --help"
            )


def task(function: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """A Hydra task whose mendable errors end a single run before Hydra adds its own lines; a sweep gets them raised."""

    @wraps(function)
    def run(cfg: DictConfig) -> Any:
        try:
            with disk_errors():
                return function(cfg)
        except MENDABLE as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                remove_if_unused(Path(HydraConfig.get().runtime.output_dir))
                if isinstance(error, InstantiationException):  # of which the launcher would show the last line
                    raise UserError(told(error)) from error
                raise
            exit_with(error)
        except Exception:
            if HydraConfig.get().mode == RunMode.MULTIRUN:  # Hydra keeps it, and the sweep goes on
                traceback.print_exc()
            raise

    return run


def exit_with(error: Exception) -> NoReturn:
    """End a command whose user can mend what went wrong: one line and exit code 2."""
    end()
    log.error("error: " + clean(mend_missing(" ".join(told(error).split())), 5000))
    sys.exit(2)
