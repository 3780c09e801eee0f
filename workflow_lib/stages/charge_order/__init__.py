"""The models' energies of the enumerated charge-ordered states, compared with DFT."""
