"""VASP: inputs, the user's command, outputs."""
