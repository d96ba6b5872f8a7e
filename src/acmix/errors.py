"""The errors that a user can cause and mend; the command line prints them as one line, without a traceback."""

__all__ = ["UserError"]


class UserError(Exception):
    """Something outside the library is wrong: a path, a file, a name, a checkpoint.

    The message is one line that says what came, what was expected and what to do.
    """
