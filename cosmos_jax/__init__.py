"""Post-training and sampling of NVIDIA's Cosmos multi-camera video models in JAX."""

__version__ = "0.1.0"
