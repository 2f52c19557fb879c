"""Words that people type for edits, latent steps and refinements, and what is said of a word that nobody knows."""

import re
from collections.abc import Collection, Sequence
from math import isfinite
from numbers import Real
from typing import TypeAlias, TypeVar

from attrbind_exp.config.by_name import field_edits, make_option, own_edits
from attrbind_exp.edits import Averaging, Edit, NounChunk
from attrbind_exp.edits.variant import BASELINE
from attrbind_exp.heatmaps.refinement import Refinement
from attrbind_exp.latent_steps.method import LatentSteps
from attrbind_exp.paths import options
from attrbind_exp.runs.shown import did_you_mean
from attrbind_exp.types import UserError

T = TypeVar("T")
EditChoice: TypeAlias = str | Edit | Sequence[str | Edit]

OWN = ", or one of your own: an object of its class in Python, else an option below --config-dir (docs/extend.md)"
STEPS, REFINE = "latent_steps", "refine"
NCR, NCR_PREFIXED, UEA = "ncr", "ncr_prefixed", "uea"
# What a word stands for: other words. The names that tables give to edits do as well as the paper's short ones.
WORDS = {
    BASELINE: (),
    NCR: (NCR,),
    "noun_chunk": (NCR,),
    NCR_PREFIXED: (NCR_PREFIXED,),
    "noun_chunk_prefixed": (NCR_PREFIXED,),
    UEA: (UEA,),
    "uncond_average": (UEA,),
    "attribute_binding": (NCR, UEA),
    "attribute_binding_prefixed": (NCR_PREFIXED, UEA),
}


def read_edits(choice: EditChoice, alpha: float) -> tuple[Edit, ...]:
    """The edits that a choice names, in order: words joined by "+", Edit objects, or a list of both. A word is one of
    WORDS, a name of text_processor=edits_of_the_field ("tome"), or of a method in the user's own folder (--config-dir).
    UEA mixes at `alpha`. Raises UserError for an unknown word."""
    if isinstance(choice, Edit):
        return (choice,)
    if isinstance(choice, list | tuple):
        return tuple(edit for part in choice for edit in read_edits(part, alpha))
    check_made("edit", choice)
    if not isinstance(choice, str):
        raise UserError(f"edit={choice!r}; give words such as 'ncr+uea', Edit objects, or a list of both")
    ours: dict[str, Edit] = {NCR: NounChunk(), NCR_PREFIXED: NounChunk("template"), UEA: Averaging(alpha)}
    chains = field_edits() | {word: tuple(ours[name] for name in names) for word, names in WORDS.items()}
    words = [_spelled(word) for word in choice.split("+")]
    if not chains.keys() >= set(words):  # perhaps a word of the user's own, whose files are not read before
        chains = {_spelled(name): edits for name, edits in own_edits(alpha).items()} | chains
    choices = list(dict.fromkeys([*WORDS, *chains]))
    return tuple(edit for word in words for edit in chains[known("edit", word, choices, OWN)])


def read_latent_steps(choice: str | LatentSteps) -> LatentSteps | None:
    """The steps that a choice names: an option of conf/latent_steps, behind it their number as tables have it ("syngen
    x3"), or a LatentSteps. None for "none". Raises UserError for an unknown word."""
    if isinstance(choice, LatentSteps):
        return choice
    counted = re.fullmatch(r"(\w+) x(\d+)", str(check_made(STEPS, choice)))
    word, given = (counted[1], {"steps": int(counted[2])}) if counted else (choice, {})
    also = "; three steps are 'syngen x3', or give a LatentSteps"
    found: LatentSteps | None = make_option(STEPS, known(STEPS, word, options(STEPS), also), **given)
    return found


def read_refine(choice: str | Refinement) -> Refinement | None:
    """The refinement that a choice names: an option of conf/refine, or a Refinement. None for "none". Raises UserError
    for an unknown word, and where something is missing that the refinement needs."""
    check_made(REFINE, choice)
    if isinstance(choice, Refinement):
        found: Refinement | None = choice
    else:
        found = make_option(REFINE, known(REFINE, str(choice), options(REFINE), ", or give a Refinement"))
    if found is not None:
        found.check()
    return found


def check_alpha(alpha: float) -> float:
    """The alpha as it is. Raises UserError unless it is a finite number >= 0."""
    real = isinstance(alpha, Real) and not isinstance(alpha, bool)  # numpy's numbers are real, too
    if not real or not isfinite(alpha) or alpha < 0:
        raise UserError(f"alpha={alpha!r}; give a finite number >= 0 (the paper's is 0.9)")
    return float(alpha)


def _spelled(word: str) -> str:
    return word.strip().lower().replace("-", "_")


def check_made(kind: str, choice: T) -> T:
    """The choice as it is. Raises UserError for a class where an object of it is wanted."""
    if isinstance(choice, type):
        raise UserError(f"{kind}={choice.__name__} is a class; give an object of it, {kind}={choice.__name__}()")
    return choice


def known(kind: str, word: str, choices: Collection[str], also: str = "") -> str:
    """The word as it is. Raises UserError unless it is one of the choices, with the nearest of them; `also`: what would
    do besides."""
    if word in choices:
        return word
    meant = did_you_mean(str(word), choices)
    raise UserError(f"unknown {kind} {word!r}; {meant}choose from {', '.join(choices)}{also}")
