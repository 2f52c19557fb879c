"""What may be typed after `attrbind segment` and `attrbind compare`: a picture and an expression, besides Hydra's
KEY=VALUE; three flags after the one, edits after the other."""

import re
from collections.abc import Mapping, Sequence

from attrbind_exp.runs.shown import clean, did_you_mean, shell_command
from attrbind_exp.types import UserError

PLACES = ("image", "expression")  # the keys of the first and the second word
FLAGS = {"--mask": "mask", "--heat": "heat", "--rle": "rle"}
# Hydra's own: those that take the next word, and those that stand alone.
WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--info", "-i")
ALONE = ("--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m", "--shell-completion", "-sc")
OVERRIDE = re.compile(r"[+~]*[A-Za-z_][\w./@-]*=.*|~[A-Za-z_][\w./@-]*", re.DOTALL)


def rewrite_compare(arguments: Sequence[str]) -> list[str]:
    """The same for compare, where all further words are edits and there are no files to write."""
    overrides, words = split(arguments, flags={})
    places = free_places(overrides)
    edits = words[len(places) :]
    if edits and any(o.startswith("edits=") for o in overrides):
        raise UserError(f"edits= and the words {' '.join(edits)}; give edits in one of the two ways")
    named = ",".join(f"'{clean(edit)}'" for edit in edits)
    return [
        *overrides,
        *(f"{key}={word}" for key, word in zip(places, words)),
        *([f"edits=[{named}]"] if edits else []),
    ]


def rewrite(arguments: Sequence[str]) -> list[str]:
    """The command line with every word and flag as the KEY=VALUE that it stands for; all else stays as typed.

    What looks like KEY=VALUE is one; a picture of such a name is given as ./a=b.jpg. Behind "--" all are words. Raises
    UserError for an unknown flag, a flag without its file, and for more words than are left to be given.
    """
    overrides, words = split(arguments)
    places = free_places(overrides)
    if len(words) > len(places):
        quoted = shell_command(["attrbind", "segment", words[0], " ".join(words[1:])])
        taken = "a picture and an expression" if len(places) == 2 else " and ".join(places) or "no word beside keys"
        raise UserError(f"{len(words)} words, and {taken} can be given here; put an expression in quotes: {quoted}")
    return [*overrides, *(f"{key}={word}" for key, word in zip(places, words))]


def free_places(overrides: Sequence[str]) -> list[str]:
    """Those of image and expression that no KEY=VALUE gives."""
    return [key for key in PLACES if not any(o.startswith(f"{key}=") for o in overrides)]


def split(arguments: Sequence[str], flags: Mapping[str, str] = FLAGS) -> tuple[list[str], list[str]]:
    """(what Hydra reads, our `flags` among it as KEY=VALUE; the words that stand alone). Hydra's own flags come first:
    it reads KEY=VALUE in one row alone, and the words' keys are added at the end."""
    hydras, overrides, words, waiting = [], [], [], list(arguments)
    while waiting:
        argument = waiting.pop(0)
        name, equals, value = argument.partition("=")
        if argument == "--":
            words += waiting
            break
        if name in flags:
            if not equals and not waiting:
                raise UserError(f"{name} names no file; give {name} FILE")
            overrides.append(f"{flags[name]}={value if equals else waiting.pop(0)}")
        elif argument in WITH_VALUE:
            hydras += [argument, *waiting[:1]]
            del waiting[:1]
        elif name in (*WITH_VALUE, *ALONE):
            hydras.append(argument)
        elif OVERRIDE.fullmatch(argument):
            overrides.append(argument)
        elif argument.startswith("-") and argument != "-":
            raise UserError(unknown(name, flags))
        else:
            words.append(argument)
    return [*hydras, *overrides], words


def unknown(flag: str, flags: Mapping[str, str]) -> str:
    """What is wrong with a flag that there is not."""
    meant = did_you_mean(flag, (*flags, *WITH_VALUE, *ALONE))
    return (
        f"unknown option '{clean(flag)}'; {meant}choose from {', '.join([*flags, '--help'])}; "
        "words that begin with - come after --"
    )
