"""Numerical library behind the workflow: charge states in machine-learned interatomic potentials.

Only ``workflow/`` knows Snakemake; every rule calls one command of ``workflow-lib``.
"""

__version__ = "0.1.0"
