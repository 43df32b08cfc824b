"""The tokenizer of the tiny CLIP's text tower."""

from __future__ import annotations

import re

import torch

from clipaffect.encoders.captions import vocabulary

PADDING, UNKNOWN, START = 0, 1, 2
WORDS = vocabulary()
NUMBERS = {word: number for number, word in enumerate(WORDS, START + 1)}
# open_clip pools a text at its largest token number: the end must be the last of all.
END = START + 1 + len(WORDS)
CONTEXT = 64  # tokens; the longest of 20,000 captions had 54 words; what is longer is cut


def tokenize(texts: list[str]) -> torch.Tensor:
    """Token numbers (n, CONTEXT) int64 of texts; other words than the captions' are UNKNOWN."""
    tokens = torch.full((len(texts), CONTEXT), PADDING)
    for row, text in enumerate(texts):
        words = re.findall(r"[a-z]+", text.lower())[: CONTEXT - 2]
        numbers = [START, *(NUMBERS.get(word, UNKNOWN) for word in words), END]
        tokens[row, : len(numbers)] = torch.tensor(numbers)
    return tokens
