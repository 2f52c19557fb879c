"""A run's folder: the only place that writes into it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrbind_exp.types import Failure, UserError


def picture_folder(folder: str | os.PathLike) -> Path:
    """A folder for pictures, made where it is missing. Raises UserError where it cannot be."""
    path = Path(folder).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to the folder '{path}': {error.strerror}") from error
    return path


def write_text(path: Path, text: str) -> Path:
    """Write a small file whole or not at all."""
    scratch = path.with_name(path.name + ".partial")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)
    return path


class RunStore:
    """Files of one run: config.yaml, expressions.jsonl, failures.jsonl, summary.json, gallery/.

    Rows reach the disk as they come; the summary appears whole or not at all. Raises UserError where the folder cannot
    be written.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder).absolute()
        try:
            (self.folder / "gallery").mkdir(parents=True, exist_ok=True)
            self._rows = open(self.folder / "expressions.jsonl", "w", encoding="utf-8")  # noqa: SIM115
            self._failures = open(self.folder / "failures.jsonl", "w", encoding="utf-8")  # noqa: SIM115
            (self.folder / "summary.json").unlink(missing_ok=True)
            for old in (self.folder / "gallery").glob("*_[0-9][0-9][0-9].png"):
                old.unlink()
        except OSError as error:
            raise UserError(f"cannot write to the run folder '{self.folder}': {error.strerror}") from error

    def add_row(self, row: Mapping[str, Any]) -> None:
        """One scored expression under one variant."""
        self._rows.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._rows.flush()

    def add_failure(self, failure: Failure) -> None:
        """One sample that could not be scored."""
        self._failures.write(json.dumps(vars(failure), ensure_ascii=False) + "\n")
        self._failures.flush()

    def write_text(self, name: str, text: str) -> Path:
        """A small file, written whole or not at all."""
        return write_text(self.folder / name, text)

    def write_summary(self, summary: Mapping[str, Any]) -> Path:
        """summary.json."""
        return self.write_text("summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")

    def gallery_path(self, name: str, number: int) -> Path:
        """Where picture `number` of a gallery goes."""
        return self.folder / "gallery" / f"{name}_{number:03d}.png"

    def close(self) -> None:
        self._rows.close()
        self._failures.close()
