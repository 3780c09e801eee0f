"""The stages of the workflow; none imports another."""
