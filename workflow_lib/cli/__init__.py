"""The command line: one file per stage, with its options and the call side by side."""
