"""What each verb of the command line does, in the groups of its help."""
