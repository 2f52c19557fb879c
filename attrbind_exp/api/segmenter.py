"""A loaded model that segments pictures by expressions."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, overload

from PIL import Image
from torch import Tensor

from attrbind_exp.api.choices import EditChoice, check_alpha, read_edits
from attrbind_exp.api.inputs import EXAMPLE, Picture, pair_up, read_input
from attrbind_exp.api.result import Comparison, Result
from attrbind_exp.backbones.backbone import encode_images
from attrbind_exp.backbones.tensors import overflowed
from attrbind_exp.config.settings import ModelSettings, model_warning
from attrbind_exp.config.variants import check_different, step_and_refine
from attrbind_exp.edits import Edit, Variant
from attrbind_exp.edits.chain import EditedPrompt
from attrbind_exp.edits.variant import edits_label
from attrbind_exp.heatmaps.refinement import Refinement, refine_picture
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.types import Prompt, UserError

Texts: TypeAlias = list[str] | tuple[str, ...]

USUAL = "diffsegmenter"  # the reading that labels do not name
NOISE = "0"  # keys it: every picture gets the same, whatever comes with it, and the same as in the command segment


class LoadedSegmenter:
    """What `load_segmenter` returns: call it with pictures and expressions.

    `core`: the segmenter that makes the heat maps; `model`: where the model lies and what it is called; `edit` and
    `alpha`: taken where a call names none; `refinement`: of the heat maps, None = they stay as they were read.
    """

    def __init__(
        self,
        core: Segmenter,
        model: ModelSettings,
        edit: EditChoice,
        alpha: float,
        refinement: Refinement | None = None,
    ):
        self.core, self.model, self.edit, self.alpha, self.refinement = core, model, edit, alpha, refinement
        self._warned = False

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self, image: Picture, text: str, *, edit: EditChoice | None = None, alpha: float | None = None
    ) -> Result: ...
    @overload
    def __call__(
        self, image: Picture, text: Texts, *, edit: EditChoice | None = None, alpha: float | None = None
    ) -> list[Result]: ...
    @overload
    def __call__(
        self,
        image: Sequence[Picture],
        text: str | Texts,
        *,
        edit: EditChoice | None = None,
        alpha: float | None = None,
    ) -> list[Result]: ...
    def __call__(
        self, image: object, text: object, *, edit: EditChoice | None = None, alpha: float | None = None
    ) -> Result | list[Result]:
        """Where the model sees what the expression names.

            segmenter("photo.jpg", "white dog")                       # a Result
            segmenter("photo.jpg", ["white dog", "black dog"])        # a list of them; the picture is encoded once
            segmenter(["a.jpg", "b.jpg"], "white dog")                # a list
            segmenter(["a.jpg", "b.jpg"], ["white dog", "the cat"])   # a list, pair by pair

        `image`: a path, a picture of PIL's, an array (H, W), (H, W, 3) or (H, W, 4) of uint8 or of floats from 0 to 1,
        a tensor (3, H, W) of the same, or a list of these. `text`: one expression, or a list. `edit` and `alpha`: as in
        `load_segmenter`, for this call. Raises UserError for what is no picture, for an expression that names nothing,
        and for lists that do not go together.
        """
        variant = Variant("this", self._edits([edit], alpha)[0])
        images, pairs, several = pair_up(image, text)
        found = [row[0] for row in self._segment(images, pairs, [variant])]
        return found if several else found[0]

    def compare(
        self,
        image: Picture,
        text: str,
        edits: Sequence[EditChoice] = ("baseline", "ncr", "ncr+uea"),
        *,
        alpha: float | None = None,
    ) -> Comparison:
        """One expression on one picture under several edits, from the same noise.

            segmenter.compare("photo.jpg", "white dog", edits=["baseline", "ncr+uea", Averaging(0.5)]).show()

        Raises UserError as a call does, and for edits that stand twice.
        """
        images, pairs, several = pair_up(image, text)
        if several:
            raise UserError("compare takes one picture and one expression; call it once for each")
        choices = [edits] if isinstance(edits, str) else list(edits)
        if not choices:
            raise UserError('no edits to compare; give some, such as edits=["baseline", "ncr+uea"]')
        chains = self._edits(choices, alpha)
        names = [c if isinstance(c, str) else edits_label(e) for c, e in zip(choices, chains, strict=True)]
        variants = [Variant(name, chain) for name, chain in zip(names, chains, strict=True)]
        check_different(variants)
        return Comparison(dict(zip(names, self._segment(images, pairs, variants)[0], strict=True)))

    def __repr__(self) -> str:
        return f"LoadedSegmenter({self.model.name!r}, edit={self.edit!r}, alpha={self.alpha:g})"

    def _edits(self, choices: Sequence[EditChoice | None], alpha: float | None) -> list[tuple[Edit, ...]]:
        """The edits of each choice. Raises UserError for an alpha that none of them would hear."""
        given = [self.edit if choice is None else choice for choice in choices]
        if alpha is not None and all(read_edits(c, 0) == read_edits(c, 1) for c in given):
            raise UserError(f"alpha={alpha} changes nothing: it belongs to 'uea'; add it to the edit, as in 'ncr+uea'")
        return [read_edits(choice, self.alpha if alpha is None else check_alpha(alpha)) for choice in given]

    def _segment(
        self, pictures: Sequence[object], pairs: Sequence[tuple[int, str]], variants: Sequence[Variant]
    ) -> list[list[Result]]:
        """Every pair of a picture's number and an expression under every variant."""
        if not pairs:
            return []
        read = [read_input(picture) for picture in pictures]
        self._warn([name for _, name in read])
        owners = [owner for owner, _ in pairs]
        variants = step_and_refine(variants, self.core.latent_steps, self.refinement)
        if (reading := next(iter(self.core.methods))) != USUAL:  # else two readings' pictures look alike
            variants = [replace(variant, heatmap=reading) for variant in variants]
        edited = self.core.edit(self._prompts([text for _, text in pairs]), variants)
        completed = self._complete(read, owners, edited)
        gated = all(edit.gated for variant in variants for edit in variant.edits)
        return [
            [
                self._result(*read[owner], item.prompt, v, maps[n], gated)
                for n, v in zip(item.index, variants, strict=True)
            ]
            for owner, item, maps in zip(owners, edited, completed, strict=True)
        ]

    def _prompts(self, texts: Sequence[str]) -> list[Prompt]:
        """Raises UserError for an expression without a word that could be found in a picture."""
        prompts = self.core.prepare(texts)
        for text, prompt in zip(texts, prompts, strict=True):
            if not prompt.q or "no_target" in prompt.fallbacks:
                raise UserError(f"expression={text!r} names nothing; say what to segment, such as {EXAMPLE!r}")
        return prompts

    def _complete(
        self, read: Sequence[tuple[Image.Image, str]], owners: Sequence[int], edited: Sequence[EditedPrompt]
    ) -> list[list[Tensor]]:
        """For each edited prompt, on the picture of that number, the completed maps (C, h, w) of its embeddings. A pass
        has as many rows as the model allows, or fewer."""
        latents = encode_images(self.core.backbone, [image for image, _ in read])
        _check_finite(latents, read, range(len(read)))
        prompts, ids, size = [item.prompt for item in edited], [NOISE] * len(read), self.model.batch_size
        relative = self.core.compare_texts(latents, ids, prompts, owners, self.core.settings.seed, size)
        rows = [
            (owner, item.prompt, embedding, {} if embedding.blind else found)
            for owner, item, found in zip(owners, edited, relative, strict=True)
            for embedding in item.embeddings
        ]
        mine, texts, embeddings, weights = zip(*rows, strict=True)
        made = self.core.complete_in_parts(latents, ids, texts, embeddings, mine, size, weights)
        _check_finite(made, read, mine)
        waiting = iter(made)
        return [[next(waiting) for _ in item.embeddings] for item in edited]

    def _result(
        self, image: Image.Image, name: str, prompt: Prompt, variant: Variant, completed: Tensor, gated: bool
    ) -> Result:
        """One result; its `about` says where edits cannot act, since all are `gated`, and which rules were fallen back
        on."""
        heat = self.core.heat_map(completed, (image.height, image.width))
        if self.refinement is not None:
            heat = refine_picture(self.refinement, heat, image, name, prompt.parse.text)
        about = [Path(name).name or "picture", f"model {self.model.name}"]
        about += ["edits change nothing here"] if gated and not prompt.bind else []
        about += [f"fallback: {', '.join(prompt.fallbacks)}"] if prompt.fallbacks else []
        return Result(image, prompt.parse.text, heat.values, prompt, variant.label, "; ".join(about))

    def _warn(self, names: Sequence[str]) -> None:
        """Say once what a model cannot know of these pictures."""
        found = [warning for name in names if (warning := model_warning(self.model.path, name))]
        if found and not self._warned:
            self._warned = True
            warnings.warn(f'{found[0]}; for photos: load_segmenter("sd15")', stacklevel=4)


def _check_finite(values: Tensor, read: Sequence[tuple[Image.Image, str]], owners: Sequence[int]) -> None:
    """Raise UserError where a row (B, ...), of the picture owners[i], is not finite."""
    if any(bad := overflowed(values)):
        owner = owners[bad.index(True)]
        name = read[owner][1] or f"number {owner + 1}"
        raise UserError(f'picture \'{name}\': half precision overflows; give dtype="bf16" or "fp32" to load_segmenter')
