"""What a slot's key and value hold, and which slots a question may read (Miller et al. 2016, arXiv:1606.03126)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor


class KeyValueSlots(NamedTuple):
    """Bags of word ids, 0 padding: a slot's key and its value. All slots of a sentence come before the next one's."""

    keys: Int[Tensor, "batch slots key_words"]
    values: Int[Tensor, "batch slots value_words"]


class Representation(ABC):
    """Cuts a story into slots: as many for every sentence; one that holds no words has an empty key."""

    num_dictionaries: int = 1
    """How many vectors a word has: word `i` of dictionary `j`, from 0, has id `i + j * num_words`."""

    @abstractmethod
    def __call__(self, story: Int[Tensor, "batch sentences words"], num_words: int) -> KeyValueSlots:
        """Return the slots of a story whose ids are below `num_words`."""


class SentenceSlots(Representation):
    """A slot per sentence, which is both its key and its value: a Memory Network's (section 3.2, "sentence level")."""

    def __call__(self, story: Int[Tensor, "batch sentences words"], num_words: int) -> KeyValueSlots:
        """Return the sentences twice."""
        return KeyValueSlots(story, story)


class WindowSlots(Representation):
    """A slot per word: the key is the window around the word, the value the word (section 3.2, "window level").

    ```
    mary went to the hallway      window_size=5   key [went to the* hallway .]    value [the*]
                                                  key [to the hallway* . .]       value [hallway*]
    ```

    With `centre_encoding` the starred words, the centres, come from a second dictionary, so that what a question is
    matched with and what answers it are told apart. Two things differ from the paper: a window ends where its sentence
    ends, as bAbI's facts do not run on; and every word is a centre, as the paper's lists of entities are not there.

    Args:
        window_size: words of a window, an odd number (7 in the paper).
        centre_encoding: use the second dictionary.

    Raises:
        ValueError: a window that has no word in its middle.
    """

    def __init__(self, window_size: int = 7, centre_encoding: bool = True) -> None:
        if window_size < 1 or window_size % 2 == 0:
            raise ValueError(f"WindowSlots.window_size must be odd and at least 1, not {window_size}")
        self.window_size = window_size
        self.centre_encoding = centre_encoding
        self.num_dictionaries = 2 if centre_encoding else 1

    def __call__(self, story: Int[Tensor, "batch sentences words"], num_words: int) -> KeyValueSlots:
        """Return a window and its centre for every place of a word; both are empty where there is none."""
        half = self.window_size // 2
        windows = F.pad(story, (half, half)).unfold(-1, self.window_size, 1) * (story != 0)[..., None]
        is_centre = torch.arange(self.window_size, device=story.device) == half
        shifted = windows + num_words * ((windows != 0) & is_centre & self.centre_encoding)
        keys = shifted.flatten(1, 2)
        return KeyValueSlots(keys, keys[:, :, half : half + 1])


def hashed(
    keys: Int[Tensor, "batch slots key_words"], query: Int[Tensor, "batch words"], max_count: int
) -> Bool[Tensor, "batch slots"]:
    """Which slots key hashing keeps: those whose key has a word of the question that is in fewer than `max_count` keys.

    Section 3.1, where frequent words, of 1000 or more, count as stop words. Here a word's frequency is the number of
    keys of the same story that hold it. No slot may be left.
    """
    shares = ((keys[..., None] == query[:, None, None]) & (query != 0)[:, None, None]).any(2)
    return (shares & (shares.sum(1, keepdim=True) < max_count)).any(-1)
