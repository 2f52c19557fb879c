"""What the numbers look like: the samples that a task chooses, drawn with their heat maps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from attrbind_exp.edits import Variant
from attrbind_exp.evaluation.batching import segment_images
from attrbind_exp.heatmaps.segmenter import BASELINE, Segmenter
from attrbind_exp.language.caption import Captioner
from attrbind_exp.reporting import figures
from attrbind_exp.runs.store import RunStore
from attrbind_exp.scoring.figures import VariantFigures
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tasks.task import Gallery, Panel, Segmented, Task
from attrbind_exp.types import Sample

MANY = 5  # variants; of more only the one that heads the summary is drawn

Pictures = dict[str, Path]  # by caption


@dataclass(frozen=True)
class Artist:
    """All that drawing needs: heat maps are made again for the few samples that become pictures."""

    task: Task
    segmenter: Segmenter
    settings: RunSettings
    store: RunStore
    captioner: Captioner | None = None

    def draw(self, found: Sequence[VariantFigures]) -> dict[str, Pictures]:
        """All galleries of a run by name; each is also stacked into NAME.png. `found`: the run's figures."""
        drawn = {}
        for gallery in self.task.galleries(found, shown_variants(self.settings)):
            pictures = self._draw(gallery, found)
            figures.sheet(list(pictures.values()), self.store.folder / f"{gallery.name}.png")
            drawn[gallery.name] = pictures
        return drawn

    def _draw(self, gallery: Gallery, found: Sequence[VariantFigures]) -> Pictures:
        """One picture after the other, as their images are segmented; in the gallery's order."""
        drawn: dict[int, tuple[str, Path]] = {}
        images: dict[str, list[Sample]] = {}
        for picture in gallery.pictures:
            for sample in picture.samples:
                images.setdefault(sample.image_id, []).append(sample)
        drawing = replace(self.settings, variants=gallery.variants, seeds=self.settings.seeds[:1], keep_maps=False)
        for image in segment_images(images, self.segmenter, drawing, self.captioner):
            made = {item.sample.sample_id: item for item in image.items}
            for number, picture in enumerate(gallery.pictures):
                if items := [made[s.sample_id] for s in picture.samples if s.sample_id in made]:
                    path = self.store.gallery_path(gallery.name, number)
                    panels = render(self.task.panels(items, gallery, found), items[0])
                    figures.panels(panels, picture.title, path, picture.name)
                    drawn[number] = f"{picture.name} {picture.title}", path
        return dict(drawn[number] for number in sorted(drawn))


def render(panels: Mapping[str, Panel], item: Segmented) -> dict[str, np.ndarray]:
    """Panels as pictures (H, W, 3) uint8, laid on the photo of `item`."""
    photo = np.asarray(item.image)
    lay_on: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        "mask": figures.outline,
        "heat": figures.overlay,
        "labels": figures.paint,
    }
    return {
        name: photo if panel.values is None else lay_on[panel.kind](photo, panel.values)
        for name, panel in panels.items()
    }


def shown_variants(settings: RunSettings) -> list[Variant]:
    """The baseline first, then all variants where they are few, else the one that heads the summary."""
    many = len(settings.variants) > MANY
    ours = [settings.variants[settings.headline]] if many else settings.variants
    if any(v.heatmap and not v.edits for v in ours):  # several ways of reading the plain prompt are compared
        return list(ours)
    return [BASELINE, *(v for v in ours if v != BASELINE)]
