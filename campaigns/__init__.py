"""Campaigns of calculations that made the embedded data."""
