"""What a text-to-image diffusion model understands of a sentence, measured by zero-shot segmentation."""

import os

__version__ = "0.1.0"

# Threads that wait must not spin: on two cores with other work on them a run took up to four times as long. OpenMP
# reads this once, when torch loads. What the user has set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
