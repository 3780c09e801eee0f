"""The page of a run: its answer first, then everything behind it, in one file that needs no network."""
