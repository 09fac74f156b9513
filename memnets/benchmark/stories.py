"""Training steps on stories as long as bAbI's: of Memory Networks, one and ten at once, and of an entity network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from memnets.benchmark.problem import Problem, Step, nbytes
from memnets.contracts import Spec, Story
from memnets.models.base import SequenceModel
from memnets.models.entity_network import EntityNetwork
from memnets.models.memn2n import MemN2N
from memnets.ops.draw import Sizes

BATCH = 32
VOCABULARY = 35


class StoryStep(NamedTuple):
    """Networks to train at once on stories of up to `sentences`: several under `torch.func.vmap`, a batch for each."""

    sizes: Sequence[Sizes]
    network: Callable[[Sizes, Spec], SequenceModel]
    sentences: Callable[[Sizes], int]
    networks: int = 1


def _memn2n(sizes: Sizes, spec: Spec) -> MemN2N:
    return MemN2N(spec, embedding_size=sizes.word, num_hops=sizes.heads)


def _entity_network(sizes: Sizes, spec: Spec) -> EntityNetwork:
    return EntityNetwork(spec, memory_size=sizes.slots, word_size=sizes.word)


MEMN2N_SIZES = tuple(
    Sizes(heads=3, slots=slots, word=20, time=time, width=6) for slots, time in [(10, 10), (50, 30), (50, 105)]
)
"""Tasks 1, 2 and 3. `heads` counts hops; a story tells up to `time` sentences of up to `width` words, of which the
newest fill the slots: 6, 15 and 38 of them on average, as in bAbI."""
ENTITY_SIZES = tuple(Sizes(heads=1, slots=20, word=100, time=time, width=6) for time in (10, 30))
"""Tasks 1 and 2: `slots` counts cells."""
STORY_STEPS = {
    "memn2n_step": StoryStep(MEMN2N_SIZES, _memn2n, lambda sizes: sizes.slots),
    "memn2n_ten_step": StoryStep(MEMN2N_SIZES, _memn2n, lambda sizes: sizes.slots, networks=10),
    "entity_step": StoryStep(ENTITY_SIZES, _entity_network, lambda sizes: sizes.time),
}


def story_step(name: str, sizes: Sizes, device: str) -> Problem:
    """A training step on random words: forward, loss, backward, Adam."""
    torch.manual_seed(0)
    _, network, sentences, networks = STORY_STEPS[name]
    spec = Spec("story", VOCABULARY, VOCABULARY, sentences(sizes), sizes.width)
    batches = [_batch(sizes, sentences(sizes)) for _ in range(networks)]
    inputs = Story(*(torch.stack(each).to(device) for each in zip(*(story for story, _ in batches), strict=True)))
    targets = torch.stack([target for _, target in batches]).to(device)
    trained = [network(sizes, spec).to(device) for _ in range(networks)]
    parameters = _parameters(trained)

    def step_of(network: nn.Module) -> Step:
        return _training(network, parameters, inputs, targets)

    def compiled() -> Step:
        trained[0].compiled_part().compile(dynamic=False)
        return step_of(trained[0])

    owned = (*inputs, targets, *parameters.values())
    return Problem(
        name,
        sizes,
        step_of(trained[0]),
        compiled,
        nbytes([*inputs, targets, *list(parameters.values()) * 7]),
        owned=owned,
        num_steps=sizes.batch * networks,
    )


def _parameters(networks: list[SequenceModel]) -> dict[str, Tensor]:
    """Those of one network, or those of several stacked."""
    if len(networks) == 1:
        return dict(networks[0].named_parameters())
    return stack_module_state(list[nn.Module](networks))[0]


def _batch(sizes: Sizes, sentences: int) -> tuple[Story, Tensor]:
    """Stories of 1 to `time` sentences, of 4 words to the most."""
    told = torch.randint(1, sizes.time + 1, (sizes.batch, 1)).clamp(max=sentences)
    lengths = torch.randint(min(4, sizes.width), sizes.width + 1, (sizes.batch, sentences, 1))
    lengths = lengths * (torch.arange(sentences) < told)[..., None]
    words = torch.randint(1, VOCABULARY, (sizes.batch, sentences + 1, sizes.width))
    story = words[:, 1:] * (torch.arange(sizes.width) < lengths)
    return Story(story, words[:, 0]), torch.randint(1, VOCABULARY, (sizes.batch,))


def _training(network: nn.Module, parameters: dict[str, Tensor], inputs: Story, targets: Tensor) -> Step:
    optimizer = torch.optim.Adam(parameters.values(), fused=True)

    def logits(parameters: dict[str, Tensor], story: Tensor, query: Tensor) -> Tensor:
        return functional_call(network, parameters, (Story(story, query),))[0]

    def step() -> None:
        optimizer.zero_grad()
        if len(targets) == 1:
            outputs = network(Story(inputs.story[0], inputs.query[0]))[0][None]
        else:
            outputs = vmap(logits)(parameters, *inputs)
        # Each network's mean, all added: its gradients are those it has alone.
        (F.cross_entropy(outputs.flatten(0, 1), targets.flatten()) * len(targets)).backward()
        optimizer.step()

    return step
