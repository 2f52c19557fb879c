"""attrbind compare: one expression on one picture under several edits, side by side; load_segmenter().compare typed."""

import warnings

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from attrbind_exp import config
from attrbind_exp.commands import command_line, segment_arguments
from attrbind_exp.commands.segment import ONE_MASK
from attrbind_exp.config.refinement import read_refinement
from attrbind_exp.config.variants import is_real
from attrbind_exp.edits.variant import BASELINE
from attrbind_exp.runs.shown import clean
from attrbind_exp.runs.store import picture_folder
from attrbind_exp.types import UserError

NAME = "comparison.png"


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="compare")
@command_line.task
def main(cfg: DictConfig) -> None:
    """Write comparison.png, print what every edit acts on; the last line is the folder."""
    for key in ("image", "expression"):
        if OmegaConf.is_missing(cfg, key) or not str(cfg[key]).strip():
            raise UserError(f'no {key} given; use attrbind compare photo.jpg "white dog playing with two black dogs"')
    if cfg.threshold.value is None:
        raise UserError(f"threshold=null; {ONE_MASK}")
    if not isinstance(cfg.edits, ListConfig):
        raise UserError(f"edits={cfg.edits}; give words behind the expression, such as baseline ncr+uea")
    if not is_real(cfg.alpha.value) or cfg.alpha.value < 0:
        raise UserError(f"alpha={cfg.alpha.value}; compare takes one number from 0 on, such as alpha=0.9")
    config.check(cfg)
    settings, refinement = config.segmenter_settings(cfg), read_refinement(cfg)
    if refinement:
        refinement.check()
    from attrbind_exp import LoadedSegmenter
    from attrbind_exp.commands.build import build_segmenter

    segmenter = LoadedSegmenter(build_segmenter(settings), settings.model, "baseline", cfg.alpha.value, refinement)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it is told below
        found = segmenter.compare(str(cfg.image), str(cfg.expression), [str(edit) for edit in cfg.edits])
    folder = picture_folder(HydraConfig.get().runtime.output_dir)
    found.save(folder / NAME, cfg.threshold.value)
    print(f"expression  {clean(found.expression)}")
    width = max(len(result.edit) for result in found.values())
    for result in found.values():
        edited = result.edit.split(" ")[0] != BASELINE
        acts = "; changes nothing: no modifier is bound" if edited and not result.prompt.bind else ""
        share = 100 * result.mask(cfg.threshold.value).mean()
        read = f"target {clean(result.target)}; noun chunk {clean(result.chunk)}"
        print(f"{result.edit:<{width}}  {read}; {share:.1f} % of the image{acts}")
    if warning := config.model_warning(settings.model.path, cfg.image):
        print(f"WARNING     {warning}; give model=sd15 or another")
    print(f"picture     {clean(str(folder / NAME), 5000)}")
    print(clean(str(folder), 5000))


def start() -> None:
    """python -m attrbind_exp.compare"""
    command_line.run_main(main, "compare", segment_arguments.rewrite_compare)
