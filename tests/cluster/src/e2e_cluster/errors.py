"""What goes wrong here, by what the reader does next.

Every failure that a user can act on is a ``ClusterError`` whose text is the whole message; the command
line prints it and ends with status 1. Anything else is a defect and keeps its traceback.
"""


class ClusterError(Exception):
    """Something a user can act on; its text says what and how."""


class MachineError(ClusterError):
    """The machine misses something that has to be installed or allowed first."""


class StartError(ClusterError):
    """A component did not come up; the text ends with the last lines of its log."""


class ResidueError(ClusterError):
    """Something of a cluster outlived the attempt to remove it; the text names every item."""
