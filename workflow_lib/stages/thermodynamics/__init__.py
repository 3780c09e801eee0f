"""Formation energies, convex hull and open-circuit voltage of each model against DFT."""
