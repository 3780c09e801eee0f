"""Physical checks of a run's products: what must hold for any host and data."""
