"""The frame table, and reading other people's files into it."""
