"""Molecular dynamics with any potential: ensembles, charge exchange, trajectories that resume."""
