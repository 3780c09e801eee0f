"""Molecular dynamics: moments, coordination, diffraction, diffusion."""
