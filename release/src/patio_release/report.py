"""What gets a line of progress, for people."""

from collections.abc import Callable

Report = Callable[[str], None]
