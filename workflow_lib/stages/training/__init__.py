"""Training: one trainer for all families, from frames and splits to a trained model."""
