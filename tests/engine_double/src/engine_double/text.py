"""What the double says: words that follow from the weights and the prompt, so that a test sees which adapter answered.

Pure. The same weights and the same prompt give the same words in every process; other weights give other words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

_CONSONANTS = "bdfgklmnprstvz"
_VOWELS = "aeiou"
_SYLLABLES = tuple(consonant + vowel for vowel in _VOWELS for consonant in _CONSONANTS)


def tokens_of(prompt: str) -> int:
    """How many tokens a prompt counts for: its words, at least one."""
    return max(1, len(prompt.split()))


def words(weights: str, prompt: str) -> Iterator[str]:
    """Endless words, each one token with a leading space.

    Args:
        weights: identifies what answers: the base model's name or an adapter's digest.
        prompt: what was asked.
    """
    index = 0
    while True:
        digest = hashlib.sha256(f"{weights}\0{prompt}\0{index}".encode()).digest()
        yield " " + _SYLLABLES[digest[0] % len(_SYLLABLES)] + _SYLLABLES[digest[1] % len(_SYLLABLES)]
        index += 1
