"""Physical checks of a run's products: relations that hold for any host and data."""
