"""Numerical library behind the workflow: charge states in machine-learned interatomic potentials.

Nothing in here imports Snakemake; every rule calls one verb of ``python -m workflow_lib``.
"""

__version__ = "0.1.0"
