"""What a text-to-image diffusion model understands of a sentence, measured by zero-shot segmentation."""

__version__ = "0.1.0"
