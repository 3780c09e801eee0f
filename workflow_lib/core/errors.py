"""Errors that a user can correct, and how the command line shows them."""


class UserError(Exception):
    """A mistake in the input: one line saying what is wrong, where, and what would be right.

    The command line prints the message without a traceback and exits with status 2.
    """


class BusyError(UserError):
    """Another process works on it: wait, or continue with something else."""
