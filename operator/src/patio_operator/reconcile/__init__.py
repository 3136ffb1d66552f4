"""The loops that make things so: `queue` decides when, `adapters` and `groups` what, each for one key at a time."""
