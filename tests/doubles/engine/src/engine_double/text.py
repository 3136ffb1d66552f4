"""What the double says: words that follow from the weights and the prompt, so that a test sees which adapter answered.

Pure. The same weights and the same prompt give the same words in every process; other weights give other words. Every
word is made by itself, so weights that change in the middle of an answer show as a mix.
"""

from __future__ import annotations

import hashlib

_CONSONANTS = "bdfgklmnprstvz"
_VOWELS = "aeiou"
_SYLLABLES = tuple(consonant + vowel for vowel in _VOWELS for consonant in _CONSONANTS)


def tokens_of(prompt: str) -> int:
    """How many tokens a prompt counts for: its words, at least one."""
    return max(1, len(prompt.split()))


def token_text(weights: str, prompt: str, index: int) -> str:
    """One token, with a leading space.

    Args:
        weights: identifies what answers: the base model's name or an adapter's digest.
        prompt: what was asked.
        index: the how manieth of the answer, from 0.
    """
    digest = hashlib.sha256(f"{weights}\0{prompt}\0{index}".encode()).digest()
    return " " + _SYLLABLES[digest[0] % len(_SYLLABLES)] + _SYLLABLES[digest[1] % len(_SYLLABLES)]


def answer_text(weights: str, prompt: str, count: int) -> str:
    """A whole answer by one and the same weights: what a test compares with, to see that no other had a part in it."""
    return "".join(token_text(weights, prompt, index) for index in range(count))
