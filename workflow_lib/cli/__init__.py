"""The command line: one file a stage, with the parser and the call side by side."""
