"""From a file of DFT frames to one frame table with charge states, splits and a summary."""
