"""The error a user can mend, and how the command line shows it."""


class UserError(Exception):
    """A mistake in the input: one line saying what is wrong, where, and what would be right.

    The command line prints the message without a traceback and exits with status 2.
    """


class BusyError(UserError):
    """Another process works on it: wait, or go on with something else."""
