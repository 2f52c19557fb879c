"""What a run compares: every method of edits, under every alpha, read in every way."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from attrbind_exp.config.latents import latent_steps
from attrbind_exp.config.refinement import read_refinement
from attrbind_exp.edits import TextBlind, Variant
from attrbind_exp.edits.variant import BASELINE, TEXT_BLIND, described, is_floor
from attrbind_exp.heatmaps.refinement import Refinement
from attrbind_exp.latent_steps.method import LatentSteps
from attrbind_exp.paths import options
from attrbind_exp.types import UserError

EditNode = Mapping[str, Any]  # one edit of a configuration: _target_ and its fields
MethodNode = Mapping[str, Any]  # its name and edits


def variants(cfg: DictConfig) -> tuple[list[Variant], int]:
    """The variants of a run and the number of the one that heads its summary.

    There is one for every method of text_processor.methods, every alpha of it, every heat-map method and every choice
    of layers that the run compares; behind them the text-blind floor. The headline is the method text_processor.report
    (the last where that is null) at alpha.report, read in the first way. Raises UserError where two variants would
    carry the same name or label.
    """
    methods = compared_methods(cfg)
    heatmaps = list(cfg.heatmap) if len(cfg.heatmap) > 1 else [None]
    choices: list[str | None] = [*grid_of(cfg)] or [None]
    head = cfg.text_processor.get("report") or methods[-1]["name"]
    found = [
        Variant(method["name"], tuple(instantiate(edits, _convert_="all")), alpha, heatmap, layers)
        for method in methods
        for alpha, edits in by_alpha(method.get("edits") or [])
        for heatmap in heatmaps
        for layers in choices
    ]
    found += text_blind(cfg, found)
    found = step_and_refine(found, latent_steps(cfg), read_refinement(cfg))
    check_different(found)
    first = (found[0].heatmap, found[0].layers)
    candidates = [i for i, v in enumerate(found) if v.method == head and (v.heatmap, v.layers) == first]
    if not candidates:
        raise UserError(
            f"text_processor.report='{head}' is no method; choose from {', '.join(m['name'] for m in methods)}"
        )
    wanted = OmegaConf.select(cfg, "alpha.report")
    return found, next((i for i in candidates if found[i].alpha == wanted), candidates[-1])


def compared_methods(cfg: DictConfig) -> list[MethodNode]:
    """The methods of a run: text_processor.methods, behind the baseline where these run through several alphas and none
    of them is without edits: what an alpha gains is its difference to the baseline, not to another alpha. Raises
    UserError for a method that is none."""
    methods: Any = OmegaConf.to_container(cfg.text_processor.methods, resolve=True)
    for method in methods:
        if not {"name"} <= set(method) <= {"name", "edits"}:
            raise UserError(
                f"text_processor.methods holds {method}; give each a name and a list of edits, nothing else"
            )
        chain = method.get("edits") or []
        if not isinstance(chain, list) or not all(isinstance(edit, dict) and "_target_" in edit for edit in chain):
            raise UserError(
                f"the edits of '{method['name']}' in text_processor.methods are {chain}; give a list of them, such as "
                "[{_target_: FILE.CLASS}]"
            )
    edits = [method.get("edits") or [] for method in methods]
    several = any(isinstance(edit.get("alpha"), list) and len(edit["alpha"]) > 1 for chain in edits for edit in chain)
    return methods if not several or [] in edits else [{"name": BASELINE, "edits": []}, *methods]


def has_baseline(cfg: DictConfig) -> bool:
    """Whether a run measures the prompt without any edit."""
    return any(not method.get("edits") for method in compared_methods(cfg))


def text_blind(cfg: DictConfig, found: Sequence[Variant]) -> list[Variant]:
    """The text-blind floor of a run, once for every way of reading: where the key text_blind asks for it (a run's does)
    and the baseline is measured, so that a sweep measures it once; none where the run compares it already."""
    wanted = cfg.get("text_blind", False) and not any(is_floor(v.label) for v in found)
    plain = [v for v in found if not v.edits] if wanted else []
    return [replace(v, method=TEXT_BLIND, edits=(TextBlind(),)) for v in plain]


def step_and_refine(
    found: Sequence[Variant], steps: LatentSteps | None, refinement: Refinement | None
) -> list[Variant]:
    """The variants as those of a run that takes these steps on its latents and refines its heat maps. The text-blind
    floor takes no steps."""
    latents = steps.label if steps else None
    refine = described(refinement) if refinement else None
    return [replace(v, latents=None if is_floor(v.label) else latents, refine=refine) for v in found]


def check_different(variants: Sequence[Variant]) -> None:
    """Raise UserError where two variants have the same label or cannot be told apart in the rows."""
    labels = [v.label for v in variants]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        names = ", ".join(dict.fromkeys(f"'{v.method}'" for v in variants if v.label == twice))
        raise UserError(f"variant '{twice}' stands twice (methods: {names}); list the same edits and alpha once")
    rows = [(v.name, v.alpha) for v in variants]
    if same := next((row for row in rows if rows.count(row) > 1), None):
        raise UserError(f"two different methods are called '{same[0]}'; give each a name of its own")


def by_alpha(edits: Sequence[EditNode]) -> list[tuple[float | None, list[EditNode]]]:
    """The edits of a method once for every alpha: where an edit's `alpha` is a list, each of its values in turn.

    The alpha is the first edit's that has one, None where none has. Raises UserError for one that is no number >= 0.
    """
    lists = [edit["alpha"] for edit in edits if isinstance(edit.get("alpha"), list)]
    chosen: list[tuple[float | None, list[EditNode]]] = []
    for place in range(len(lists[0])) if lists else [0]:
        now, alphas = [], []
        for edit in edits:
            if "alpha" in edit:
                alpha = edit["alpha"][place] if isinstance(edit["alpha"], list) else edit["alpha"]
                if not is_real(alpha) or alpha < 0:
                    known = ", ".join(options("alpha"))
                    raise UserError(f"alpha={alpha}; give a finite number >= 0 (paper: 0.9), or one of {known}")
                alphas.append(float(alpha))
                edit = {**edit, "alpha": float(alpha)}
            now.append(edit)
        chosen.append((alphas[0] if alphas else None, now))
    return chosen


def is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def grid_of(cfg: DictConfig) -> list[str]:
    """Names of the choices of layers that a run compares, none where it has one. Raises UserError for unknown ones."""
    names = list(cfg.attention_layers.get("grid") or [])
    known = [name for name in options("attention_layers") if name != "grid"]
    if unknown := next((name for name in names if name not in known), None):
        raise UserError(f"attention_layers.grid holds {unknown!r}; choose from {', '.join(known)}")
    return names
