"""Reference energies from DFT: what is known and what is still asked for."""
