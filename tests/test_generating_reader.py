"""The reader that writes: what it writes is what it expects, row by row; a Block changes it, padding does not."""

from __future__ import annotations

import pytest
import torch
from test_models import SPECS, as_double, disturb, inputs_of
from torch.testing import assert_close

from memnets.contracts import map_tensors
from memnets.memory.block import Block
from memnets.memory.slots.base import Sizes
from memnets.memory.slots.retrieved import RetrievedMemory
from memnets.models.generating_reader import GeneratingReader
from memnets.retrieval.question import Prompt

BATCH, TIME = 3, 9
STARTS = (2, 4, 2)


def reader_of(**sizes):
    model = disturb(GeneratingReader(SPECS["prompt"], d_model=16, num_heads=2, feed_forward_size=16, **sizes))
    torch.nn.init.zeros_(model.head.bias)  # or it says the same whatever it has read
    return model.double().eval()


def prompt_of(seed=0):
    return as_double(inputs_of("prompt", time=TIME, seed=seed))


def places(starts=STARTS):
    return torch.arange(TIME) >= torch.tensor(starts)[:, None]


def row(prompt, number):
    return map_tensors(lambda part: part[number : number + 1], prompt)


class TestWriting:
    def test_is_what_it_expects_after_the_words_before(self):
        """Read all at once, what was written is the likeliest at each of its places."""
        model, prompt = reader_of(), prompt_of()
        written, where = model.go_on(prompt, places()), places()
        told = prompt.words.where(~where | (where.cumsum(1) == 1), written.roll(1, 1))
        expected = model(Prompt(told, prompt.block))[0].argmax(-1)
        assert written[where].equal(expected[where])
        assert not written[~where].any()
        assert len(written[where].unique()) > 2, "the test would see no difference"

    def test_reads_nothing_behind_the_first_place(self):
        model, prompt, where = reader_of(), prompt_of(), places()
        hidden = prompt.words.masked_fill(where & (where.cumsum(1) > 1), 0)
        assert model.go_on(prompt, where).equal(model.go_on(Prompt(hidden, prompt.block), where))

    def test_a_row_alone_is_written_the_same(self):
        """Whatever the lengths of the others, and whatever the window."""
        for model in (reader_of(), reader_of(window=3)):
            prompt, where = prompt_of(), places()
            together = model.go_on(prompt, where)
            alone = [model.go_on(row(prompt, number), where[number : number + 1]) for number in range(BATCH)]
            assert torch.cat(alone).equal(together)

    def test_another_block_another_answer(self):
        model, prompt, other = reader_of(), prompt_of(), prompt_of(seed=1)
        edited = Prompt(prompt.words, other.block)
        assert not model.go_on(edited, places()).equal(model.go_on(prompt, places()))

    def test_models_of_other_kinds_write_nothing(self):
        assert super(GeneratingReader, reader_of()).go_on(prompt_of(), places()) is None


class TestReading:
    def test_two_halves_equal_the_whole(self):
        model, (words, block) = reader_of(), prompt_of()
        whole, _ = model(Prompt(words, block))
        for cut in (1, 4, TIME - 1):
            first, state = model(Prompt(words[:, :cut], block))
            second, _ = model(Prompt(words[:, cut:], block), state)
            assert_close(torch.cat([first, second], 1), whole, rtol=1e-9, atol=1e-12)

    def test_later_words_and_padding_behind_change_nothing(self):
        model, (words, block) = reader_of(), prompt_of()
        longer = torch.cat([words, torch.zeros(BATCH, 3, dtype=torch.long)], 1)
        assert_close(model(Prompt(longer, block))[0][:, :TIME], model(Prompt(words, block))[0], rtol=1e-9, atol=1e-12)

    def test_padding_of_the_block_changes_nothing(self):
        model, (words, block) = reader_of(), prompt_of()
        nonsense = Block(*(None if part is None else torch.full_like(part[:, :2], 7) for part in block))
        nonsense = nonsense._replace(mask=torch.zeros_like(block.mask[:, :2]))
        wide = Block(*(a if a is None else torch.cat([a, b], 1) for a, b in zip(block, nonsense, strict=True)))
        assert_close(model(Prompt(words, wide))[0], model(Prompt(words, block))[0], rtol=1e-9, atol=1e-12)

    def test_nothing_retrieved_is_finite_with_its_gradients(self):
        model, (words, block) = reader_of(), prompt_of()
        outputs, _ = model(Prompt(words, block._replace(mask=torch.zeros_like(block.mask))))
        outputs.log_softmax(-1)[..., 0].sum().backward()
        assert outputs.isfinite().all()
        assert all(each.grad is None or each.grad.isfinite().all() for each in model.parameters())

    def test_every_word_reads_the_block_and_the_closed_book_none(self):
        prompt, other = prompt_of(), prompt_of(seed=1)
        edited = Prompt(prompt.words, other.block)
        for reads in (True, False):
            model = reader_of(reads_block=reads)
            changed = (model(prompt)[0] != model(edited)[0]).any(-1)
            assert changed.all() if reads else not changed.any()

    def test_a_state_that_starts_again_is_the_initial_one(self):
        model, prompt = reader_of(), prompt_of()
        _, state = model(prompt)
        again, _ = model(prompt, model.restart(state, torch.tensor([True, False, True])))
        fresh, _ = model(prompt)
        assert_close(again[::2], fresh[::2], rtol=1e-9, atol=1e-12)
        assert not torch.allclose(again[1], fresh[1])


class TestRetrievedMemory:
    def test_reads_by_hand(self):
        """Weights of a loop over rows, heads, queries and items."""
        torch.manual_seed(0)
        model, prompt = reader_of(), prompt_of()
        memory = RetrievedMemory(Sizes(16, 2, 8, 32, 2), item_size=6).double()
        torch.nn.init.normal_(memory.relevance)
        seen = []
        layer = model.decoder.memories["0"]
        layer.register_forward_pre_hook(lambda _, given: seen.append(given))
        model(prompt)
        window, state = seen[0]
        found = memory.read(window, state)
        for at in ((0, 0, 0), (1, 1, 4), (2, 0, 8)):
            b, h, t = at
            scores, values = [], []
            for item in prompt.block.mask[b].nonzero()[:, 0]:
                vector, part = prompt.block.vectors[b, item], slice(8 * h, 8 * h + 8)
                key = memory.key(vector)[part]
                relevance = memory.relevance[h, 0, 0] * prompt.block.scores[b, item]
                scores.append(window.query[b, h, t] @ (key / (key @ key + 1e-8).sqrt()) + relevance)
                values.append(memory.value(vector)[part])
            expected = torch.stack(scores).softmax(0) @ torch.stack(values)
            assert_close(found.vectors[at], expected, rtol=1e-9, atol=1e-12)
        assert_close(found.weights.sum(-1), torch.ones(BATCH, 2, TIME).double())
        assert not found.weights[(~prompt.block.mask)[:, None, None].expand_as(found.weights)].any()


@pytest.mark.parametrize("other", ["question", "tokens"])
def test_refuses_a_task_without_prompts(other):
    with pytest.raises(ValueError, match=f"GeneratingReader reads prompt, but the task gives {other}"):
        GeneratingReader(SPECS[other])
