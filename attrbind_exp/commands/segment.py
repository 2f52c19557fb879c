"""python -m attrbind_exp.segment: one image, one expression -> heat maps side by side (the paper's Figure 8)."""

import sys

import hydra
import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from attrbind_exp import config
from attrbind_exp.commands import command_line
from attrbind_exp.types import SampleError, UserError

ONE_MASK = "segment draws one mask: give a number between 0 and 1 in steps of 0.01, such as threshold=0.5"


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="segment")
@command_line.task
def main(cfg: DictConfig) -> None:
    """Write heat_maps.png and mask.png, print the parse; the last line is the folder."""
    config.check(cfg)
    text_settings = config.text_settings(cfg)
    for key in ("image", "expression"):
        if OmegaConf.is_missing(cfg, key) or not str(cfg[key]).strip():
            raise UserError(f'no {key} given; use image=photo.jpg expression="white dog playing with two black dogs"')
    if cfg.threshold.value is None:
        raise UserError(f"threshold=null; {ONE_MASK}")
    from attrbind_exp.backbones.unet import load_model, overflowed
    from attrbind_exp.data.images import read_image
    from attrbind_exp.heatmaps.segmenter import Segmenter
    from attrbind_exp.language.processor import TextProcessor
    from attrbind_exp.reporting import figures
    from attrbind_exp.runs.store import picture_folder

    expression = str(cfg.expression)
    try:
        image = read_image(cfg.image)
    except SampleError as error:
        raise UserError(f"{error}; give image=PATH of a readable picture") from error
    model = load_model(cfg.model.path, cfg.model.device, cfg.model.dtype, config.model_size(cfg))
    text = TextProcessor(model.tokenizer, model.encode_text, text_settings)
    segmenter = Segmenter(model, text, config.map_settings(cfg))
    prompt = text.prepare([expression])[0]
    if not prompt.q:
        raise UserError(f"expression={expression!r} holds no word that the tokenizer sees; describe what to segment")
    variants, headline = config.variants(cfg)
    bound = text.bind([prompt], variants)[0]
    latents = model.encode_images([image]).expand(len(bound), -1, -1, -1)
    completed = segmenter.complete(latents, ["0"] * len(bound), bound)
    if any(overflowed(latents)) or any(overflowed(completed)):
        raise UserError(f"image={cfg.image}: half precision overflows on this picture; use model.dtype=bf16 or fp32")
    heats = [segmenter.heat_map(c, (image.height, image.width)) for c in completed]

    folder = picture_folder(HydraConfig.get().runtime.output_dir)
    pixels = np.asarray(image)
    mask = heats[headline].mask(cfg.threshold.value)
    panels = {"image": pixels}
    panels |= {v.label: figures.overlay(pixels, h.values) for v, h in zip(variants, heats, strict=True)}
    panels |= {f"mask at {cfg.threshold.value:g}": figures.outline(pixels, mask)}
    figures.panels(panels, expression, folder / "heat_maps.png")
    figures.save_mask(mask, folder / "mask.png")

    tokens = model.tokenizer.convert_ids_to_tokens(model.tokenizer(prompt.text).input_ids)
    print(f"expression  {expression}")
    print(f"target      {prompt.parse.target_text} (tokens {list(prompt.q)}: {[tokens[i] for i in prompt.q]})")
    print(f"noun chunk  {prompt.parse.chunk_text} (tokens {list(prompt.pos)}: {[tokens[i] for i in prompt.pos]})")
    print(
        f"binding     {'on' if prompt.bind else 'off: nothing modifies the target' if not prompt.fallbacks else 'off'}"
    )
    print(f"fallbacks   {', '.join(prompt.fallbacks) or 'none'}")
    if flat := segmenter.flat_note():
        print(f"NOTE        {flat}")
    print(f"mask        {100 * mask.mean():.1f} % of the image at threshold {cfg.threshold.value:g}")
    print(folder)


def check_arguments() -> None:
    """Refuse the one option of the group threshold, which Hydra does not know here."""
    if "threshold=grid" in sys.argv[1:]:
        raise UserError(f"threshold=grid; {ONE_MASK}")
    main()


def start() -> None:
    """python -m attrbind_exp.segment"""
    command_line.run_main(check_arguments)
