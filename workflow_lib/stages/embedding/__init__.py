"""What each model's node embeddings contain about the charge states of the redox element."""
