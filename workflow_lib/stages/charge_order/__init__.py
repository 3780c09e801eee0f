"""Every model answers the enumerated charge-ordered states; the answers are held against DFT."""
