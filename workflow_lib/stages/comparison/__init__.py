"""One table over all trained models, its figure, and where everything came from."""
