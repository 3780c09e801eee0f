"""Search for low-energy arrangements of ions and charge states with one model."""
