"""Gradient steps on the noisy latents before a pass is read."""
