"""attrbind segment: one image, one expression -> heat maps side by side (the paper's Figure 8), and the mask."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from attrbind_exp import config
from attrbind_exp.commands import command_line, segment_arguments
from attrbind_exp.commands.segment_files import ENDINGS, wanted_files, write_files
from attrbind_exp.config.refinement import read_refinement
from attrbind_exp.runs.shown import clean
from attrbind_exp.types import SampleError, UserError

LARGE = 360  # pixels, the height of a picture that stands alone
ONE_MASK = "segment draws one mask: give a number between 0 and 1 in steps of 0.01, such as threshold=0.5"


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="segment")
@command_line.task
def main(cfg: DictConfig) -> None:
    """Write heat_maps.png and mask.png, print the parse; the last line is the folder."""
    for key in ("image", "expression"):
        if OmegaConf.is_missing(cfg, key) or not str(cfg[key]).strip():
            raise UserError(f'no {key} given; use image=photo.jpg expression="white dog playing with two black dogs"')
    if cfg.threshold.value is None:
        raise UserError(f"threshold=null; {ONE_MASK}")
    config.check(cfg)
    files = wanted_files({kind: cfg[kind] for kind in ENDINGS}, str(cfg.image))
    if files and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise UserError(f"several runs cannot write one {next(iter(files))}; leave it out, or -m")
    settings, (variants, headline) = config.segmenter_settings(cfg), config.variants(cfg)
    if refinement := read_refinement(cfg):
        refinement.check()
    from attrbind_exp.backbones.backbone import encode_images
    from attrbind_exp.backbones.tensors import overflowed
    from attrbind_exp.commands.build import build_segmenter
    from attrbind_exp.data.images import read_image
    from attrbind_exp.heatmaps.refinement import refine_picture
    from attrbind_exp.reporting import figures, maps
    from attrbind_exp.runs.store import picture_folder
    from attrbind_exp.tasks.task import Panel

    expression, threshold = str(cfg.expression), cfg.threshold.value
    try:
        image = read_image(cfg.image)
    except SampleError as error:
        raise UserError(f"{error}; give image=PATH of a readable picture") from error
    segmenter = build_segmenter(settings)
    prompt = segmenter.prepare([expression])[0]
    if not prompt.q:
        raise UserError(f"expression={expression!r} holds no word that the tokenizer sees; describe what to segment")
    edited = segmenter.edit([prompt], variants)[0]
    embeddings = [edited.embedding(v) for v in range(len(variants))]
    latents, count = encode_images(segmenter.backbone, [image]), len(variants)
    completed = segmenter.complete_in_parts(latents, ["0"], [prompt] * count, embeddings, [0] * count)
    if any(overflowed(latents)) or any(overflowed(completed)):
        raise UserError(f"image={cfg.image}: half precision overflows on this picture; use model.dtype=bf16 or fp32")
    size = (image.height, image.width)
    heats = [segmenter.heat_map(maps, size, v) for maps, v in zip(completed, variants, strict=True)]
    if refinement:
        heats = [refine_picture(refinement, heat, image, str(cfg.image), expression) for heat in heats]

    folder = picture_folder(HydraConfig.get().runtime.output_dir)
    mask = heats[headline].mask(threshold)
    panels = {"image": Panel("photo")}
    panels |= {v.label: Panel("heat", h.values, threshold) for v, h in zip(variants, heats, strict=True)}
    panels |= {f"mask of {variants[headline].label}": Panel("mask", mask, threshold)}
    pictures, around = maps.render(panels, image, f"{Path(cfg.image).name}; model {cfg.model.name}", LARGE)
    figures.panels(pictures, expression, folder / "heat_maps.png", around=around, height=LARGE)
    figures.save_mask(mask, folder / "mask.png")
    about = {
        "expression": expression,
        "target": prompt.parse.target_text,
        "chunk": prompt.parse.chunk_text,
        "method": variants[headline].label,
        "model": str(cfg.model.name),
    }
    write_files(files, heats[headline], threshold, str(cfg.image), about)

    words = segmenter.backbone.window.words(prompt.text)
    print(f"expression  {clean(expression)}")
    print(f"target      {clean(prompt.parse.target_text)} (tokens {list(prompt.q)}: {[words[i] for i in prompt.q]})")
    print(f"noun chunk  {clean(prompt.parse.chunk_text)} (tokens {list(prompt.pos)}: {[words[i] for i in prompt.pos]})")
    print(
        f"binding     {'on' if prompt.bind else 'off: nothing modifies the target' if not prompt.fallbacks else 'off'}"
    )
    print(f"fallbacks   {', '.join(prompt.fallbacks) or 'none'}")
    if warning := config.model_warning(settings.model.path, cfg.image):
        print(f"WARNING     {warning}; give model=sd15 or another")
    if flat := segmenter.flat_note():
        print(f"NOTE        {flat}")
    print(f"mask        {100 * mask.mean():.1f} % of the image at threshold {threshold:g}")
    for file in files.values():
        print(f"written     {clean(str(file), 5000)}")
    print(folder)


def check_arguments() -> None:
    """Refuse the one option of the group threshold, which Hydra does not know here."""
    if "threshold=grid" in sys.argv[1:]:
        raise UserError(f"threshold=grid; {ONE_MASK}")
    main()


def start() -> None:
    """python -m attrbind_exp.segment"""
    command_line.run_main(check_arguments, "segment", segment_arguments.rewrite)
