"""Families of potentials behind one contract (``contract.py``), one adapter file per family."""
