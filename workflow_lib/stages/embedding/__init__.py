"""What the node embeddings of each model know of the charge states of the redox element."""
