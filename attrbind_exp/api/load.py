"""A segmenter in one line."""

import os
from dataclasses import replace
from pathlib import Path

import torch

from attrbind_exp.api.choices import (
    OWN,
    EditChoice,
    check_alpha,
    check_made,
    known,
    read_edits,
    read_latent_steps,
    read_refine,
)
from attrbind_exp.api.segmenter import LoadedSegmenter
from attrbind_exp.commands.build import build_segmenter
from attrbind_exp.config.by_name import settings_by_name
from attrbind_exp.edits.variant import described
from attrbind_exp.heatmaps.method import HeatMapMethod
from attrbind_exp.heatmaps.refinement import Refinement
from attrbind_exp.latent_steps.method import LatentSteps
from attrbind_exp.paths import options
from attrbind_exp.types import LayerChoice

PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def load_segmenter(
    model: str | os.PathLike[str] = "bundled",
    *,
    edit: EditChoice = "ncr+uea",
    alpha: float = 0.9,
    heatmap: str | HeatMapMethod = "diffsegmenter",
    layers: str | LayerChoice = "all",
    latent_steps: str | LatentSteps = "none",
    refine: str | Refinement = "none",
    seed: int = 0,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
) -> LoadedSegmenter:
    """Load a model that segments pictures by expressions.

        from attrbind_exp import load_segmenter

        segmenter = load_segmenter()
        result = segmenter("photo.jpg", "white dog playing with two black dogs")
        result.save("out.png")
        mask = result.mask(threshold=0.5)

    `model`: an option of conf/model ("bundled", which knows drawn shapes alone, "sd14", "sd15", "sd21", "sd21_base"),
    or the folder or Hugging Face name of any other Stable Diffusion 1.x or 2.x. Nothing is fetched: the error for a
    model that is not there is the command that fetches it.

    `edit`: how the embedding of the text is edited, words joined by "+": "baseline" (no edit), "ncr" (noun chunk
    replacement), "ncr_prefixed" (with "a photograph of" kept before the chunk), "uea" (unconditioned embedding
    averaging), or an edit of other people ("tome", "magnet", ..: docs/edits.md). The names that tables have do as well,
    and so do Edit objects: (NounChunk(), Averaging(0.9)) is the default, the paper's method. `alpha`: UEA's weight of
    the text, 1 changes nothing.

    `heatmap`: how attention is read, an option of conf/heatmap ("diffsegmenter", "daam", "ovam", "iseg", ..:
    docs/readings.md) or a HeatMapMethod such as Daam(), which may be of a class of your own. `layers`: which
    cross-attention is read, an option of conf/attention_layers ("all", "half", "up", ..) or a LayerChoice.

    `latent_steps`: gradient steps on the noisy latents before they are read, an option of conf/latent_steps ("none",
    "syngen", ..: docs/latent-steps.md), "syngen x3" for three of them, or a LatentSteps such as Syngen(3, size=1.0).
    `refine`: what is done to heat maps, an option of conf/refine ("none", "guided_filter": docs/refinement.md) or a
    Refinement such as GuidedFilter(radius=4). RefdiffHeat("FOLDER") finds proposals by the name of a picture's file.

    `seed`: of the noise, the same for every picture. `device`: "auto" is CUDA where there is one. `dtype`: "fp32",
    "fp16", "bf16", or torch's; "auto" is fp16 on CUDA, fp32 on a CPU.

    Raises UserError for a value that is none of these, with the choices.
    """
    read_edits(edit, check_alpha(alpha))
    name, path = _find_model(model)
    if isinstance(heatmap, HeatMapMethod):
        reading = "diffsegmenter"
    else:
        reading = known("heatmap", check_made("heatmap", heatmap), options("heatmap"), OWN)
    if isinstance(layers, str):
        known("layers", layers, [option for option in options("attention_layers") if option != "grid"])
    precision = PRECISIONS.get(dtype, str(dtype)) if isinstance(dtype, torch.dtype) else dtype
    settings = settings_by_name(name, path, reading, layers, seed, str(device), precision)
    if isinstance(heatmap, HeatMapMethod):
        settings = replace(settings, make_methods=lambda: {_reading_name(heatmap): heatmap})
    settings, refinement = replace(settings, latent_steps=read_latent_steps(latent_steps)), read_refine(refine)
    return LoadedSegmenter(build_segmenter(settings), settings.model, edit, alpha, refinement)


def _reading_name(method: HeatMapMethod) -> str:
    """What labels call a reading: as an option of its name does ("diffsegmenter"), and the fields that differ."""
    kind, *values = described(method).split(" ")
    option = kind.replace("_", "")
    return " ".join([option if option in options("heatmap") else kind, *values])


def _find_model(model: str | os.PathLike[str]) -> tuple[str, str | None]:
    """The option of conf/model, and the folder or hub name where that is another than the option's."""
    text = os.fspath(model)
    if isinstance(model, str) and text in options("model"):
        return text, None
    if "/" in text or Path(text).exists():
        return "sd15", str(Path(text).expanduser())
    also = ", or give the folder or the Hugging Face name (OWNER/NAME) of a Stable Diffusion"
    return known("model", text, options("model"), also), None
