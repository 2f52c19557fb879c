"""attrbind --completion SHELL: the script that completes commands, groups, options, keys and file names.

The script asks `attrbind --complete SHELL LINE` at every TAB. The answer is made of the files of conf/ and of the
folder that --config-dir names on the line, without Hydra. Its first line says what is wanted: "files", which the shell
finds itself, or "words", which follow one a line.
"""

import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from attrbind_exp.commands import segment_arguments
from attrbind_exp.commands.free_text import PATHS
from attrbind_exp.commands.known_keys import read_keys
from attrbind_exp.commands.own_folder import CONFIG_DIR, take_config_dir, use_config_dir
from attrbind_exp.commands.table import COMMANDS
from attrbind_exp.paths import option_files, options
from attrbind_exp.types import CHOICES, UserError

# bash splits words at "=", so it hands over the line and the characters at which it splits. Where file names are
# wanted nothing is answered, and bash's own completion (-o default) steps in.
BASH = r"""
_attrbind() {
    local answer kind=
    COMPREPLY=()
    while IFS= read -r answer; do
        if [[ -z $kind ]]; then kind=$answer; else COMPREPLY+=("$answer"); fi
    done < <("${1/#\~/$HOME}" --complete bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null)
    if [[ $kind != files ]]; then compopt +o default 2>/dev/null; fi
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=.] ]]; then compopt -o nospace 2>/dev/null; fi
}
complete -o default -F _attrbind attrbind
"""
ZSH = r"""
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_attrbind() {
    local -a answers
    answers=("${(@f)$(${~${(Q)words[1]}} --complete zsh "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)}")
    if [[ $answers[1] == files ]]; then
        compset -P '*='
        _files
    else
        shift answers
        compadd -S '' -- ${(M)answers:#*[=.]}
        compadd -- ${answers:#*[=.]}
    fi
}
compdef _attrbind attrbind
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH}
FILE_FLAGS = (CONFIG_DIR, "-cd", "--out", *segment_arguments.FLAGS)  # what follows them is a file or a folder
VALUES = {"--cfg": ("job", "hydra", "all"), "--completion": tuple(SCRIPTS)}
GROUPS = {"sweep": "sweeps", "launcher": "hydra/launcher"}  # typed names of groups that are called otherwise
HYDRAS = ("hydra.run.dir", "hydra.sweep.dir")  # the only keys of Hydra's own that people type
FILES = None  # stands for file names
LISTED = re.compile(r"[\w.-]+(?: \| [\w.:-]+)+")  # "auto | cpu | cuda | cuda:N" behind a key of a file
ASIDE = re.compile(r" *\([^)]*\)")


def main(given: Sequence[str]) -> None:
    """--completion SHELL prints the script; --complete SHELL LINE [WORDBREAKS] answers it."""
    if given[0] == "--complete" and len(given) in (3, 4):
        answer(*given[1:])
    elif len(given) == 2 and given[1] in SCRIPTS:
        print(SCRIPTS[given[1]].strip())
    else:  # --complete is for the script alone
        print(f"error: --completion names a shell: {' or '.join(SCRIPTS)}", file=sys.stderr)
        sys.exit(2)


def answer(shell: str, line: str, breaks: str = "") -> None:
    """Print what may stand at the end of the line. For bash, what it takes to be an earlier word is left out."""
    words, quoted = split(line)
    found = complete(words)
    print("files" if found is FILES else "words")
    cut = 0 if quoted or shell != "bash" else 1 + max(words[-1].rfind(character) for character in breaks or " ")
    for word in found or ():
        print(word[cut:])


def split(line: str) -> tuple[list[str], bool]:
    """(the words of a line that is being typed, the last one "" behind a space; whether its last quote is open)."""
    for close in ("", "'", '"'):
        try:
            words = shlex.split(f"{line}\0{close}")
        except ValueError:
            continue
        return [word.removesuffix("\0") for word in words], bool(close)
    return [""], False


def complete(words: Sequence[str]) -> list[str] | None:
    """What the last word may become; FILES where it is a file's name."""
    before, last = words[1:-1], words[-1]
    if not before:
        return starting(last, [*COMMANDS, *(("--help", "--version", "--completion") if last.startswith("-") else ())])
    if before[-1] in FILE_FLAGS or (last.partition("=")[0] in FILE_FLAGS and "=" in last):
        return FILES
    if before[-1] in VALUES:
        return starting(last, VALUES[before[-1]])
    if before[0] not in COMMANDS:
        return []
    try:
        folder, rest = take_config_dir(before[1:])
        with use_config_dir(folder):
            return complete_argument(before[0], rest, last)
    except UserError:
        return []


def complete_argument(name: str, before: Sequence[str], last: str) -> list[str] | None:
    """What an argument of a command may become, behind the arguments before it."""
    command = COMMANDS[name]
    if last.startswith("-"):
        return starting(last, command.flags)
    key, equals, value = last.partition("=")
    if equals and key in PATHS:
        return FILES
    if equals:
        earlier = re.match(r"(.*[,\[])?", value)  # of several values the last is completed
        assert earlier is not None  # an empty text matches
        values = options(GROUPS.get(key, key)) or few_values(key, before)
        return starting(last, [f"{key}={earlier[0]}{option}" for option in values])
    if wants_file(name, before, last):
        return FILES
    keys: Iterable[str] = read_keys("run" if command.groups else name).known
    if command.groups:
        keys = [k for k in keys if k.partition(".")[0] in command.groups]
    elif name == "run":
        keys = [*keys, *HYDRAS]
    else:
        keys = [*(k for k in keys if k.partition(".")[0] not in GROUPS), HYDRAS[0]]
    return starting(last, next_parts(keys, last))


def few_values(key: str, before: Sequence[str]) -> list[str]:
    """The values of a key that takes no others, [] where it takes any: those that are checked, else those that a
    comment behind the key lists. Of a group's options the one that was typed before says it, else all do."""
    if key in CHOICES:
        return [str(value).lower() for value in CHOICES[key] if value is not None and not isinstance(value, list)]
    group, _, last = key.rpartition(".")
    files = option_files(GROUPS.get(group, group))
    typed = [argument.removeprefix(f"{group}=") for argument in before if argument.startswith(f"{group}=")]
    chosen = [files[option] for option in typed[-1:] if option in files] or files.values()
    return sorted({value for file in chosen for value in listed(file, last)})


def listed(file: Path, key: str) -> list[str]:
    """The values that the comment behind a key of a file lists: KEY: VALUE  # ONE | TWO (which is so) | THREE."""
    try:
        comment = re.search(rf"^{re.escape(key)}:[^#\n]*#(.*)", file.read_text(encoding="utf-8"), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        return []
    values = LISTED.search(ASIDE.sub("", comment[1])) if comment else None
    return [value for value in values[0].split(" | ") if ":" not in value] if values else []


def wants_file(name: str, before: Sequence[str], last: str) -> bool:
    """Whether an argument without "=" names a file or a folder: the picture of segment and compare, the folders of
    commands that Hydra does not start. A picture may as well be given by key, so there the beginning of a file's name
    is needed."""
    if name in ("segment", "compare"):
        overrides, words = segment_arguments.split(before)
        due = not words and "image" in segment_arguments.free_places(overrides)
        return due and begins_a_file(last)
    command = COMMANDS[name]
    if command.groups:  # the first word is a folder, the others are keys
        return not any("=" not in argument and not argument.startswith("-") for argument in before)
    return command.module is not None


def begins_a_file(text: str) -> bool:
    """Whether a file's or folder's name begins with `text`."""
    try:
        path = Path(text).expanduser()
        folder, start = (path, "") if not text or text.endswith("/") else (path.parent, path.name)
        return any(file.name.startswith(start) for file in folder.iterdir())
    except (OSError, RuntimeError):  # no such folder; ~ with a name that nobody has
        return False


def next_parts(keys: Iterable[str], typed: str) -> list[str]:
    """What of all keys can be typed next: KEY= where a value belongs, KEY. where more of the key must or, once
    something is typed, may follow."""
    depth = typed.count(".") + 1
    values: set[str] = set()
    longer: set[str] = set()
    for key in keys:
        parts = key.split(".")
        if any(part.startswith("_") or part in ("defaults", "sweeps") for part in parts):
            continue
        (longer if len(parts) > depth else values).add(".".join(parts[:depth]))
    groups = {key for key in values & longer if options(GROUPS.get(key, key))}
    shown = [f"{key}=" for key in values - longer | groups]
    return shown + [f"{key}." for key in (longer if typed else longer - groups)]


def starting(typed: str, words: Iterable[str]) -> list[str]:
    """Those of the words that begin with what is typed, in order."""
    return sorted(word for word in words if word.startswith(typed))
