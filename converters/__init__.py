"""Weights of the published PyTorch models to and from ours, by tables."""
