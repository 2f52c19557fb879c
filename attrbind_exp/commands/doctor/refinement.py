"""What a refinement of heat maps needs: its package, its files."""

from collections.abc import Iterator, Sequence

from attrbind_exp.commands.doctor.finding import Finding
from attrbind_exp.data.proposals import find_file
from attrbind_exp.edits.variant import described
from attrbind_exp.heatmaps.refdiff_heat import RefdiffHeat
from attrbind_exp.heatmaps.refinement import Refinement
from attrbind_exp.types import Sample, UserError


def check_refinement(refinement: Refinement | None, samples: Sequence[Sample]) -> Iterator[Finding]:
    """Is there what a run's refinement needs, and of how many images are there proposals? Nothing without one."""
    if refinement is None:
        return
    try:
        refinement.check()
    except UserError as error:
        yield Finding("MISSING", "refine", str(error))
        return
    if not isinstance(refinement, RefdiffHeat):
        yield Finding("ok", "refine", f"{described(refinement)}: all that it needs is there")
        return
    images = {sample.image_id: sample for sample in samples}
    lacking = [image for image, sample in images.items() if find_file(refinement.folder, sample) is None]
    text = f"{len(images) - len(lacking)} of {len(images)} images have a file of proposals in '{refinement.folder}'"
    if lacking:
        text += f"; not '{lacking[0]}', for one: its expressions will fail (proposals_missing)"
    yield Finding("MISSING" if lacking else "ok", "refine", text)
