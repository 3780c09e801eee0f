"""Simulations with a potential: relaxation, its cache, the interfaces to ASE and torch-sim."""
