"""python -m attrbind_exp.doctor: is everything there for a run? Takes the run's own arguments and never writes."""

import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig

from attrbind_exp import config
from attrbind_exp.commands import command_line
from attrbind_exp.commands.doctor import computes, files, machine, published, samples
from attrbind_exp.commands.doctor.finding import Finding
from attrbind_exp.data.coco import coco_places
from attrbind_exp.data.refer import ImageFinder, image_folders, read_instances, read_refs
from attrbind_exp.log import log, quiet
from attrbind_exp.types import Sample, UserError

MAKES_FOLDERS = ("-m", "--multirun", "hydra.")


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="doctor")
@command_line.task
def main(cfg: DictConfig) -> None:
    """Print every finding as soon as it is made; exit code 1 when something needed is missing."""
    config.check(cfg)
    if not isinstance(cfg.sample, int) or cfg.sample < 1:
        raise UserError(f"sample={cfg.sample!r}; give a whole number >= 1")
    found = []
    for finding in examine(cfg):
        print(finding, flush=True)
        if quiet() and finding.status == "MISSING":  # what is printed is kept back
            log.error(str(finding))
        found.append(finding.status)
    print(f"{found.count('MISSING')} missing, {found.count('WARN')} warnings, {found.count('ok')} ok")
    if "MISSING" in found:
        sys.exit(1)


def examine(cfg: DictConfig) -> Iterator[Finding]:
    """All checks, the data first."""
    expressions = yield from examine_data(cfg)
    yield machine.check_disk(Path("outputs"), expressions, len(config.variants(cfg)[0]))
    m = cfg.model
    finding, folder = machine.check_model(m.path)
    yield finding
    yield computes.check_device(m.device, m.dtype)
    batch_size = m.batch_size if cfg.batch_size == "auto" else cfg.batch_size
    yield machine.check_memory(folder, m.device, m.dtype, config.model_size(cfg), batch_size)
    yield machine.check_spacy()
    yield machine.check_tracker(cfg.tracker.get("mode"))


def examine_data(cfg: DictConfig) -> Generator[Finding, None, int]:
    """Check the data set; returns how many expressions it has. What cannot be read is a finding too."""
    read = {"load_refer": read_refer, "load_coco": read_coco}.get(cfg.dataset._target_.rpartition(".")[2], read_other)
    try:
        found = yield from read(cfg)
        if found:
            yield from samples.check_masks(found, cfg.sample, cfg.seed)
        return len(found)
    except (UserError, HydraException) as error:
        cause = error.__cause__ if isinstance(error.__cause__, UserError) else error
        yield Finding("MISSING", "reading", str(cause))
        return 0


def read_refer(cfg: DictConfig) -> Generator[Finding, None, list[Sample]]:
    """Files, counts, expressions and images of a data set in REFER's layout."""
    d = cfg.dataset
    folder = Path(d.root).expanduser().absolute() / d.name
    finder = ImageFinder(image_folders(folder, d.get("images")))
    layout = files.check_refer(d.root, d.name, d.split_by)
    yield layout
    if layout.status == "MISSING":
        yield files.check_image_folders([place for place in finder.places if place != folder.parent])
        return []
    yield files.check_refs(read_refs(folder, d.split_by), d.name, d.split_by)
    dataset = config.load_dataset(cfg)
    yield samples.check_text(dataset)
    yield samples.check_images((s.image_path for s in dataset.samples), finder.folders, files.GET_IMAGES)
    return dataset.samples


def read_coco(cfg: DictConfig) -> Generator[Finding, None, list[Sample]]:
    """Files, counts, objects and images of COCO."""
    d = cfg.dataset
    annotations, images = coco_places(d.root, d.split, d.get("annotations"), d.get("images"))
    layout = files.check_coco(annotations, images, d.split)
    yield layout
    if layout.status == "MISSING":
        return []
    data = read_instances(annotations)
    yield files.check_coco_counts(data, d.split)
    dataset = files.coco_objects(data, images)
    yield samples.check_text(dataset)
    finder = ImageFinder([images])
    get = f"get {published.COCO_IMAGES_LINK.format(d.split)} and unpack it in {images.parent}"
    yield samples.check_images((finder.find(i["file_name"]) for i in data.images.values()), finder.folders, get)
    return dataset.samples


def read_other(cfg: DictConfig) -> Generator[Finding, None, list[Sample]]:
    """Expressions and images of a data set whose files nothing is known of."""
    dataset = config.load_dataset(cfg)
    yield samples.check_text(dataset)
    paths = [s.image_path for s in dataset.samples]
    yield samples.check_images(paths, list(dict.fromkeys(p.parent for p in paths))[:3], "mend the paths")
    return dataset.samples


def check_arguments() -> None:
    """Refuse what would make Hydra write a folder before `main` begins."""
    for argument in sys.argv[1:]:
        if argument.lstrip("+~").startswith(MAKES_FOLDERS):
            raise UserError(f"'{argument}' makes Hydra write a folder, and the doctor writes nothing; leave it out")
    main()


def start() -> None:
    """python -m attrbind_exp.doctor"""
    command_line.run_main(check_arguments, "doctor")
