"""THE shared core: images and expressions in, heat maps out. No Hydra, no tracker, no files.

model = load_model("attrbind_exp/assets/bundled")
segmenter = Segmenter(model, TextProcessor(model.tokenizer, model.encode_text))
heat = segmenter([image], ["the white star"], variant=Variant("ours", replace=True, alpha=0.9))[0]
mask = heat.mask(0.4)
"""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from attrbind_exp.diffusion.attention import choose_layers, find_layers, record
from attrbind_exp.diffusion.model import VAE_OVERFLOW, DiffusionModel, fill, overflowed
from attrbind_exp.segmentation import score_map
from attrbind_exp.text.processor import TextProcessor
from attrbind_exp.types import BoundPrompt, HeatMap, MapSettings, SampleError, UserError, Variant

BASELINE = Variant("baseline")


class Segmenter:
    """A model, a text processor and map settings, ready to segment.

    Raises UserError when settings name a timestep, ratio or block that the model does not have.
    """

    def __init__(self, model: DiffusionModel, text: TextProcessor, settings: MapSettings = MapSettings()):
        self.model, self.text, self.settings = model, text, settings
        self.layers = choose_layers(find_layers(model.unet), settings.ratios, settings.blocks)
        ratios = sorted({x.ratio for x in self.layers if x.cross})
        self.weights = dict(settings.weights or dict.fromkeys(ratios, 1.0))
        if missing := [r for r in ratios if r not in self.weights]:
            raise UserError(
                f"attention_layers.weights has no weight for ratio {missing[0]}; give one for each of {ratios}"
            )
        if not all(self.weights[r] >= 0 for r in ratios) or not any(self.weights[r] for r in ratios):
            given = {r: self.weights[r] for r in ratios}
            raise UserError(
                f"weights {given} of the chosen resolutions; give attention_layers.weights >= 0, one above 0"
            )
        last = model.scheduler.config.num_train_timesteps - 1
        if not settings.timesteps or not all(0 <= t <= last for t in settings.timesteps):
            raise UserError(f"model.timesteps={list(settings.timesteps)}; give one or more between 0 and {last}")
        if settings.draws < 1:
            raise UserError(f"model.draws={settings.draws}; give 1 or more")

    def __call__(
        self,
        images: Sequence[Image.Image],
        expressions: Sequence[str],
        variant: Variant = BASELINE,
        image_ids: Sequence[str] | None = None,
    ) -> list[HeatMap]:
        """Heat maps of expressions[i] on images[i] (RGB), one a pair, each at its image's own size.

        `image_ids` key the noise; by default an image's number in the list does. Raises SampleError "vae_overflow" or
        "not_finite" where half precision was too little for a picture.
        """
        ids = list(image_ids) if image_ids else [str(i) for i in range(len(images))]
        bound = [row[0] for row in self.text.bind(self.text.prepare(expressions), [variant])]
        latents = self.model.encode_images(images)
        if any(bad := overflowed(latents)):
            raise SampleError("vae_overflow", f"image '{ids[bad.index(True)]}': {VAE_OVERFLOW}")
        completed = self.complete(latents, ids, bound)
        if any(bad := overflowed(completed)):
            message = f"image '{ids[bad.index(True)]}': its map is not finite; try model.dtype=bf16 or fp32"
            raise SampleError("not_finite", message)
        sizes = [(image.height, image.width) for image in images]
        return [self.heat_map(row, size) for row, size in zip(completed, sizes, strict=True)]

    @torch.no_grad()
    def complete(
        self, latents: Tensor, image_ids: Sequence[str], bound: Sequence[BoundPrompt], seed: int | None = None,
        batch_size: int = 1,
    ) -> Tensor:  # fmt: skip
        """Completed score maps (B, h, w) of B bound prompts on B latents (B, C, h, w); one UNet pass a timestep and
        draw. They are what a heat map is made of, before its image's size comes in. `seed` of the noise, if it is not
        to be the settings' own; `batch_size`: the pass has as many rows at least (see `fill`)."""
        count, rows = len(bound), max(len(bound), batch_size)
        embeddings = fill(torch.stack([b.embedding for b in bound]), rows).to(self.model.device, self.model.dtype)
        weights = fill(torch.stack([b.weights for b in bound]), rows).to(self.model.device)
        grid = (latents.shape[-2], latents.shape[-1])
        passes = [(t, draw) for t in self.settings.timesteps for draw in range(self.settings.draws)]
        total = torch.zeros(rows, *grid, device=self.model.device)
        for timestep, draw in passes:
            noisy = self.model.add_noise(
                latents, image_ids, timestep, draw, self.settings.seed if seed is None else seed
            )
            with record(self.model.unet, self.layers, weights) as attention:
                self.model.denoise(fill(noisy, rows), timestep, embeddings)
            score = score_map.initial_score_map(attention.cross, self.weights, grid)
            total += score_map.complete(score, attention.full)
        return total[:count] / len(passes)

    @staticmethod
    def heat_map(completed: Tensor, size: tuple[int, int]) -> HeatMap:
        """One completed map (h, w) at an image's (height, width)."""
        return HeatMap(score_map.heat_map(completed[None], size)[0].cpu().numpy())
