"""The base of every error that the user can mend: wrong settings, files, records, models."""


class InputError(ValueError):
    """Something given is unusable; the message names it and the way out.

    Command lines print these as one line; any other exception is a fault and keeps its trace.
    """


class RunFailed(RuntimeError):
    """A run had to stop for a cause outside the code; the message names it and the way out."""
