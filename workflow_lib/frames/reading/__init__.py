"""Read foreign files of any size into one frame table."""
