"""python -m attrbind_exp.doctor: is everything there for a run? Takes the run's own arguments and never writes."""

import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig

from attrbind_exp import config
from attrbind_exp.backbones.weights_digest import read_loras
from attrbind_exp.commands import command_line
from attrbind_exp.commands.causes import told
from attrbind_exp.commands.doctor import checkpoint, computes, files, machine, plan, published, refinement, samples
from attrbind_exp.commands.doctor.finding import Finding
from attrbind_exp.data.coco import coco_places
from attrbind_exp.data.refer import ImageFinder, image_folders, read_instances, read_refs
from attrbind_exp.log import log, quiet
from attrbind_exp.types import Sample, UserError

MAKES_FOLDERS = ("-m", "--multirun", "hydra.")
ONE_RUN = "hydra.mode=RUN"
MAKE_NONE = (ONE_RUN, "hydra.searchpath=")
Found = tuple[list[Sample], Mapping[str, int]]  # a run's samples, and expressions by split


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
    rate, gpus = plan.check_rate(cfg.rate, cfg.gpus)
    found, splits = yield from examine_data(cfg)
    yield machine.check_disk(Path("outputs"), len(found), len(config.variants(cfg)[0]), cfg.seeds)
    yield from refinement.check_refinement(config.read_settings(cfg).run.refinement, found)
    m = cfg.model
    whole = yield from examine_model(cfg)
    yield computes.check_device(m.device, m.dtype)
    batch_size = m.batch_size if cfg.batch_size == "auto" else cfg.batch_size
    yield machine.check_memory(whole, m.device, m.dtype, config.model_size(cfg), batch_size)
    yield machine.check_spacy()
    yield machine.check_tracker(cfg.tracker.get("mode"))
    sweep = tuple(str(cfg.dataset.get("splits") or "").split(","))
    pixels = sum(s.size[0] * s.size[1] for s in found) / max(len(found), 1)
    counted = plan.Counted(count_units(found, cfg.dataset._target_), splits, sweep, pixels)
    yield from plan.plan_run(config.read_settings(cfg), counted, rate, gpus, whole)


def examine_model(cfg: DictConfig) -> Generator[Finding, None, Path | None]:
    """Check the model and what lies on top of it; returns where it is, None where it is not whole."""
    m, whole = cfg.model, True
    finding, place = checkpoint.check_model(m.path)
    yield finding
    if place is not None:
        for finding in checkpoint.check_parts(place, m.path, checkpoint.takes_half(m.device, m.dtype)):
            whole = whole and finding.status != "MISSING"
            yield finding
    yield from checkpoint.check_loras(read_loras(m.get("lora")))
    return place if whole else None


def count_units(found: Sequence[Sample], loader: str) -> int:
    """What a run segments: every expression; of COCO's objects every class of an image once."""
    return len({(s.image_id, s.category) for s in found}) if loader.endswith("load_coco") else len(found)


def examine_data(cfg: DictConfig) -> Generator[Finding, None, Found]:
    """Check the data set; returns what is in it. What cannot be read is a finding too."""
    read = {"load_refer": read_refer, "load_coco": read_coco}.get(cfg.dataset._target_.rpartition(".")[2], read_other)
    try:
        found, splits = yield from read(cfg)
        if found:
            yield from samples.check_masks(found, cfg.sample, cfg.seed)
        return found, splits
    except (UserError, HydraException) as error:
        yield Finding("MISSING", "reading", told(error))
        return [], {}


def read_refer(cfg: DictConfig) -> Generator[Finding, None, Found]:
    """Files, counts, expressions and images of a data set in REFER's layout."""
    d = cfg.dataset
    folder = Path(d.root).expanduser().absolute() / d.name
    finder = ImageFinder(image_folders(folder, d.get("images")))
    layout = files.check_refer(d.root, d.name, d.split_by)
    yield layout
    if layout.status == "MISSING":
        yield files.check_image_folders([place for place in finder.places if place != folder.parent])
        return [], {}
    refs = read_refs(folder, d.split_by)
    yield files.check_refs(refs, d.name, d.split_by)
    part = d.get("limit") is not None or d.get("fraction") is not None
    splits = {} if part else {k: n.expressions or 0 for k, n in files.count_refs(refs).items() if k != "all"}
    dataset = config.load_dataset(cfg)
    yield samples.check_text(dataset)
    yield samples.check_images((s.image_path for s in dataset.samples), finder.folders, files.GET_IMAGES)
    return dataset.samples, splits


def read_coco(cfg: DictConfig) -> Generator[Finding, None, Found]:
    """Files, counts, objects and images of COCO."""
    d = cfg.dataset
    annotations, images = coco_places(d.root, d.split, d.get("annotations"), d.get("images"))
    layout = files.check_coco(annotations, images, d.split)
    yield layout
    if layout.status == "MISSING":
        return [], {}
    data = read_instances(annotations)
    yield files.check_coco_counts(data, d.split)
    dataset = files.coco_objects(data, images)
    yield samples.check_text(dataset)
    finder = ImageFinder([images])
    get = f"get {published.COCO_IMAGES_LINK.format(d.split)} and unpack it in {images.parent}"
    yield samples.check_images((finder.find(i["file_name"]) for i in data.images.values()), finder.folders, get)
    return dataset.samples, {}


def read_other(cfg: DictConfig) -> Generator[Finding, None, Found]:
    """Expressions and images of a data set whose files nothing is known of."""
    dataset = config.load_dataset(cfg)
    yield samples.check_text(dataset)
    paths = [s.image_path for s in dataset.samples]
    yield samples.check_images(paths, list(dict.fromkeys(p.parent for p in paths))[:3], "mend the paths")
    return dataset.samples, {}


def of_one_run(arguments: Sequence[str]) -> list[str]:
    """A sweep's arguments as one run has them: shards share the same passes, and of the launcher the number of GPUs
    alone matters."""
    named = [a.replace("launcher.gpus=", "gpus=") for a in arguments]
    kept = [a for a in named if not a.startswith(("launcher", "shard="))]
    return [*([ONE_RUN] if any(a.startswith("sweep=") for a in kept) else []), *kept]


def check_arguments() -> None:
    """Refuse what would make Hydra write a folder before `main` begins."""
    for argument in sys.argv[1:]:
        if argument.lstrip("+~").startswith(MAKES_FOLDERS) and not argument.startswith(MAKE_NONE):
            raise UserError(f"'{argument}' makes Hydra write a folder, and the doctor writes nothing; leave it out")
    main()


def start() -> None:
    """python -m attrbind_exp.doctor"""
    command_line.run_main(check_arguments, "doctor", of_one_run)
