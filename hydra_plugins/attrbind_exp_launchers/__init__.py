"""Hydra finds launchers and sweepers in packages of this name only: launcher=local, gpus, ray_cluster, slurm."""
