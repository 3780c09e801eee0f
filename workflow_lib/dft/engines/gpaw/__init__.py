"""GPAW: steered charge states, Bader charges, preconditioned relaxations."""
