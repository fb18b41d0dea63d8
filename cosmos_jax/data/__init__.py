"""Folders of multi-camera clips to batches in host memory (numpy and grain; no jax of ours)."""
