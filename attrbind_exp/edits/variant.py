"""One thing that a run compares, and its label: the only place where labels are made."""

import re
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

from attrbind_exp.edits.averaging import Averaging
from attrbind_exp.edits.edit import Edit
from attrbind_exp.edits.noun_chunk import NounChunk

BASELINE = "baseline"  # the label of no edits at all
TEXT_BLIND = "text_blind"  # that of edits.TextBlind
OURS = (BASELINE, TEXT_BLIND, "attribute_binding", "noun_chunk", "uncond_average")  # how labels of our own begin


@dataclass(frozen=True)
class Variant:
    """One thing that a run compares: edits of the text embedding, and a way of reading attention.

    `method`: the name of the edits in the configuration, by which rows are found; `edits`: applied one after the other,
    none for the baseline; `alpha`: what tells variants of one method apart; `heatmap`: the heat-map method that reads
    it, None where the run has a single one; `layers`: which of MapSettings.grid makes its map, None = the settings' own
    choice; `latents`: the steps on noisy latents that its run takes, such as "syngen x3"; `refine`: what is done to its
    heat maps before they are scored, None = nothing; `system`: the name of another system whose predictions are scored,
    which edits and reads nothing of ours.
    """

    method: str
    edits: tuple[Edit, ...] = ()
    alpha: float | None = None
    heatmap: str | None = None
    layers: str | None = None
    system: str | None = None
    latents: str | None = None
    refine: str | None = None

    @property
    def name(self) -> str:
        """The method, and how it is read where a run compares several ways: "baseline layers=up". Rows carry it."""
        return " ".join([self.method, *self._reading])

    @property
    def label(self) -> str:
        """What tables, pages and trackers call it: "attribute_binding alpha=0.9 layers=up". It is made of the edits, so
        that the same edits have the same label in every run, whatever the configuration calls them. Another system's is
        its name."""
        stepped = ["+", self.latents] if self.latents else []
        return " ".join([self.system or edits_label(self.edits), *stepped, *self._reading])

    @property
    def edit(self) -> tuple[str, float | None]:
        """Method and alpha: variants that share both share their passes."""
        return self.method, self.alpha

    @property
    def _reading(self) -> list[str]:
        read = {"heatmap": self.heatmap, "layers": self.layers, "refine": self.refine}
        return [f"{key}={value}" for key, value in read.items() if value]


def is_floor(label: str) -> bool:
    """Whether a label is that of the text-blind floor, however it is read: shown beside variants, but no rival. Where
    only a part of the pass is blind ("text_blind where=read") it is none."""
    words = label.split(" ")
    return words[0] == TEXT_BLIND and not any(word.startswith("where=") for word in words)


def split_reading(label: str) -> tuple[str, str | None]:
    """A label's edits and the reading that it names: "merge heatmap=daam" is ("merge", "daam"); None where a run has a
    single reading and its labels name none."""
    match = re.search(r" heatmap=(\S+)", label)
    return (label, None) if match is None else (label[: match.start()] + label[match.end() :], match[1])


def is_plain(label: str) -> bool:
    """Whether a label is that of the prompt without any edit, read on noisy latents as they are, its heat maps not
    refined."""
    words = label.split(" ")
    return words[0] == BASELINE and words[1:2] != ["+"] and not is_refined(label)


def has_latent_steps(label: str) -> bool:
    """Whether a label says that noisy latents were stepped on before they were read: "baseline + syngen x3"."""
    return re.search(r" \+ \w+ x\d+( |$)", label) is not None


def plain_label(label: str) -> str:
    """The label of the same edits and reading on noisy latents as they are, heat maps not refined."""
    unrefined = label.partition(" refine=")[0]  # constants of a refinement are behind it
    return re.sub(r" \+ \w+ x\d+( (?!heatmap=|layers=)\w+=\S+)*", "", unrefined)


def is_refined(label: str) -> bool:
    """Whether a label is that of refined heat maps (heatmaps/refinement.py), which stand apart from plain ones."""
    return refinement_in(label) is not None


def refinement_in(label: str) -> str | None:
    """How a label says that heat maps were refined, without constants: "refine=guided_filter"; None where it does
    not."""
    return next((word for word in label.split(" ") if word.startswith("refine=")), None)


def is_ours(name: str) -> bool:
    """Whether a name begins as a label of our own edits does, so that no other system may have it."""
    return name.startswith(OURS)


def find_shorter(variants: Sequence[Variant]) -> list[int | None]:
    """For each variant of two edits or more the number of the one without its last edit, read in the same way: what its
    own gain must be told apart from. None where there is none."""
    numbers = {(v.edits, v.heatmap, v.layers): number for number, v in enumerate(variants)}
    return [numbers.get((v.edits[:-1], v.heatmap, v.layers)) if len(v.edits) > 1 else None for v in variants]


def edits_label(edits: Sequence[Edit]) -> str:
    """A short name of some edits: each one's kind and the fields that differ from their defaults, joined by " + ".

    No edits are the "baseline"; the paper's two together are "attribute_binding". "_prefixed" says that a noun chunk
    was encoded behind the prompt's "a photograph of".
    """
    if not edits:
        return BASELINE
    both = tuple(type(edit) for edit in edits) == (NounChunk, Averaging) and all(e.where == "both" for e in edits)
    if both:
        return described(edits[0]).replace("noun_chunk", "attribute_binding") + _values(edits[1])
    return " + ".join(map(described, edits))


def described(edit: object) -> str:
    """Such as "noun_chunk_prefixed", "uncond_average alpha=0.9", "weight weight=1.2 words=chunk"."""
    if type(edit) is NounChunk:
        return ("noun_chunk" if edit.prefix == "none" else "noun_chunk_prefixed") + _values(edit, ("prefix",))
    kind = "uncond_average" if type(edit) is Averaging else _snake_case(type(edit).__name__)
    return kind + _values(edit)


def _values(edit: Any, told: Sequence[str] = ()) -> str:
    """Such as " alpha=0.9 uncond=eos where=keys": the fields that differ from their defaults, less those `told`."""
    names = sorted((f for f in fields(edit) if f.compare), key=lambda f: f.name == "where")
    given = {f.name: getattr(edit, f.name) for f in names if f.name not in told}
    usual = {f.name: _default(f) for f in names}
    return "".join(f" {name}={_shown(value)}" for name, value in given.items() if value != usual[name])


def _default(field: Field) -> object:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _shown(value: object) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
