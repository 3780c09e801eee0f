"""What one change of the training does to the errors: two models of a run, paired."""
