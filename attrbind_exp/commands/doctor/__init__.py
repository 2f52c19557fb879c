"""Is everything there that a run needs? Looked at before the run, without writing a byte."""
