"""What stops a release: a `ReleaseError`, whose text says what to do about it."""


class ReleaseError(Exception):
    """Something that a maintainer can act on; its text is the whole message."""
