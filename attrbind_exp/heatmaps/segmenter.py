"""THE shared core: pictures and expressions in, heat maps out. No Hydra, no tracker, no files.

segmenter = Segmenter(load_stable_diffusion("attrbind_exp/assets/bundled"))
ours = Variant("ours", edits=(NounChunk(), Averaging(0.9)))
heat = segmenter([image], ["the white star"], variant=ours)[0]
mask = heat.mask(0.4)
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import or_

import torch
from PIL import Image
from torch import Tensor

from attrbind_exp.backbones.backbone import Backbone, Embedding, Observation, encode_images
from attrbind_exp.backbones.tensors import overflowed, pad_rows, to_device, to_host
from attrbind_exp.cache import Cache
from attrbind_exp.edits import Variant
from attrbind_exp.edits.chain import EditedPrompt, edit_prompts
from attrbind_exp.heatmaps import score_map
from attrbind_exp.heatmaps.diffsegmenter import DiffSegmenter
from attrbind_exp.heatmaps.losses import LossMeter, Relative
from attrbind_exp.heatmaps.method import HeatMapMethod
from attrbind_exp.heatmaps.passes import ask, first_alike, of_method, pad
from attrbind_exp.heatmaps.plan import Plan
from attrbind_exp.heatmaps.shapes import check_floats, naming
from attrbind_exp.heatmaps.sharing import share_rows
from attrbind_exp.language.prompts import place_prompts
from attrbind_exp.latent_steps.method import LatentSteps
from attrbind_exp.latent_steps.take import make_steps
from attrbind_exp.latent_steps.words import Words, find_words
from attrbind_exp.memory import in_parts
from attrbind_exp.types import HeatMap, MapSettings, Prompt, SampleError, TextSettings, UserError

BASELINE = Variant("baseline")
MAPS = "one for each of its columns, as torch.stack(maps, 1) makes of maps (B, h, w)"
VAE_OVERFLOW = "the autoencoder overflows in half precision on this picture; try model.dtype=bf16 or fp32"


class Segmenter:
    """A backbone and the ways of reading it, ready to segment.

    `text`: how expressions are read; `maps`: which passes and layers; `methods`: heat-map methods by name,
    DiffSegmenter alone by default; `cache`: where parses are kept; `latent_steps`: taken on the noisy latents before a
    pass is read. `plan` knows what is made of every pass; `compare_texts` measures what methods with loss_timesteps
    need; `flat` counts each column's maps that were flat (see `flat_note`). Raises UserError when settings name a
    timestep, ratio or block that the model does not have.
    """

    def __init__(
        self,
        backbone: Backbone,
        text: TextSettings = TextSettings(),
        maps: MapSettings = MapSettings(),
        methods: Mapping[str, HeatMapMethod] | None = None,
        cache: Cache | None = None,
        latent_steps: LatentSteps | None = None,
    ):
        self.backbone, self.text, self.settings, self.cache = backbone, text, maps, cache
        self.methods = dict(methods or {"diffsegmenter": DiffSegmenter()})
        self.plan = Plan(self.methods, maps, backbone.layers, backbone.reading)
        self.flat = torch.zeros(len(self.plan.columns), dtype=torch.int64, device=backbone.device)
        self.most: int | None = None  # embeddings of a pass, once memory ran out
        own = maps.timesteps or backbone.reading.timesteps
        self.timesteps = {name: method.timesteps or own for name, method in self.methods.items()}
        last = backbone.timesteps - 1
        for name, steps in self.timesteps.items():
            if not all(0 <= t <= last for t in steps):
                key = f"heatmap.{name}" if self.methods[name].timesteps else "model"
                raise UserError(f"{key}.timesteps={list(steps)}; give one or more between 0 and {last}")
        if maps.draws < 1:
            raise UserError(f"model.draws={maps.draws}; give 1 or more")
        asked = {name: method.loss_timesteps for name, method in self.methods.items()}
        losses = {name: found for name, found in asked.items() if found is not None}
        self.compare_texts = LossMeter(backbone, losses, maps.draws)
        self.latent_steps = latent_steps if latent_steps and latent_steps.steps else None
        self._step = self.latent_steps and make_steps(self.latent_steps, backbone)

    def __call__(
        self,
        images: Sequence[Image.Image],
        expressions: Sequence[str],
        variant: Variant = BASELINE,
        image_ids: Sequence[str] | None = None,
    ) -> list[HeatMap]:
        """Heat maps of expressions[i] on images[i] (RGB), one a pair, each at its image's own size.

        `image_ids` key the noise; by default an image's number in the list does. Expressions of one image, the same
        object or id, are each other's rivals for a method that compares texts. Raises SampleError "vae_overflow" or
        "not_finite" where half precision was too little for a picture.
        """
        ids = list(image_ids) if image_ids else [str(i) for i in range(len(images))]
        edited = self.edit(self.prepare(expressions), [variant])
        latents = encode_images(self.backbone, images)
        if any(bad := overflowed(latents)):
            raise SampleError("vae_overflow", f"image '{ids[bad.index(True)]}': {VAE_OVERFLOW}")
        prompts, embeddings = [e.prompt for e in edited], [e.embedding(0) for e in edited]
        firsts = [next(j for j, other in enumerate(images) if other is image) for image in images]
        owners = [ids.index(image_id) for image_id in ids] if image_ids else firsts
        relative = self.compare_texts(latents, ids, prompts, owners, self.settings.seed, 1)
        weights = [{} if e.blind else found for e, found in zip(embeddings, relative, strict=True)]
        completed = self.complete_in_parts(latents, ids, prompts, embeddings, relative=weights)
        if any(bad := overflowed(completed)):
            message = f"image '{ids[bad.index(True)]}': its map is not finite; try model.dtype=bf16 or fp32"
            raise SampleError("not_finite", message)
        sizes = [(image.height, image.width) for image in images]
        return [self.heat_map(row, size, variant) for row, size in zip(completed, sizes, strict=True)]

    def prepare(
        self,
        texts: Sequence[str],
        categories: Sequence[str | None] | None = None,
        captions: Sequence[str | None] | None = None,
    ) -> list[Prompt]:
        """Parse expressions and find their positions, as language.prompts.place_prompts does."""
        return place_prompts(self.backbone.window, texts, categories, captions, self.text, self.cache)

    def edit(self, prompts: Sequence[Prompt], variants: Sequence[Variant]) -> list[EditedPrompt]:
        """The embeddings of every prompt under every variant."""
        return edit_prompts(prompts, variants, self.backbone.encode_text)

    @torch.no_grad()
    def complete(
        self,
        latents: Tensor,
        image_ids: Sequence[str],
        prompts: Sequence[Prompt],
        embeddings: Sequence[Embedding],
        seed: int | None = None,
        batch_size: int = 1,
        images: Sequence[int] | None = None,
        relative: Sequence[Relative] | None = None,
    ) -> Tensor:
        """Completed maps (M, C, h, w), one for each of `plan.columns`, of M prompts under their embeddings on P latents
        (P, c, h, w). They are what heat maps are made of, before weights and image sizes come in.

        One pass a timestep and noise draw, with a row for each embedding; those of one prompt and picture that only
        differ in what is read share theirs. `images[i]`: which of the latents the i-th prompt belongs to, None = the
        i-th; `seed` of the noise, None = the settings' own; `batch_size`: the pass has as many rows at least (see
        pad_rows); `relative[i]`: what `compare_texts` says of the i-th prompt, None = no text has a rival.
        """
        device = self.backbone.device
        images = range(len(prompts)) if images is None else images
        shared = share_rows(embeddings, prompts, images)
        count = len(shared.firsts)
        rows = max(count, batch_size)
        embedding = pad(Embedding.stack([embeddings[i] for i in shared.firsts]), rows)
        length = embedding.keys.shape[1]
        further = {"reads": shared.padded_reads(rows)} if shared.texts > 1 else {}
        owners = [images[i] for i in shared.firsts]
        owners += owners[-1:] * (rows - count)
        words = [self._steps_for(prompts[i], embeddings[i]) for i in shared.firsts] + [None] * (rows - count)
        same_image = first_alike(owners, words)
        owner = to_device(torch.tensor(owners), device)
        distinct = list(dict.fromkeys(shared.places))
        read = to_device(torch.tensor(distinct).T, device)
        flat = torch.zeros_like(self.flat)
        seed = self.settings.seed if seed is None else seed
        losses = self.compare_texts.of_rows([{} if relative is None else relative[i] for i in shared.firsts], rows)
        total: dict[str, Tensor] = {}
        for timestep in dict.fromkeys(t for steps in self.timesteps.values() for t in steps):
            names = [name for name, steps in self.timesteps.items() if timestep in steps]
            asked, pools = ask(self.methods, self.plan, names, [prompts[i] for i in shared.firsts], length)
            request = reduce(or_, (own for own, _ in asked.values()))
            pools = to_device(pad_rows(pools, rows), device)
            for draw in range(self.settings.draws):
                noisy = self.backbone.add_noise(latents, image_ids, timestep, draw, seed)[owner]
                if self._step:
                    noisy = self._step(noisy, timestep, embedding, words)
                seen = self.backbone.observe(noisy, timestep, embedding, request, pools, same_image, **further)
                for name in names:
                    texts = [
                        of_method(seen, *asked[name], t * pools.shape[1], losses.get(name)) for t in range(shared.texts)
                    ]
                    made = self._maps(name, texts, rows, (latents.shape[-2], latents.shape[-1]), read, flat)
                    total[name] = total[name] + made if name in total else made
        self.flat = self.flat + flat  # not before the pass is whole: where memory runs out it is made again
        means = [total[name] / (len(self.timesteps[name]) * self.settings.draws) for name in self.methods]
        row, text = to_device(torch.tensor(shared.places).T, device)
        return torch.cat(means, 2)[row, text]

    def complete_in_parts(
        self,
        latents: Tensor,
        image_ids: Sequence[str],
        prompts: Sequence[Prompt],
        embeddings: Sequence[Embedding],
        images: Sequence[int] | None = None,
        batch_size: int | None = None,
        relative: Sequence[Relative] | None = None,
    ) -> Tensor:
        """The same as `complete`, in passes of at most `batch_size` embeddings, None = all in one. Where memory runs
        out, that is halved, for later calls too, and the pass made again."""
        images = range(len(prompts)) if images is None else images

        def make(part: Sequence[int], _: int) -> list[Tensor]:
            needed = list(dict.fromkeys(images[i] for i in part))
            mine, theirs = [prompts[i] for i in part], [embeddings[i] for i in part]
            places = [needed.index(images[i]) for i in part]
            ids, own = [image_ids[n] for n in needed], None if relative is None else [relative[i] for i in part]
            return list(self.complete(latents[needed], ids, mine, theirs, images=places, relative=own))

        asked = min(size for size in (len(prompts), batch_size, self.most) if size is not None)
        found, size = in_parts(make, range(len(prompts)), asked, "the number of embeddings of a pass")
        if size < asked:
            self.most = size
        return torch.stack(found)

    def _steps_for(self, prompt: Prompt, embedding: Embedding) -> Words | None:
        """The words for which a row's latents are stepped on. None where they stay: without latent steps, for a prompt
        that has no such words, and where the pass sees none of them."""
        if self.latent_steps is None or embedding.blind:
            return None
        words = find_words(prompt, self.backbone.window)
        return words if self.latent_steps.applies(words) else None

    def _maps(
        self, name: str, texts: Sequence[Observation], rows: int, grid: tuple[int, int], read: Tensor, flat: Tensor
    ) -> Tensor:
        """One method's completed maps (B, T, C, h, w) of what a pass of B `rows` left behind of each of T texts, all
        completed together. `read` (2, D): row and text of each map that somebody reads; those that are flat count in
        `flat`."""
        method, columns = self.methods[name], self.plan.of_method(name)
        axes = {"B": rows, "C": len(columns), "h": None, "w": None}
        with naming(method, "raw_maps"):
            raw = torch.stack([check_floats(method.raw_maps(seen, columns, grid), axes, MAPS) for seen in texts], 1)
        first = self.plan.columns.index((name, columns[0]))
        flat[first : first + len(columns)] += score_map.is_flat(raw, self.backbone.dtype)[read[0], read[1]].sum(0)
        axes["C"] = len(columns) * len(texts)
        with naming(method, "complete"):
            made = check_floats(method.complete(raw.flatten(1, 2), texts[0]), axes, "one for each that it was given")
        if made.shape[-2:] != grid:
            made = score_map.resize(made.flatten(0, 1), grid).unflatten(0, made.shape[:2])
        return made.unflatten(1, raw.shape[1:3])

    def flat_note(self) -> str | None:
        """What to know of maps that were flat; None where there were none. Waits for the device."""
        counts = zip(self.plan.columns, self.flat.tolist(), strict=True)
        found = ", ".join(f"{n} at 1/{column.ratio} of the latents' resolution" for (_, column), n in counts if n)
        if not found:
            return None
        return (
            "maps zero, since nothing attends to the target, or flat but for rounding, which min-max stretches to "
            f"noise: {found}; leave them out (attention_layers)"
        )

    def start_heat_maps(
        self, completed: Tensor, size: tuple[int, int], readings: Sequence[tuple[str | None, str | None]]
    ) -> Callable[[], list[HeatMap]]:
        """The same as `heat_maps`, but on the host: calling the result waits for the device."""
        wait = to_host(self.heat_maps(completed, size, readings))
        return lambda: [HeatMap(values) for values in wait().numpy()]

    def heat_maps(
        self, completed: Tensor, size: tuple[int, int], readings: Sequence[tuple[str | None, str | None]]
    ) -> Tensor:
        """Completed maps (M, C, h, w) as heat maps (M, H, W) of an image's (height, width), where they lie: the m-th by
        the heat-map method and choice of layers readings[m]."""
        weights = [[self.plan.weights(*reading).get(made, 0.0) for made in self.plan.columns] for reading in readings]
        score = score_map.combine(completed, to_device(torch.tensor(weights), completed.device))
        first = next(iter(self.methods))
        sigmoid = [self.methods[heatmap or first].sigmoid for heatmap, _ in readings]
        return score_map.heat_map(score, size, sigmoid)

    def heat_map(self, completed: Tensor, size: tuple[int, int], variant: Variant = BASELINE) -> HeatMap:
        """One prompt's completed maps (C, h, w) at an image's (height, width), read as a variant says."""
        return self.start_heat_maps(completed[None], size, [(variant.heatmap, variant.layers)])()[0]
