"""Rehearsals of releases: a registry on this machine, a base for two platforms, and a commit that can be released."""
