"""summary.json of a run: the schema, written and read here and nowhere else."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from attrbind_exp.runs.provenance import Identity, Provenance
from attrbind_exp.scoring.figures import Reference, VariantFigures
from attrbind_exp.types import UserError

NAME = "summary.json"
FORMAT = 2  # raised when a field changes its meaning


class Summary(msgspec.Struct, kw_only=True, frozen=True):
    """What a finished run says of itself.

    `text_processor`, `alpha`, `mIoU` and `threshold` are those of the variant that heads it, `variants[headline]`.
    `scored`: "expressions" or "images"; n = n_scored + n_unscored (no ground truth) + n_failed; `failures` and
    `fallbacks` count by reason and rule; `n_bound`: prompts with a modifier to bind; `seconds` of scoring; `overrides`:
    what was typed; `version`: of this package; `format`: of this file; `references`: the floors and the ceiling between
    which the figures of expressions stand; `identity`, `provenance`: what all parts of the run were made of, and each
    way in which they were made, as far as known.
    """

    text_processor: str
    alpha: float | None
    mIoU: float | None
    threshold: float | None
    headline: int
    scored: str
    n: int
    n_scored: int
    n_unscored: int
    n_failed: int
    failures: Mapping[str, int]
    n_fallback: Mapping[str, int]
    n_bound: int
    seconds: float
    dataset: str
    split: str | None
    model: str
    model_name: str
    captioner: str
    note: str | None
    overrides: Sequence[str]
    config_hash: str
    version: str
    format: int = FORMAT
    variants: Sequence[VariantFigures]
    references: tuple[Reference, ...] = ()
    identity: Identity | None = None
    provenance: tuple[Provenance, ...] = ()

    @property
    def command(self) -> str:
        """The command that made the run: "score" where another system's predictions were given, else "run"."""
        return "score" if any(word.startswith("predictions=") for word in self.overrides) else "run"

    @property
    def head(self) -> VariantFigures:
        """The figures of the variant that heads the run."""
        return self.variants[self.headline]

    def variant(self, label: str) -> VariantFigures | None:
        """The figures of the variant with this label, None where the run has none."""
        return next((v for v in self.variants if v.label == label), None)


def encode_summary(summary: Summary) -> str:
    """summary.json's text. Raises ValueError for a figure that is no number, which JSON does not know."""
    return json.dumps(msgspec.to_builtins(summary), indent=2, allow_nan=False) + "\n"


def read_summary(folder: Path) -> Summary:
    """The summary in a run's folder. Raises UserError where there is none or it is not of this version's form."""
    file = folder / NAME
    try:
        return msgspec.json.decode(file.read_bytes(), type=Summary)
    except OSError as error:
        raise UserError(f"no finished run at '{folder}': cannot read {NAME} ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # no summary, no UTF-8, nested without end
        raise UserError(
            f"'{file}' is no summary that this version writes ({error}); remove the folder, then run it again"
        ) from error
