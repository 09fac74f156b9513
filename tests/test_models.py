"""Models: one contract for every configs/model/*.yaml, and what the papers say of their sizes."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path

import hydra.utils
import pytest
import torch
from omegaconf import OmegaConf
from torch.testing import assert_close

from memnets.contracts import Edges, GraphQuestion, Spec, Story, map_tensors, named_tensors
from memnets.memory.block import Block
from memnets.models.base import SequenceModel, read_hidden
from memnets.models.controller import LSTMController
from memnets.models.lstm import LSTM
from memnets.models.memn2n import MemN2N
from memnets.retrieval.passages import Passages
from memnets.retrieval.question import Prompt, Question

CONFIGS = sorted((Path(__file__).parents[1] / "configs" / "model").glob("*.yaml"))
BATCH, TIME = 3, 9
SPECS = {
    "vectors": Spec("vectors", 4, 3),
    "tokens": Spec("tokens", 7, 7),
    "story": Spec("story", 9, 9, story_size=4, sentence_size=3),
    "graph": Spec("graph", 9, 7, num_relations=3),
    "question": Spec("question", 6, 5, answer_tokens=(1, 2, 3, 4, 5), has_values=True),
    "text": Spec("text", 12, 2 * TIME, heads=("span",)),
    "prompt": Spec("prompt", 7, 7, item_size=6),
}
SMALL = {
    "memory_size": 5,
    "word_size": 3,
    "hidden_size": 6,
    "embedding_size": 6,
    "num_layers": 2,
    "d_model": 8,
    "num_heads": 2,
    "window": 3,
    "chunk_size": 2,
    "capacity": 4,
    "top_k": 2,
    "num_tokens": 2,
    "num_slots": 4,
}
WITHOUT_TIME = ("story", "graph", "question", "text", "prompt")
"""Kinds that are read whole and answered once; and prompts, whose readers have tests of their own."""


def shrunk(node):
    """The configuration with every size named in SMALL made small, wherever a constructor takes it from there."""
    if isinstance(node, list):
        return [shrunk(item) for item in node]
    if not isinstance(node, dict):
        return node
    inner = {key: shrunk(value) for key, value in node.items()}
    if "_target_" not in node:
        return inner
    taken = inspect.signature(hydra.utils.get_object(node["_target_"])).parameters
    optional = {name for name, parameter in taken.items() if parameter.default is not parameter.empty}
    return inner | {name: size for name, size in SMALL.items() if name in optional | inner.keys()}


def build(path, kind):
    config = shrunk(OmegaConf.to_container(OmegaConf.load(path)))
    return hydra.utils.instantiate(config | {"_partial_": True}, _convert_="all")(spec=SPECS[kind])


def accepted(path):
    return sorted(hydra.utils.get_class(OmegaConf.load(path)["_target_"]).accepts)


def inputs_of(kind, batch=BATCH, time=TIME, seed=0):
    generator, spec = torch.Generator().manual_seed(seed), SPECS[kind]
    if kind == "vectors":
        return torch.randn(batch, time, spec.input_size, generator=generator)
    if kind == "tokens":
        return torch.randint(spec.input_size, (batch, time), generator=generator)
    if kind == "text":
        return passages_of(spec, batch, generator)
    if kind == "prompt":
        block = question_of(Spec("question", spec.item_size, 5), batch, generator).block
        return Prompt(torch.randint(1, spec.input_size, (batch, time), generator=generator), block)
    if kind == "question":
        return question_of(spec, batch, generator)
    words = partial(torch.randint, 1, spec.input_size, generator=generator)
    if kind == "graph":
        return graph_question(words((batch, 5)), partial(torch.randint, generator=generator), spec)
    story = words((batch, spec.story_size, spec.sentence_size))
    story[0, 2:] = 0  # a shorter story
    story[:, 0, 2:] = 0  # a shorter sentence
    return Story(story, words((batch, spec.sentence_size)))


def passages_of(spec, batch, generator):
    """Two passages each, of which the second is shorter: three tokens of a question, five and four of a passage."""
    tokens = torch.randint(1, spec.input_size, (batch, 2, TIME), generator=generator)
    types = torch.zeros_like(tokens)
    types[..., 4:] = 1
    tokens[:, 1, -1] = types[:, 1, -1] = 0
    numbers = torch.zeros(batch, 2, dtype=torch.long)
    return Passages(tokens, types, torch.randn(batch, 2, generator=generator), numbers[:, 0], numbers, numbers)


def graph_question(words, draw, spec):
    """Of three words and of five, about a graph each, of which some edges are padding."""
    batch, num_edges = len(words), 40
    words[0, 3:] = 0
    source, target = (draw(spec.output_size, (batch, num_edges)) for _ in range(2))
    relation, mask = draw(spec.num_relations, (batch, num_edges)), draw(10, (batch, num_edges)) > 0
    return GraphQuestion(draw(spec.output_size, (batch,)), words, Edges(source, relation, target, mask))


def question_of(spec, batch, generator, items=6):
    """A question each, and items of which the last are padding."""
    mask = torch.arange(items) < torch.arange(items, items - batch, -1)[:, None]
    draw = partial(torch.randint, size=(batch, items), generator=generator)
    vectors = torch.randn(batch, items, spec.input_size, generator=generator) * mask[..., None]
    scores = torch.randn(batch, items, generator=generator) * mask
    values = draw(0, spec.output_size).masked_fill(~mask, -1)
    block = Block(vectors, mask, scores, draw(0, 40), draw(1, 1 + spec.output_size) * mask, values)
    return Question(torch.randn(batch, spec.input_size, generator=generator), block)


def disturb(model):
    """Move every parameter off its initial value: what starts at zero or constant would hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def outputs_of(model, inputs, state=None):
    torch.manual_seed(0)
    return model(inputs, state)


PAIRS = [pytest.param(path, kind, id=f"{path.stem}-{kind}") for path in CONFIGS for kind in accepted(path)]
every_model = pytest.mark.parametrize(("path", "kind"), PAIRS)
every_sequence_model = pytest.mark.parametrize(("path", "kind"), [p for p in PAIRS if p.values[1] not in WITHOUT_TIME])


@pytest.fixture
def model(path, kind):
    return disturb(build(path, kind)).eval()


class TestContract:
    @every_model
    def test_output_shape(self, model, kind):
        assert isinstance(model, SequenceModel)
        outputs, _ = model(inputs_of(kind))
        steps = {"text": (2,), "prompt": (TIME,)}.get(kind, () if kind in WITHOUT_TIME else (TIME,))
        assert outputs.shape == (BATCH, *steps, SPECS[kind].output_size)
        assert outputs.isfinite().all()

    @every_model
    def test_refuses_other_kinds(self, model, kind):
        for other in SPECS.keys() - type(model).accepts:
            with pytest.raises(ValueError, match=f"{type(model).__name__} reads .*but the task gives {other}"):
                type(model)(SPECS[other])

    @every_model
    def test_state_is_tensors_with_batch_first(self, model, kind):
        _, after = model(inputs_of(kind))
        for state in (model.initial_state(BATCH), after):
            assert all(len(tensor) == BATCH for tensor in named_tensors(state).values())
        if not model.state_grows:
            assert shapes(after) == shapes(model.initial_state(BATCH))
        assert kinds(after) == kinds(model.initial_state(BATCH))

    @every_model
    def test_starting_state_is_the_initial_one(self, model, kind):
        implicit, _ = outputs_of(model, inputs_of(kind))
        torch.manual_seed(0)
        explicit, _ = model(inputs_of(kind), model.initial_state(BATCH))
        assert explicit.equal(implicit)

    @every_model
    def test_initial_state_does_not_depend_on_the_batch_size(self, model, kind):
        torch.manual_seed(0)
        one = named_tensors(model.initial_state(1))
        torch.manual_seed(0)
        for name, tensor in named_tensors(model.initial_state(BATCH)).items():
            assert tensor[:1].equal(one[name]), name

    @every_sequence_model
    @pytest.mark.parametrize("cut", [1, 4, TIME - 1])
    def test_two_halves_equal_the_whole(self, model, kind, cut):
        model, inputs = model.double(), as_double(inputs_of(kind))
        whole, final = outputs_of(model, inputs)
        first, state = outputs_of(model, inputs[:, :cut])
        second, after = model(inputs[:, cut:], state)
        assert_close(torch.cat([first, second], 1), whole, rtol=1e-9, atol=1e-12)
        assert_close(named_tensors(after), named_tensors(final), rtol=1e-9, atol=1e-12)

    @every_model
    def test_rows_are_independent(self, model, kind):
        model = model.double()
        torch.manual_seed(0)
        state = model.initial_state(BATCH)
        inputs, others = (as_double(inputs_of(kind, seed=seed)) for seed in (0, 1))
        mixed = map_tensors(lambda one, two: torch.cat([one[:1], two[1:]]), inputs, others)
        outputs, after = model(inputs, state)
        changed, after_changed = model(mixed, state)
        assert_close(changed[:1], outputs[:1], rtol=1e-9, atol=1e-12)
        assert not changed[1:].equal(outputs[1:])
        first_rows = [{k: v[:1] for k, v in named_tensors(each).items()} for each in (after, after_changed)]
        assert_close(*first_rows, rtol=1e-9, atol=1e-12)

    @every_sequence_model
    def test_earlier_outputs_ignore_later_inputs(self, model, kind):
        model = model.double()
        inputs, others = (as_double(inputs_of(kind, seed=seed)) for seed in (0, 1))
        outputs, _ = outputs_of(model, inputs)
        for cut in range(1, TIME):
            changed, _ = outputs_of(model, torch.cat([inputs[:, :cut], others[:, cut:]], 1))
            assert_close(changed[:, :cut], outputs[:, :cut], rtol=1e-9, atol=1e-12)

    @every_sequence_model
    def test_places_asked_for_are_those_of_all_outputs(self, model, kind):
        if not model.answers_places:
            pytest.skip("answers every step")
        inputs, where = inputs_of(kind), torch.rand(BATCH, TIME, generator=torch.Generator().manual_seed(1)) < 0.4
        outputs, state = model(inputs)
        asked, after = model(inputs, None, where)
        assert_close(asked, outputs[where][:, None])
        assert_close(named_tensors(after), named_tensors(state), rtol=0, atol=0)

    @every_model
    @pytest.mark.parametrize("training", [True, False])
    def test_remembers_nothing_on_self(self, model, kind, training):
        model.train(training)
        before = {name: tensor.clone() for name, tensor in everything(model).items()}
        outputs, state = outputs_of(model, inputs_of(kind))
        model(inputs_of(kind, batch=1, seed=2))
        again, state_again = outputs_of(model, inputs_of(kind))
        assert again.equal(outputs)
        assert_close(named_tensors(state_again), named_tensors(state), rtol=0, atol=0)
        assert_close(everything(model), before, rtol=0, atol=0, equal_nan=True)

    @every_sequence_model
    def test_leaves_the_state_it_was_given(self, model, kind):
        _, state = model(inputs_of(kind))
        before = map_tensors(torch.clone, state)
        model(inputs_of(kind), state)
        assert_close(named_tensors(state), named_tensors(before), rtol=0, atol=0)

    @every_sequence_model
    def test_state_survives_being_named_and_rebuilt(self, model, kind):
        inputs = inputs_of(kind)
        _, state = model(inputs)
        saved = iter({name: tensor.clone() for name, tensor in named_tensors(state).items()}.values())
        rebuilt = map_tensors(lambda _: next(saved), model.initial_state(BATCH))
        assert type(rebuilt) is type(state)
        assert outputs_of(model, inputs, rebuilt)[0].equal(outputs_of(model, inputs, state)[0])

    @every_model
    def test_every_parameter_gets_a_gradient(self, model, kind):
        check_gradients(model.train(), inputs_of(kind, time=3 * TIME))

    @every_sequence_model
    def test_outputs_are_its_head_s_of_what_read_hidden_returns(self, model, kind):
        """Once, for all steps, and without a trace on the model."""
        hidden, outputs, state = read_hidden(model, inputs_of(kind))
        expected, after = outputs_of(model, inputs_of(kind))
        assert hidden.shape == (BATCH, TIME, model.head.in_features)
        assert outputs.equal(expected)
        assert outputs.equal(model.head(hidden))
        assert_close(named_tensors(state), named_tensors(after), rtol=0, atol=0)
        assert not model.head._forward_pre_hooks

    @every_model
    def test_compiled_part_is_a_part(self, model, kind):
        assert any(part is model.compiled_part() for part in model.modules())


class TestLSTM:
    def test_forget_bias_is_added_once(self):
        bias = LSTMController(2, hidden_size=50).layers[0].bias_ih.detach()
        assert bias[50:100].mean().item() == pytest.approx(1, abs=0.1)
        assert torch.cat([bias[:50], bias[100:]]).abs().max() < 0.2

    def test_has_the_paper_size(self):
        """Table 3 gives 1,352,969 for copy. Ours has two bias vectors a layer, no learned initial state."""
        sizes = [parameter.numel() for parameter in LSTM(Spec("vectors", 9, 8)).parameters()]
        assert sum(sizes) == 4 * 256 * (9 + 256 + 2) + 2 * 4 * 256 * (256 + 256 + 2) + 257 * 8


def test_a_reader_of_stories_has_no_head():
    with pytest.raises(TypeError, match=r"MemN2N does not end in a linear layer of each step, self\.output"):
        read_hidden(MemN2N(SPECS["story"]), inputs_of("story"))


def shapes(state):
    return {name: (tensor.shape, tensor.dtype) for name, tensor in named_tensors(state).items()}


def kinds(state):
    return {name: (tensor.dim(), tensor.dtype) for name, tensor in named_tensors(state).items()}


def as_double(inputs):
    return map_tensors(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, inputs)


def everything(model):
    """All tensors a module holds, buffers that no checkpoint keeps and plain attributes among them."""
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    for path, module in model.named_modules():
        loose = {key: value for key, value in vars(module).items() if isinstance(value, torch.Tensor | tuple | list)}
        tensors = {key: value for key, value in loose.items() if is_tree(value)}
        named |= {f"{path}.{key}": tensor for key, tensor in named_tensors(tensors).items()}
    return named


def is_tree(value):
    return isinstance(value, torch.Tensor) or (isinstance(value, tuple | list) and all(map(is_tree, value)))


def check_gradients(model, inputs):
    """Every parameter gets a gradient that is finite and not all zero."""
    outputs, _ = model(inputs)
    (outputs * torch.randn_like(outputs)).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert [name for name, gradient in gradients.items() if not (gradient.isfinite().all() and gradient.any())] == []


def test_every_configuration_was_found():
    assert {"lstm", "ntm", "ntm_feedforward"} <= {path.stem for path in CONFIGS}
