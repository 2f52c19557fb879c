"""What a run was made of and made with, part by part: provenance.jsonl in its folder, a line a start.

Identity is what a figure depends on: it must agree where a run goes on, is used again or merged. Provenance may differ,
as after a requeue on another machine: every part of the run is written down, and readers are told of the difference.
Neither holds a path, a user's name or a variable of the environment.
"""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import msgspec

from attrbind_exp.runs.rows import ExpressionRow, ImageRow
from attrbind_exp.types import UserError

NAME = "provenance.jsonl"
ROWS = ", ".join(str(kind.__struct_config__.tag) for kind in (ExpressionRow, ImageRow))  # versions of the rows
COMMIT = 10  # digits of a commit for the eye
# Names for the eye, where they are not the field's own.
SHOWN = {
    "spacy": "spaCy",
    "spacy_model": "spaCy's model",
    "gpu": "GPU",
    "cuda": "CUDA",
    "cpu": "CPU's instructions",
    "rows": "version of the rows",
    "stored": "weights stored in",
}
OF_A_MODEL = ("torch", "diffusers", "transformers", "device", "gpu", "driver", "cuda", "cpu", "threads", "stored")


class Identity(msgspec.Struct, kw_only=True, frozen=True):
    """What a run's figures depend on; None = not known, which agrees with anything.

    `configuration`: config_hash; `data`: a digest of all annotations; `weights`: one of the model's files; `lora`: one
    of those of model.lora; `dtype`: the precision that passes were made in (fp32, fp16, bf16), never "auto"; `rows`:
    version of the rows; `version`: of this package, and so of the code that scores.
    """

    configuration: str
    data: str | None = None
    weights: str | None = None
    lora: str | None = None
    dtype: str | None = None
    rows: str = ROWS
    version: str

    def with_weights(self, digest: str | None) -> "Identity":
        """The same of other weights."""
        return msgspec.structs.replace(self, weights=digest)


class Provenance(msgspec.Struct, kw_only=True, frozen=True):
    """What a part of a run was made with; None where it is not known or there is none.

    `commit`: git's, of a checkout of this package; `changed`: whether files that git knows were changed in it;
    `source`: a digest of the code that can change a figure. `spacy_model`: name and version. `device`: cpu, cuda;
    `gpu`: its name; `driver`, `cuda`: versions of the GPU's driver and of CUDA; `cpu`: the instructions that torch
    uses; `threads` of the host that share an operation; `stored`: the precision that the weights' files are in.
    """

    commit: str | None = None
    changed: bool | None = None
    source: str | None = None
    python: str | None = None
    torch: str | None = None
    diffusers: str | None = None
    transformers: str | None = None
    numpy: str | None = None
    spacy: str | None = None
    spacy_model: str | None = None
    device: str | None = None
    gpu: str | None = None
    driver: str | None = None
    cuda: str | None = None
    cpu: str | None = None
    threads: int | None = None
    stored: str | None = None


class Part(msgspec.Struct, kw_only=True, frozen=True):
    """One start of a run: when that was (UTC), what it made its rows of, and with what."""

    started: str
    identity: Identity
    provenance: Provenance


def read_parts(folder: Path) -> list[Part]:
    """The parts of a run, in order; none where its folder does not say. A torn last line is left out.

    Raises UserError, naming file and line, for a line that is no part.
    """
    file, found = folder / NAME, []
    try:
        lines = file.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read '{file}': {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        try:
            found.append(msgspec.json.decode(line, type=Part))
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"'{file}' line {number} is nothing that this version writes ({error}); remove the folder and run again"
            ) from error
    return found


def encode_parts(parts: Iterable[Part]) -> str:
    """The text of provenance.jsonl."""
    return "".join(msgspec.json.encode(part).decode() + "\n" for part in parts)


def summed(parts: Sequence[Part]) -> tuple[Identity | None, tuple[Provenance, ...]]:
    """The identity of a run's parts, None where there are none, and what they were made with: each once, the last
    part's last."""
    backwards = dict.fromkeys(part.provenance for part in reversed(parts))
    return (parts[-1].identity if parts else None), tuple(backwards)[::-1]


def told(of: Identity | Provenance, without: Collection[str] = ()) -> dict[str, str]:
    """What it says, by name, for the eye, the fields `without` left out; commit and state of the tree are one. "none"
    where nothing is known."""
    values = {name: getattr(of, name) for name in of.__struct_fields__ if name not in without}
    if values.pop("changed", None):
        values["commit"] = f"{str(values['commit'])[:COMMIT]}, changed"
    elif values.get("commit"):
        values["commit"] = values["commit"][:COMMIT]
    return {SHOWN.get(name, name): "none" if value is None else str(value) for name, value in values.items()}


def differences(before: Identity | Provenance, now: Identity | Provenance) -> list[str]:
    """In what two of a kind differ: "torch 2.12.1 / 2.13.0". What one Identity does not know is no difference."""
    one, other = told(before), told(now)
    unknown = "none" if isinstance(before, Identity) else None
    return [
        f"{name} {one[name]} / {other[name]}"
        for name in one
        if one[name] != other[name] and unknown not in (one[name], other[name])
    ]


def check_same(before: Identity, now: Identity, what: str) -> None:
    """Raise UserError where two identities differ, saying in what; `what` is the beginning of the line."""
    if found := differences(before, now):
        raise UserError(
            f"{what}: {', '.join(found)} (before / now); put back what was there before, or remove the folder and "
            "start anew"
        )


def in_short(identity: Identity | None, provenance: Sequence[Provenance]) -> str:
    """One line on what a run was made with, of its last part; empty where nobody says. Where there was no precision, no
    model made anything, and no device is named."""
    if identity is None or not provenance:
        return ""
    last = told(provenance[-1])
    code = f"attrbind_exp {identity.version}" + ("" if last["commit"] == "none" else f" at {last['commit']}")
    device = last["device"] if last["GPU"] == "none" else last["GPU"]
    computed = f"; {device}, {identity.dtype}" if identity.dtype else ""
    parts = f"; in {len(provenance)} parts that differ (provenance.jsonl)" if len(provenance) > 1 else ""
    return f"made with {code}{computed}{parts}"
