"""Heat maps -> what can be taken away of them, whichever way they were made."""

from collections.abc import Sequence

from attrbind_exp.runs.levels import encode_levels
from attrbind_exp.runs.rows import Row
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tasks.task import HeatOf, SegmentedImage, Task


def encode_heat(task: Task, settings: RunSettings, rows: Sequence[Row], heat: HeatOf) -> dict[str, bytes]:
    """The files of heat of one image's rows, by the names of its samples."""
    variants = [variant.label for variant in settings.variants]
    return {found.name: encode_levels(found, variants, settings.seeds) for found in task.levels(rows, heat)}


def heat_of(image: SegmentedImage, settings: RunSettings) -> HeatOf:
    """The heat maps of an image that was just segmented, by sample, variant and number of the noise seed."""
    items = {item.sample.sample_id: item for item in image.items}
    return lambda sample, variant, seed: items[sample.sample_id].heat(settings.variants.index(variant), seed).values
