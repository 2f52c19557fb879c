"""THE shared core: images and expressions in, heat maps out. No Hydra, no tracker, no files.

model = load_model("attrbind_exp/assets/bundled")
segmenter = Segmenter(model, TextProcessor(model.tokenizer, model.encode_text))
heat = segmenter([image], ["the white star"], variant=Variant("ours", replace=True, alpha=0.9))[0]
mask = heat.mask(0.4)
"""

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

from attrbind_exp.backbones.capture import Recording, find_available, find_layers, record
from attrbind_exp.backbones.unet import VAE_OVERFLOW, DiffusionModel, fill, overflowed, to_device, to_host
from attrbind_exp.heatmaps import score_map
from attrbind_exp.heatmaps.layers import find_columns
from attrbind_exp.language.processor import TextProcessor
from attrbind_exp.types import BoundPrompt, HeatMap, LayerChoice, MapSettings, SampleError, UserError, Variant

BASELINE = Variant("baseline")


class Segmenter:
    """A model, a text processor and map settings, ready to segment.

    `columns`: what `complete` makes for every prompt; `flat`: how many of each column's maps were flat (`flat_note`).
    Raises UserError when settings name a timestep, ratio or block that the model does not have.
    """

    def __init__(self, model: DiffusionModel, text: TextProcessor, settings: MapSettings = MapSettings()):
        self.model, self.text, self.settings = model, text, settings
        layers = find_layers(model.unet)
        self.available = find_available(layers)
        choices: dict[str | None, LayerChoice] = {None: settings.choice} | dict(settings.grid)
        self.choices = {name: find_columns(choice, self.available) for name, choice in choices.items()}
        # A map of weight 0 need not be made, nor its layers read, unless all maps are to be kept.
        weights = [pair for found in self.choices.values() for pair in found.items()]
        self.columns = list(dict.fromkeys(column for column, weight in weights if weight or settings.keep))
        self.flat = torch.zeros(len(self.columns), dtype=torch.int64, device=model.device)
        read = {(column.ratio, block) for column in self.columns for block in column.blocks}
        self.layers = [x for x in layers if ((x.ratio, x.block) in read if x.cross else x.ratio == 1)]
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
        self,
        latents: Tensor,
        image_ids: Sequence[str],
        bound: Sequence[BoundPrompt],
        seed: int | None = None,
        batch_size: int = 1,
        images: Sequence[int] | None = None,
    ) -> Tensor:
        """Completed maps (B, C, h, w), one for each of `columns`, of B bound prompts on P latents (P, c, h, w); one
        UNet pass a timestep and draw. They are what heat maps are made of, before weights and image sizes come in.

        `images[i]`: which of the latents the i-th prompt belongs to, None = the i-th; `seed` of the noise, if it is not
        to be the settings' own; `batch_size`: the pass has as many rows at least (see `fill`).
        """
        device, rows = self.model.device, max(len(bound), batch_size)
        embeddings = fill(torch.stack([b.embedding for b in bound]), rows).to(device, self.model.dtype)
        weights = to_device(fill(torch.stack([b.weights for b in bound]), rows), device)
        owner = fill(torch.tensor(range(len(bound)) if images is None else images), rows)
        alike = [owner.tolist().index(image) for image in owner.tolist()]  # the first row of the same image
        seed = self.settings.seed if seed is None else seed
        passes = [(t, draw) for t in self.settings.timesteps for draw in range(self.settings.draws)]
        total = torch.zeros(1, device=device)
        for timestep, draw in passes:
            noisy = self.model.add_noise(latents, image_ids, timestep, draw, seed)
            with record(self.model.unet, self.layers, weights, alike) as attention:
                self.model.denoise(noisy[to_device(owner, device)], timestep, embeddings)
            means = self._means(attention, tuple(latents.shape[-2:]))
            self.flat += torch.stack([score_map.is_flat(m[: len(bound)], self.model.dtype).sum() for m in means])
            maps = torch.stack([score_map.min_max(m) for m in means], 1)
            total = total + score_map.complete(maps, attention.full)
        return total[: len(bound)] / len(passes)

    def _means(self, attention: Recording, grid: tuple[int, ...]) -> list[Tensor]:
        """Every column's map (B, h, w) as attention has it."""
        return [
            score_map.mean_map(
                [m for x, m in attention.cross.items() if x.ratio == column.ratio and x.block in column.blocks],
                column.ratio,
                (grid[0], grid[1]),
            )
            for column in self.columns
        ]

    def flat_note(self) -> str | None:
        """What to know of maps that were flat but for rounding; None where there were none. Waits for the device."""
        counts = dict(zip(self.columns, self.flat.tolist(), strict=True))
        found = ", ".join(f"{n} at 1/{column.ratio} of the latents' resolution" for column, n in counts.items() if n)
        if not found:
            return None
        return (
            f"maps flat but for rounding, which min-max stretches to noise: {found}; leave them out (attention_layers)"
        )

    def start_heat_maps(
        self, completed: Tensor, size: tuple[int, int], layers: Sequence[str | None]
    ) -> Callable[[], list[HeatMap]]:
        """Completed maps (M, C, h, w) at an image's (height, width), the m-th by the choice `layers[m]`; to call the
        result is to wait for the device."""
        weights = [[self.choices[name].get(column, 0.0) for column in self.columns] for name in layers]
        score = score_map.combine(completed, to_device(torch.tensor(weights), completed.device))
        wait = to_host(score_map.heat_map(score, size))
        return lambda: [HeatMap(values) for values in wait().numpy()]

    def heat_map(self, completed: Tensor, size: tuple[int, int], layers: str | None = None) -> HeatMap:
        """One prompt's completed maps (C, h, w) at an image's (height, width)."""
        return self.start_heat_maps(completed[None], size, [layers])()[0]
