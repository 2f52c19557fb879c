"""Which keys may be typed: those of our configurations and of the user's own folder, and what their classes take.

Hydra refuses an unknown key, but adds any that has a + before it, and nothing would ever read that.
"""

import difflib
import inspect
import pydoc
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from attrbind_exp.commands.own_folder import CONFIG_DIR
from attrbind_exp.paths import CONF, option_files, options, own_folder
from attrbind_exp.runs.configuration import LOADER
from attrbind_exp.types import UserError

TYPED = re.compile(r"([+~]*)([A-Za-z_][\w-]*(?:\.[\w-]+)*)")
REFERENCE = re.compile(r"\$\{([\w.-]+)\}")
PACKAGE = re.compile(r"^# *@package +(\S+)", re.MULTILINE)
MISSING = re.compile(r"Could not override '([\w.]+)'")
TARGET = "_target_"
OURS = ("attrbind_exp.", "hydra_plugins.attrbind_exp_launchers.")
LAUNCHER, LAUNCHERS = "launcher", "hydra/launcher"  # as it is typed, and Hydra's name of the group
PASSED_ON = ("launcher.ray.init", "launcher.ray.remote")  # Ray knows what may stand there
WITHOUT_PREFIX = (LAUNCHER, "sweep")  # words of ours, which become something else before Hydra sees them


@dataclass
class Keys:
    """`known`: every key that a file has; `free`: keys below which anything may stand (null, lists, references);
    `targets`: what is called with the keys below a key."""

    known: set[str] = field(default_factory=set)
    free: set[str] = field(default_factory=set)
    targets: dict[str, set[str]] = field(default_factory=dict)

    def add(self, node: object, place: str) -> None:
        """Take in a part of a configuration that stands at `place`, "" at its top."""
        if place:
            self.known.add(place)
        if isinstance(node, dict):
            for key, value in node.items():
                if key == TARGET:
                    self.targets.setdefault(place, set()).add(str(value))
                self.add(value, f"{place}.{key}" if place else str(key))
        elif node is None or isinstance(node, list) or (isinstance(node, str) and "${" in node):
            self.free.add(place)

    def has(self, key: str) -> bool:
        """Whether something reads `key`. Loads the classes above it where no file has the key itself."""
        parts = key.split(".")
        above = {".".join(parts[:i]): parts[i] for i in range(1, len(parts))}  # with the next part of the key
        return (
            key in self.known
            or any(place in self.free for place in above)
            or any(takes(t, name) for place, name in above.items() for t in self.targets.get(place, ()))
        )

    def below(self, key: str, argument: str) -> list[str]:
        """The keys below that of an argument which gives it a value that would stand for nothing: one word instead of
        them, as in cache=5. None for a group, whose options stand for such keys."""
        value = argument.partition("=")[2].strip("'\" ")
        if key in self.free or options(key) or key in WITHOUT_PREFIX or not value or value.startswith(("{", "$")):
            return []
        return sorted(k for k in self.known if k.startswith(f"{key}.") and not k.endswith(TARGET))


def check_keys(command: str, arguments: Sequence[str]) -> None:
    """Raise UserError for the first argument whose key no configuration of `command` knows, with the nearest right one.

    What a value or an option of the user's folder refers to as ${KEY} is known. Hydra's own keys are left to Hydra.
    """
    typed = [(TYPED.fullmatch(a.partition("=")[0]), a) for a in arguments if "=" in a or a.startswith("~")]
    found = [(match[1], match[2], argument) for match, argument in typed if match and match[2].split(".")[0] != "hydra"]
    if not found:
        return
    keys = read_keys(command)
    keys.known |= sweep_keys(arguments)
    keys.known |= {name for argument in arguments for name in REFERENCE.findall(argument)}
    for prefix, key, argument in found:
        if key.endswith(f".{TARGET}"):  # something else is called there, with keys of its own
            keys.targets.setdefault(key.removesuffix(f".{TARGET}"), set()).add(argument.partition("=")[2])
        if prefix and key in WITHOUT_PREFIX:
            raise UserError(f"'{argument}' adds nothing; write it without {prefix}: {argument.removeprefix(prefix)}")
        if not keys.has(key):
            raise UserError(f"no key '{key}'; {suggest(key, keys.known)}")
        if not prefix and (below := keys.below(key, argument)):
            raise UserError(f"'{argument}' sets nothing; {key} has keys of its own: {', '.join(below)}")


def sweep_keys(arguments: Iterable[str]) -> set[str]:
    """The keys at the top of the sweep file that arguments name: a sweep may have some of its own."""
    files = option_files("sweeps")
    found = [files[name] for key, _, name in (a.partition("=") for a in arguments) if key == "sweep" and name in files]
    return {key for file in found for key in yaml.load(file.read_text(encoding="utf-8"), LOADER)}


def suggest(key: str, known: Iterable[str]) -> str:
    """The keys that were probably meant, and where to find all."""
    known = [name for name in known if not name.endswith(TARGET)]
    last = key.rpartition(".")[2]
    named = sorted(k for k in known if k.rpartition(".")[2] == last)
    least = min((k.count(".") for k in named), default=0)  # of a group itself, before its many options
    near = [k for k in named if k.count(".") == least] or difflib.get_close_matches(key, sorted(known), 1)
    if not near:  # the group may have been left out
        by_last = {k.rpartition(".")[2]: k for k in sorted(known, reverse=True)}
        near = [by_last[name] for name in difflib.get_close_matches(last, list(by_last), 1)]
    meant = f"did you mean {' or '.join(near[:3])}? " if near else ""
    return f"{meant}'--cfg job' prints all keys; one of your own must stand in an option below {CONFIG_DIR}"


def mend_missing(message: str) -> str:
    """Hydra's message for a key that the chosen options do not have, in words that say which option has it; any other
    message as it is."""
    match = MISSING.match(message)
    group, *rest = match[1].split(".") if match else [""]
    having = [name for name, file in option_files(group).items() if rest and _holds(file, rest)]
    if not having:
        return message
    return f"no key '{'.'.join([group, *rest])}' under the options chosen; {group}={' or '.join(sorted(having))} has it"


def _holds(file: Path, keys: Sequence[str]) -> bool:
    """Whether an option has a value at these keys."""
    try:
        node = yaml.load(file.read_text(encoding="utf-8"), LOADER)
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return False
    for key in keys:
        if not isinstance(node, dict) or key not in node:
            return False
        node = node[key]
    return True


def takes(target: str, name: str) -> bool:
    """Whether what `target` names can be called with `name`. True where that cannot be told: instantiating it will."""
    try:
        parameters = inspect.signature(pydoc.locate(target)).parameters  # type: ignore[arg-type]
    except (pydoc.ErrorDuringImport, TypeError, ValueError):
        return True
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return name in parameters or (anything and not target.startswith(OURS))


def read_keys(command: str) -> Keys:
    """The keys of a command: of its configuration, of its groups' options, of all that the user's folder has."""
    keys = Keys(known={"sweep", "sweeps", LAUNCHER}, free=set(PASSED_ON))
    for group in (*add_command(command, keys), LAUNCHERS):
        for file in sorted((CONF / group).glob("*.yaml")):
            keys.add(yaml.load(file.read_text(encoding="utf-8"), LOADER), LAUNCHER if group == LAUNCHERS else group)
    own = own_folder()
    for file in sorted([*own.glob("*.yaml"), *own.glob("*/*.yaml")]) if own else []:
        try:
            text = file.read_text(encoding="utf-8")
            node = yaml.load(text, LOADER)
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            continue  # Hydra says what is wrong with it, where it is chosen
        group = "" if file.parent == own else file.parent.name
        keys.known |= {group, *REFERENCE.findall(text)}
        package = PACKAGE.search(text)
        place = group if package is None else package[1].replace("_group_", group)
        keys.add(node, "" if place in ("_global_", "sweeps") else place)
    return keys


def add_command(command: str, keys: Keys) -> Iterator[str]:
    """Add the keys of conf/COMMAND.yaml and of those that it builds on; their groups one by one."""
    node = yaml.load((CONF / f"{command}.yaml").read_text(encoding="utf-8"), LOADER)
    for entry in node.pop("defaults"):
        if isinstance(entry, dict):
            yield from (group for group in entry if not group.startswith("override "))
        elif entry != "_self_":
            yield from add_command(entry, keys)
    del node["hydra"]
    keys.add(node, "")
