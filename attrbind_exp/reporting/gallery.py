"""What the numbers look like: the samples that a task chooses, drawn with their heat maps."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from attrbind_exp.edits import Variant
from attrbind_exp.edits.variant import is_floor
from attrbind_exp.evaluation.batching import Images
from attrbind_exp.heatmaps.segmenter import BASELINE
from attrbind_exp.log import log
from attrbind_exp.reporting import figures, maps
from attrbind_exp.reporting.overlays import panel_masks
from attrbind_exp.reporting.panels import KEY
from attrbind_exp.runs.ending import NOT_DRAWN, NotDrawn, write_not_drawn
from attrbind_exp.runs.masks import SUFFIX, write_masks
from attrbind_exp.runs.shown import clean
from attrbind_exp.runs.store import RunStore
from attrbind_exp.scoring.figures import VariantFigures
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tasks.task import Gallery, SegmentedImage, Task
from attrbind_exp.types import Sample, SampleError, UserError
from attrbind_exp.work import Work

MANY = 5  # variants; of more only the one that heads the summary is drawn

Pictures = dict[str, Path]  # by caption
Segment = Callable[[Images, RunSettings], Iterator[SegmentedImage]]


@dataclass(frozen=True)
class Artist:
    """All that drawing needs: `segment` makes heat maps again for the few samples that become pictures. `about`: the
    data and the model, as every picture names them."""

    task: Task
    segment: Segment
    settings: RunSettings
    store: RunStore
    about: str = ""

    def draw(self, found: Sequence[VariantFigures]) -> dict[str, Pictures]:
        """All galleries of a run by name; each is also stacked into NAME.png. `found`: the run's figures.

        A picture that cannot be drawn is left out and named in gallery/not_drawn.jsonl. Raises UserError where the
        disk takes none.
        """
        drawn: dict[str, Pictures] = {}
        left_out: list[NotDrawn] = []
        try:
            remove_pictures(self.store.folder / "gallery")
            for gallery in self.task.galleries(found, shown_variants(self.settings)):
                with Work(f"drawing {gallery.name}", len(gallery.pictures), "pictures") as work:
                    pictures = self._draw(gallery, found, left_out, work)
                self._sheet(gallery.name, pictures, left_out)
                drawn[gallery.name] = pictures
            write_not_drawn(self.store.folder, left_out)
        except OSError as error:
            raise UserError(
                f"cannot write pictures to '{self.store.folder}': {error.strerror or error}; the figures are there, "
                "mend that and start the same command again"
            ) from error
        if left_out:
            file = self.store.folder / NOT_DRAWN
            log.warning(f"WARNING: {len(left_out)} pictures could not be drawn: see {clean(str(file))}")
        return drawn

    def _sheet(self, name: str, pictures: Pictures, left_out: list[NotDrawn]) -> None:
        """Stack a gallery into NAME.png; where that cannot be, there is none, and `left_out` grows."""
        file = self.store.folder / f"{name}.png"
        file.unlink(missing_ok=True)
        try:
            figures.sheet(list(pictures.values()), file)
        except Exception as error:
            left_out.append(NotDrawn(gallery=name, sample_id="the sheet", message=explain(error)))

    def _draw(
        self, gallery: Gallery, found: Sequence[VariantFigures], left_out: list[NotDrawn], work: Work
    ) -> Pictures:
        """One picture after the other, as their images are segmented; in the gallery's order. `left_out` grows, `work`
        is told."""
        paths: dict[int, Path] = {}
        why: dict[int, str] = {}
        try:
            for image in self._segment(gallery):
                for number, picture in enumerate(gallery.pictures):
                    if picture.samples and picture.samples[0].image_id == image.image_id:
                        try:
                            paths[number] = self._picture(gallery, number, image, found)
                        except Exception as error:
                            why[number] = explain(error)
                        work.advance(1, number in why)
        except Exception as error:  # what remains of the gallery
            rest = explain(error)
            why = dict.fromkeys(set(range(len(gallery.pictures))) - set(paths), rest) | why
        for number in sorted(why):
            name = gallery.pictures[number].name
            left_out.append(NotDrawn(gallery=gallery.name, sample_id=name, message=why[number]))
        captions = [f"{picture.name} {picture.title}" for picture in gallery.pictures]
        return unique_captions([(captions[number], paths[number]) for number in sorted(paths)])

    def _segment(self, gallery: Gallery) -> Iterator[SegmentedImage]:
        images: dict[str, list[Sample]] = {}
        for picture in gallery.pictures:
            for sample in picture.samples:
                images.setdefault(sample.image_id, []).append(sample)
        drawing = replace(self.settings, variants=gallery.variants, seeds=self.settings.seeds[:1], keep_maps=False)
        return self.segment(images, drawing)

    def _picture(self, gallery: Gallery, number: int, image: SegmentedImage, found: Sequence[VariantFigures]) -> Path:
        """Draw one picture. Raises SampleError where none of its samples could be segmented."""
        picture = gallery.pictures[number]
        made = {item.sample.sample_id: item for item in image.items}
        items = [made[s.sample_id] for s in picture.samples if s.sample_id in made]
        if not items:
            failed = {f.sample_id: f for f in image.failures}
            first = next((failed[s.sample_id] for s in picture.samples if s.sample_id in failed), None)
            raise SampleError(*(("not_segmented", "no heat map") if first is None else (first.reason, first.message)))
        made_of, photo = self.task.panels(items, gallery, found), items[0].image
        panels, around = maps.render(made_of, photo, self._about())
        path = self.store.gallery_path(gallery.name, number)
        write_masks(path.with_suffix(SUFFIX), photo, panel_masks(made_of))
        return figures.panels(panels, picture.title, path, picture.name, around)

    def _about(self) -> str:
        """The data and the model; of several noise seeds the one that is drawn."""
        seeds = self.settings.seeds
        return self.about if len(seeds) == 1 else f"{self.about}; noise seed {seeds[0]}, the first of {len(seeds)}"


def explain(error: Exception) -> str:
    """Why a picture is left out. Raises the error where it is no fault of one picture: of the disk, or of what was
    asked for."""
    if isinstance(error, UserError) or (isinstance(error, OSError) and error.errno is not None):
        raise error
    reason = error.reason if isinstance(error, SampleError) else type(error).__name__
    return clean(f"{reason}: {error}")


def unique_captions(pictures: Sequence[tuple[str, Path]]) -> Pictures:
    """Pictures by caption, cleaned and shortened; captions that become the same are numbered."""
    found: Pictures = {}
    for caption, path in pictures:
        shown = clean(caption)
        found[shown if shown not in found else f"{shown} ({len(found) + 1})"] = path
    return found


def remove_pictures(folder: Path) -> None:
    """Remove the gallery pictures of an earlier start; a file that is none of ours stays."""
    for file in folder.glob("*_[0-9][0-9][0-9].png"):
        try:
            with Image.open(file) as image:
                ours = KEY in image.info
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
        if ours:
            file.unlink()
            file.with_suffix(SUFFIX).unlink(missing_ok=True)


def shown_variants(settings: RunSettings) -> list[Variant]:
    """The baseline first, then all variants where they are few, else the one that heads the summary; no floor. Of
    another system its own alone."""
    variants = [v for v in settings.variants if not is_floor(v.label)]
    ours = [settings.variants[settings.headline]] if len(variants) > MANY else variants
    # Several ways of reading the plain prompt are compared, or there is no model that could read it.
    if any(v.system or (v.heatmap and not v.edits) for v in ours):
        return list(ours)
    # Of the same run: read on the same latents, and refined as all of its maps are.
    plain = replace(BASELINE, latents=ours[0].latents, refine=settings.variants[0].refine)
    return [plain, *(v for v in ours if v != plain)]
