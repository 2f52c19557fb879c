"""Settings -> the segmenter that they name. Loads the model's libraries."""

from attrbind_exp.backbones.cached import CachedBackbone
from attrbind_exp.cache import Cache
from attrbind_exp.config import SegmenterSettings
from attrbind_exp.heatmaps.segmenter import Segmenter


def build_segmenter(settings: SegmenterSettings) -> Segmenter:
    """The model with its cache, and the ways of reading it. Raises UserError where one of them cannot be had."""
    cache = None if settings.cache_folder is None else Cache(settings.cache_folder, settings.cache_gigabytes)
    backbone = settings.model.load()
    if settings.model.compile:
        backbone.compile()
    cached = backbone if cache is None else CachedBackbone(backbone, cache)
    return Segmenter(cached, settings.text, settings.maps, settings.make_methods(), cache, settings.latent_steps)
