"""The number of files that this process may have open: raised at its start.

Containers often begin with a soft limit of 1,024 below a hard one that is far higher. Called by `app` before anything
is opened.
"""

from __future__ import annotations

import resource


def raise_file_limit() -> int:
    """Raise the soft limit to the hard one; return what is in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # more than the kernel gives anyone (fs.nr_open)
            return soft
    return hard if hard != resource.RLIM_INFINITY else 2**31 - 1
