"""Diffusion processes, conditioning and solvers; a network is handed in as a velocity function."""
