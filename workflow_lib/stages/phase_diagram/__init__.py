"""Phase diagrams at finite temperature, with and without the entropy of the charge states."""
