"""docs/config-keys.md is made of conf/: every option of every group, every key with its value and its comment."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
CONF, SWEEPS = ROOT / "conf", ROOT / "sweeps"
PAGE, MARK = "config-keys.md", "<!-- keys -->"
COMMANDS = ("run", "segment", "compare", "score", "parse", "doctor", "pretrain")
HYDRA = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")  # what people set of Hydra's own keys
BEHIND = re.compile(r"""((?:[^"'#]|"[^"]*"|'[^']*')*(?<=\s))# ?(.*)$""")  # a line and the comment behind it
LEFT_OUT = ("defaults", "_target_", "help")  # not to be set
ALL = "_common"  # a file whose keys every option of its group has


class Key(NamedTuple):
    """One key as it is typed ("split", "clip.steps"), its value as it is written, and what its comment says."""

    name: str
    value: str
    comment: str


def on_page_markdown(markdown: str, page: object, **_: object) -> str:
    """The page with the tables in the place of its mark."""
    return markdown.replace(MARK, all_keys()) if page.file.src_uri == PAGE else markdown


def all_keys() -> str:
    """Groups, then what belongs to no group, then the sweeps, in Markdown."""
    groups = [folder for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra"]
    groups = [*sorted(groups), CONF / "hydra" / "launcher", CONF / "hydra" / "sweeper"]
    parts = [describe_group(folder) for folder in groups]
    parts += [describe_command(name) for name in COMMANDS]
    sweeps = [f"| `{file.stem}` | {_cell(head(file))} |" for file in sorted(SWEEPS.glob("*.yaml"))]
    return "\n\n".join([*parts, "\n".join(["## sweep", "", "| `sweep=` | what it makes |", "|---|---|", *sweeps])])


def describe_group(folder: Path) -> str:
    """A group's options, and its keys with the value that each option gives them."""
    name, files = folder.name, sorted(folder.glob("*.yaml"))
    prefix = f"hydra.{name}" if name == "sweeper" else name
    options = [file for file in files if file.stem != ALL]
    lines = [f"## {name}", "", f"| `{prefix}=` | what it is |", "|---|---|"]
    lines += [f"| `{file.stem}`{_default_mark(folder, file)} | {_cell(head(file))} |" for file in options]
    found: dict[str, dict[str, Key]] = {}
    for file in sorted(files, key=lambda file: file.stem != ALL):
        for key in read_keys(file):
            found.setdefault(key.name, {})[file.stem] = key
    rows = [_row(f"{prefix}.{name}", by_option, len(options)) for name, by_option in found.items()]
    return "\n".join([*lines, *(["", *_table(rows)] if rows else [])])


def describe_command(name: str) -> str:
    """The keys of one command that belong to no group."""
    keys = read_keys(CONF / f"{name}.yaml")
    rows = [(f"`{key.name}`", f"`{key.value}`", _cell(key.comment)) for key in keys]
    about = f"`python -m attrbind_exp.{name}`"
    takes = {"doctor": f"{about} takes every key and group of `run`, and:"}
    return "\n".join([f"## Keys of {name}", "", takes.get(name, f"Of {about}, beside its groups:"), "", *_table(rows)])


def read_keys(file: Path) -> list[Key]:
    """What can be set in a file of ours, in its order. Classes that are named (_target_) are not for setting."""
    text = file.read_text(encoding="utf-8")
    root = yaml.compose(text)
    keys = _walk(root, text.splitlines(), "") if isinstance(root, yaml.MappingNode) else ()
    return [key for key in keys if key.name in HYDRA or not key.name.startswith("hydra.")]


def _walk(node: yaml.MappingNode, lines: Sequence[str], prefix: str) -> Iterator[Key]:
    told = -1  # the line whose comment was told: of several keys in one line the first has it
    for key, value in node.value:
        name, line = f"{prefix}{key.value}", key.start_mark.line
        if key.value in LEFT_OUT:
            continue
        if isinstance(value, yaml.MappingNode) and value.value and not _is_value(value):
            yield from _walk(value, lines, f"{name}.")
        else:
            yield Key(name, _written(value, lines), "" if line == told else _comment(key, lines))
        told = line


def _is_value(node: yaml.MappingNode) -> bool:
    """Whether a mapping is one value: an object in a line, or weights by number."""
    names = [key.value for key, _ in node.value]
    return bool(node.flow_style) and ("_target_" in names or names[0].isdigit())


def _written(node: yaml.Node, lines: Sequence[str]) -> str:
    """A value as it stands in its file; of a list of methods their names."""
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        return ", ".join(field.value for item in node.value for key, field in item.value if key.value == "name")
    start, end = node.start_mark, node.end_mark
    return lines[start.line][start.column : end.column] if start.line == end.line else node.value


def _comment(key: yaml.Node, lines: Sequence[str]) -> str:
    """What stands behind a key's value and, where that goes on, in the lines of comment below it; else, of a key whose
    line has none, what stands in the lines directly above it."""
    at = key.start_mark.line
    if behind := BEHIND.match(lines[at]):
        column, words = len(behind[1]), [behind[2]]
        for line in lines[at + 1 :]:
            if not line[:column].strip() and line[column : column + 1] == "#":
                words.append(line[column + 1 :].strip())
            else:
                break
        return " ".join(words)
    first = at
    while first > 0 and lines[first - 1].startswith("#"):
        first -= 1
    return " ".join(line[1:].strip() for line in lines[first:at]) if first > 0 else ""  # at 0 it is the file's head


def head(file: Path) -> str:
    """The first sentences of a file's head: the comment with which it opens, up to an empty line of it."""
    words = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("# "):
            break
        words.append(line[2:])
    return " ".join(words)


def _default_mark(folder: Path, file: Path) -> str:
    defaults = yaml.safe_load((CONF / "run.yaml").read_text(encoding="utf-8"))["defaults"]
    chosen = {k.removeprefix("override hydra/"): v for d in defaults if isinstance(d, Mapping) for k, v in d.items()}
    default = chosen.get(folder.name)
    return " (default)" if file.stem in (default if isinstance(default, list) else [default]) else ""


def _row(name: str, by_option: Mapping[str, Key], options: int) -> tuple[str, str, str]:
    """One key: its value, by option where they differ, and its comments."""
    values = {option: f"`{key.value}`" for option, key in by_option.items()}
    everywhere = len(by_option) == options or (ALL in by_option and len(by_option) == 1)
    if len(set(values.values())) == 1 and everywhere:
        value = next(iter(values.values()))
    else:
        value = "<br>".join(f"{'all' if option == ALL else option}: {value}" for option, value in values.items())
    comments = dict.fromkeys(key.comment for key in by_option.values() if key.comment)
    return f"`{name}`", value, "<br>".join(map(_cell, comments))


def _table(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    return ["| key | value | what it is |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]


def _cell(text: str) -> str:
    """Text for a cell: what Markdown would take for a sign means itself, but for `code`."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([|*_<])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)
