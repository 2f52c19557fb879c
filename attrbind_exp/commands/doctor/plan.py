"""How much a run will be: passes, hours, bytes. docs/cluster.md explains these formulas.

passes = expressions x (distinct embeddings x timesteps + loss_timesteps) x noise draws x noise seeds
hours  = passes / passes a second / GPUs / 3600
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from attrbind_exp.backbones.backbone import Layer
from attrbind_exp.backbones.loading import configs_of
from attrbind_exp.backbones.reading import read_reading
from attrbind_exp.commands.doctor.finding import Finding, storage
from attrbind_exp.commands.doctor.machine import ROW_BYTES, count_parameters
from attrbind_exp.commands.doctor.rate import measure_rate
from attrbind_exp.config import Settings
from attrbind_exp.data.refer import read_json
from attrbind_exp.edits.chain import acting_on_pass, changing
from attrbind_exp.edits.variant import is_floor
from attrbind_exp.heatmaps.plan import Plan
from attrbind_exp.latent_steps.method import passes_of
from attrbind_exp.types import Parse, Prompt, UserError

MEASURE = "measure"  # as the key `rate` has it
HEAT_BYTES = 0.25  # a pixel, that save_masks keeps of a heat map: 101 levels, packed, measured on photographs
BYTES = {"fp32": 4, "fp16 or bf16": 2}
Parts = Mapping[str, int]  # expressions of this run, of its sweep, of all splits


@dataclass(frozen=True)
class Counted:
    """How many expressions (class-wise: classes of images) a run has, and how many each split, where the files say so;
    `sweep`: the splits that a sweep runs through; `pixels`: of a picture, as a mean."""

    expressions: int
    splits: Mapping[str, int]
    sweep: tuple[str, ...] = ()
    pixels: float = 640 * 480


@dataclass(frozen=True)
class Cost:
    """What one expression takes. `embeddings`: how many that passes are conditioned on differ where there is something
    to bind, `plain` where there is not; each is read at `steps` timesteps, under `draws` noise draws and `seeds` noise
    seeds. `texts`: how many differ that are read on these passes, the embeddings among them. `each`: about how many
    passes an embedding takes, more than one under latent steps; `floors` of the embeddings take one all the same.
    `losses`: the timesteps at which a heat-map method compares it with its rivals, each a pass."""

    embeddings: int
    plain: int
    texts: int
    variants: int
    steps: int
    draws: int
    seeds: int
    each: int = 1
    floors: int = 0
    losses: int = 0

    def passes(self, expressions: int) -> int:
        """The most passes that so many expressions take: all have something to bind."""
        return expressions * self.of_embeddings(self.embeddings)

    def of_embeddings(self, count: int) -> int:
        """The passes of an expression that has so many embeddings, the floors among them."""
        made = (count - self.floors) * self.each + self.floors
        return (made * self.steps + self.losses) * self.draws * self.seeds

    def rows(self, expressions: int) -> int:
        """Lines of expressions.jsonl."""
        return expressions * self.variants * self.seeds

    def maps(self, expressions: int) -> int:
        """The most heat maps that differ."""
        return expressions * self.texts * self.seeds


def plan_run(
    settings: Settings, found: Counted, rate: float | str | None, gpus: int, folder: Path | None
) -> Iterator[Finding]:
    """How many passes, hours and bytes a run of this configuration takes. `rate`: passes a second of one GPU,
    "measure", or None where it is not known; `folder`: the model's, None where it is not there."""
    cost, parts = cost_of(settings), parts_of(found)
    stepped = f", {cost.each} passes each under latent steps" if cost.each > 1 else ""
    each = f"{cost.embeddings} embeddings{stepped} x timesteps {cost.steps} x draws {cost.draws} x seeds {cost.seeds}"
    if cost.losses:
        each = f"{each}, and loss_timesteps {cost.losses} x draws x seeds"
    plain = cost.of_embeddings(cost.plain)
    about = f"up to {cost.passes(1)} an expression ({each}), {plain} where there is nothing to bind"
    if not found.expressions:
        yield Finding("ok", "passes", f"{about}; how many expressions there are is unknown until the data is there")
        return
    yield Finding("ok", "passes", f"{about}: {_of_each(parts, cost.passes)}")
    yield about_hours(parts, cost, rate, gpus, settings, folder)
    yield about_size(parts, cost, settings, folder, found.pixels)


def parts_of(found: Counted) -> Parts:
    """What to plan for: this run, the splits of its sweep, all splits, as far as they differ."""
    parts = {"this run": found.expressions}
    for names in (found.sweep, tuple(found.splits)):
        if len(names) > 1 and set(names) <= set(found.splits):
            parts[" + ".join(names)] = sum(found.splits[name] for name in names)
    return parts


def cost_of(settings: Settings) -> Cost:
    """What one expression takes under a run's variants, however they are read."""
    variants, maps = settings.run.variants, settings.segmenter.maps
    bound, plain = ({changing(_prompt(bind), v.edits) for v in variants} for bind in (True, False))
    methods = settings.segmenter.make_methods().values()
    steps = {step for method in methods for step in method.timesteps or maps.timesteps or ()}
    losses = {step for method in methods for step in method.loss_timesteps or ()}
    embeddings, unbound = (len(set(map(acting_on_pass, chains))) for chains in (bound, plain))
    taken = settings.segmenter.latent_steps
    return Cost(
        embeddings,
        unbound,
        len(bound),
        len(variants),
        len(steps),
        maps.draws,
        len(settings.run.seeds),
        each=passes_of(taken),
        floors=len({acting_on_pass(v.edits) for v in variants if is_floor(v.label)}) if taken else 0,
        losses=len(losses),
    )


def hours(passes: int, rate: float, gpus: int) -> float:
    """How long so many passes take, shared out evenly."""
    return passes / rate / gpus / 3600


def about_hours(
    parts: Parts, cost: Cost, rate: float | str | None, gpus: int, settings: Settings, folder: Path | None
) -> Finding:
    """Hours of each part, where a rate is known; none is made up."""
    said = "as given"
    if rate == MEASURE and folder is not None:
        rate, device = measure_rate(settings)
        said = f"measured on this machine's {device}, the model alone"
    if rate is None or isinstance(rate, str):
        lacking = "no weights are here to measure it with" if rate else "or rate=measure"
        return Finding("ok", "hours", f"not measured here: give rate=PASSES_PER_SECOND of one GPU; {lacking}")
    speed = rate
    long = _of_each(parts, lambda n: hours(cost.passes(n), speed, gpus), lambda h: f"{h:,.2f} h")
    text = f"at most {long}, at {rate:,.1f} passes a second ({said}) on each of {gpus}"
    reads = cost.texts - cost.embeddings
    if reads:
        text += f"; {reads} texts read besides on these passes are not in it"
    return Finding("ok", "hours", text)


def about_size(parts: Parts, cost: Cost, settings: Settings, folder: Path | None, pixels: float) -> Finding:
    """Bytes on the disk and, where the model is there, of its weights in memory."""
    said = [f"rows {_of_each(parts, lambda n: cost.rows(n) * ROW_BYTES, storage)}"]
    if settings.run.keep_maps:
        each = None if folder is None else map_bytes(settings, folder)
        maps = each and _of_each(parts, lambda n: cost.maps(n) * each, storage)
        said.append(f"kept maps {maps or 'unknown until the model is there'}")
    if settings.run.save_masks:
        said.append(f"masks, about {_of_each(parts, lambda n: cost.maps(n) * pixels * HEAT_BYTES, storage)}")
    if folder is not None:
        count = count_parameters(folder)
        said.append("weights " + ", ".join(f"{storage(count * n)} in {name}" for name, n in BYTES.items()))
    return Finding("ok", "size", "; ".join(said))


def map_bytes(settings: Settings, folder: Path) -> int:
    """Bytes of the kept maps (float16) of one embedding on one picture, as the model's configuration has its layers."""
    configs = configs_of(folder, str(folder))
    unet, vae = (read_json(configs / part / "config.json") for part in ("unet", "vae"))
    deepest = len(unet["block_out_channels"]) - 1
    blocks = [("down", 2**i, name) for i, name in enumerate(unet["down_block_types"])]
    blocks += [("mid", 2**deepest, "CrossAttn")]
    blocks += [("up", 2 ** (deepest - i), name) for i, name in enumerate(unet["up_block_types"])]
    layers = [Layer("", block, ratio, c) for block, ratio, name in blocks if "CrossAttn" in name for c in (True, False)]
    made = settings.segmenter
    plan = Plan(made.make_methods(), made.maps, layers, read_reading(str(folder)))
    scale = 2 ** (len(vae["block_out_channels"]) - 1)
    height, width = made.model.size or (unet["sample_size"] * scale,) * 2
    return len(plan.columns) * (height // scale) * (width // scale) * 2


def check_rate(rate: object, gpus: object) -> tuple[float | str | None, int]:
    """The keys `rate` and `gpus`. Raises UserError for what they cannot be."""
    if isinstance(gpus, bool) or not isinstance(gpus, int) or gpus < 1:
        raise UserError(f"gpus={gpus}; give a whole number >= 1")
    if rate is None or rate == MEASURE:
        return None if rate is None else MEASURE, gpus
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < float("inf"):
        raise UserError(f"rate={rate}; give the passes a second of one GPU, or rate=measure")
    return float(rate), gpus


def _of_each(parts: Parts, count: Callable[[int], float], show: Callable[[float], str] = "{:,}".format) -> str:
    return ", ".join(f"{name} ({n:,} expressions) {show(count(n))}" for name, n in parts.items())


def _prompt(bind: bool) -> Prompt:
    """A prompt in which every edit has something to do, or one with nothing to bind."""
    parse = Parse("a white dog on a mat", (8, 11), (2, 11), bind)
    return Prompt(f"a photograph of {parse.text}", parse, (6,), (5, 6), (6,), bind)
