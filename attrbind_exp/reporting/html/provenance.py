"""Where the figures of a report come from: runs and their state, commands that make them again, settings, failures."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from attrbind_exp.reporting.html.comparison import (
    LOADER,
    Unfinished,
    config_diff,
    flatten,
    read_config,
    without_merged_shards,
)
from attrbind_exp.reporting.paper_tables import Run
from attrbind_exp.runs.progress import read_progress

FAILURES = 20  # listed of each run
BY_HYDRA = ("hydra.mode=", "hydra.searchpath=")  # the command adds these itself


def name(folder: Path, root: Path) -> str:
    """A run's folder as seen from the report's."""
    return str(folder.relative_to(root)) if folder != root else folder.name


def runs(found: Sequence[Run], unfinished: Sequence[Unfinished], root: Path) -> list[dict[str, Any]]:
    """One row a run: its state, counts, time, and where its files are."""
    standing = without_merged_shards(found)
    rows = [
        {
            "name": name(run.folder, root),
            "href": _href(run.folder, root),
            "state": "finished" if run in standing else "a shard, merged",
            "mIoU": run.summary["mIoU"],
            "done": f"{run.summary['n_scored']} {run.summary['scored']}",
            "failed": run.summary["n_failed"],
            "unscored": run.summary["n_unscored"],
            "bound": run.summary["n_bound"],
            "fallbacks": ", ".join(f"{rule} {count}" for rule, count in run.summary["n_fallback"].items()),
            "seconds": run.summary.get("seconds"),
        }
        for run in found
    ]
    return rows + [_unfinished(run, root) for run in unfinished]


def _unfinished(run: Unfinished, root: Path) -> dict[str, Any]:
    far = read_progress(run.folder)
    return {
        "name": name(run.folder, root),
        "href": _href(run.folder, root),
        "state": run.state,
        "done": f"{far['done']} of {far['total']} images" if far else f"{run.rows} rows",
        "failed": run.failed,
        "error": run.error,
    }


def _href(folder: Path, root: Path) -> str:
    return "./" + quote("".join(f"{part}/" for part in folder.relative_to(root).parts))


def commands(found: Sequence[Run], unfinished: Sequence[Unfinished], root: Path) -> dict[str, Any]:
    """`sweep`: its command as it was typed, None where there is none; `runs`: (name, command) of each alone."""
    alone = [(name(r.folder, root), r.summary.get("overrides") or []) for r in found]
    lines = [(n, shlex.join(["python", "-m", "attrbind_exp.run", *map(_as_typed, typed)])) for n, typed in alone]
    return {
        "sweep": _sweep_command(root),
        "runs": lines + [(name(r.folder, root), r.command) for r in unfinished if r.command],
    }


def _sweep_command(root: Path) -> str | None:
    """From what Hydra leaves of a multirun, None where that is not there."""
    file = root / "multirun.yaml"
    if not file.is_file():
        return None
    try:
        typed = yaml.load(file.read_text(encoding="utf-8"), LOADER)["hydra"]["overrides"]
        words = [*typed["hydra"], *typed["task"]]
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError):
        return None
    kept = [_as_typed(str(w)) for w in words if not str(w).startswith(BY_HYDRA)]
    many = [] if any(w.startswith("sweep=") for w in kept) else ["-m"]
    return shlex.join(["python", "-m", "attrbind_exp.run", *many, *kept])


def _as_typed(override: str) -> str:
    """An override before command_line.rewrite_arguments: sweeps by name, plain paths without Hydra's quotes."""
    named = re.sub(r"^\+sweeps=", "sweep=", override)
    quoted = re.fullmatch(r"([\w.]+)='([\w./~-]+)'", named)
    if quoted and ("/" in quoted[2] or quoted[1].startswith("hydra.")):
        return f"{quoted[1]}={quoted[2]}"
    return named


def settings(found: Sequence[Run], unfinished: Sequence[Unfinished], root: Path) -> dict[str, Any]:
    """`names` of the runs and `rows` (key, value of each) where they differ; every run's config.yaml as `files`."""
    every = [*(r.folder for r in found), *(r.folder for r in unfinished)]
    folders = [f for f in every if (f / "config.yaml").is_file()]
    configs = {name(f, root): flatten(read_config(f)) for f in folders}
    rows = [(key, [_value(v) for v in values.values()]) for key, values in config_diff(configs).items()]
    files = [(name(f, root), (f / "config.yaml").read_text(encoding="utf-8")) for f in folders]
    return {"names": list(configs), "rows": rows, "files": files}


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def failures(found: Sequence[Run], root: Path) -> list[dict[str, Any]]:
    """Runs in which samples failed: counts by reason, and the first of them by name."""
    return [
        {
            "name": name(run.folder, root),
            "count": run.summary["n_failed"],
            "reasons": run.summary["failures"],
            "first": list(islice(_failures(run.folder / "failures.jsonl"), FAILURES)),
        }
        for run in found
        if run.summary["n_failed"]
    ]


def _failures(file: Path) -> Iterable[Mapping[str, Any]]:
    if not file.is_file():
        return
    with open(file, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            try:
                yield json.loads(line)
            except ValueError:
                return  # torn


def notes(found: Sequence[Run], unfinished: Sequence[Unfinished], root: Path) -> list[str]:
    """What a reader must know before believing the figures."""
    said = [str(r.summary["note"]) for r in found if r.summary.get("note")]
    if any(r.summary.get("model_name") == "bundled" for r in found):
        said.append(
            "The bundled model is a tiny one that knows only drawn shapes: compare the shape of a curve with the "
            "paper's (Stable Diffusion on photographs), never its height; on photographs its figures mean nothing."
        )
    if any(read_config(r.folder).get("shard") is not None for r in without_merged_shards(found)):
        command = shlex.join(["python", "-m", "attrbind_exp.merge", str(root)])
        said.append(f"Shards stand here one by one; to make one run of them: {command}")
    if unfinished:
        said.append(
            f"{len(unfinished)} of {len(unfinished) + len(found)} runs are not finished (running, cut short or "
            "failed); the same command started again goes on with them."
        )
    return list(dict.fromkeys(said))
