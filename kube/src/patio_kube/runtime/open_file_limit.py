"""How many files and connections the process may have open: raised at start, and named in errors when used up.

Each sidecar that is watched is an open connection. Container runtimes start processes with a soft limit of 1,024 unless
another one is set, and let each process raise its own up to the hard limit.
"""

from __future__ import annotations

import errno
import logging
import resource

log = logging.getLogger(__name__)

ENOUGH = 1_048_576
"""What is asked for where the hard limit is no limit: some kernels reject more than this (fs.nr_open)."""


def raise_file_limit() -> int:
    """Raise the soft limit to the hard one; return what is in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError) as error:
            log.warning("the limit of open files stays at %d: %s", soft, error)
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def is_out_of_files(error: BaseException | None) -> bool:
    """Tell whether an error, or what it came from, is that this process has too many files open."""
    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        error = getattr(error, "os_error", None) or error.__cause__ or error.__context__
        seen += 1
    return False


def connection_error(error: BaseException) -> str:
    """Say what kept this process from connecting; when it is its own limit, that."""
    if is_out_of_files(error):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"the operator has too many open files; its limit is {limit} (RLIMIT_NOFILE): raise the hard limit"
    return str(error) or type(error).__name__
