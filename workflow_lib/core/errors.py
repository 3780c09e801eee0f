"""Errors that a user can correct, and how the command line shows them."""


def printable(text: str) -> str:
    """Return a text in one line that a terminal can show: control characters and surrogates escaped.

    Names, keys and reasons come from files and hosts: an escape sequence in one could rewrite the screen.
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in text
    )


LONGEST = 1500
"""Characters of a message."""


class UserError(Exception):
    """A mistake in the input: one line saying what is wrong, where, and what would be right.

    The command line prints the message without a traceback and exits with status 2. A message that
    repeats a very long value loses its middle.
    """

    def __str__(self) -> str:
        text = printable(super().__str__())
        return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


class BusyError(UserError):
    """Another process works on it: wait, or continue with something else."""
