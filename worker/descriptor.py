"""File descriptors that others in this process may close."""

import os


def identity(number: int) -> tuple[int, int]:
    """Return what a file descriptor leads to.

    Raises:
        OSError: it leads to nothing.
    """
    status = os.fstat(number)
    return status.st_dev, status.st_ino


class Descriptor:
    """A file descriptor of ours, and what it led to when we got it.

    A handler that closes descriptors at random may close this one, and its number then goes to the
    next that is opened: what is meant for our pipe would be written to somebody's socket.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._identity = identity(number)

    @property
    def intact(self) -> bool:
        """Whether it leads to what it led to at first."""
        try:
            return identity(self.number) == self._identity
        except OSError:
            return False

    def close(self) -> None:
        """Close it, if it is ours still."""
        if self.intact:
            os.close(self.number)

    def renewed(self, other: int) -> "Descriptor":
        """Return this one, or where it is lost a copy of another that leads to the same.

        Raises:
            OSError: the other does not.
        """
        if self.intact:
            return self
        if identity(other) != self._identity:
            raise OSError(f"descriptor {other} leads to something else")
        return Descriptor(os.dup(other))
