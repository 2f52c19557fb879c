"""Keys whose values are paths or words for people: one value whatever is in it, never several to sweep over."""

PATHS = (
    "image",
    "mask",
    "heat",
    "rle",
    "model.path",
    "dataset.root",
    "dataset.images",
    "dataset.annotations",
    "dataset.file",
    "dataset.labels",
    "dataset.parses",
    "captioner.path",
    "captioner.file",
    "captioner.cache",
    "cache.folder",
    "text_processor.overrides",
    "hydra.run.dir",
    "hydra.sweep.dir",
    "launcher.submitit_folder",
    "folder",
    "out",
)
WORDS = (
    "expression",
    "model.name",
    "dataset.note",
    "text_processor.template",
    "tracker.project",
    "launcher.name",
    "launcher.partition",
    "launcher.account",
    "launcher.qos",
)
FREE_TEXT = PATHS + WORDS
