"""One table over all trained models, its figure, and the provenance of the run."""
