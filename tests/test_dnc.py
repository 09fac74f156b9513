"""The DNC: the laws of allocation and links, every ablation against loops in numpy, and its gradients in float64."""

from __future__ import annotations

from functools import partial
from itertools import product

import naive
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_memory import MEMORIES, names, softplus
from test_models import SPECS, check_gradients, disturb, inputs_of
from test_ntm import CONTROLLERS, sigmoid, step_of_controller
from test_ops import DTYPES, draws, one_hot
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close

from memnets.contracts import named_tensors
from memnets.memory.dnc_access import TRACED, DNCAccess
from memnets.memory.dnc_addressing import Deallocation, DNCAddressing, KeyMask, LinkSharpening, TemporalLink
from memnets.memory.initial_memory import ConstantMemory, LearnedMemory
from memnets.models.controller import FeedForwardController, LSTMController
from memnets.models.dnc import DNC
from memnets.models.dnc_sequence import DNC_SEQUENCE, obstacle, scheme_of
from memnets.models.fused import run_fused
from memnets.ops.allocation import allocation_weights, usage_after
from memnets.ops.content_address import content_address
from memnets.ops.dnc_sequence import DNCScheme, dnc_sequence, dnc_sequence_reference
from memnets.ops.linkage import follow_link, link_after, precedence_after
from memnets.ops.masked_content import masked_content_address

PARTS = {"mask": KeyMask, "deallocation": Deallocation, "link": TemporalLink, "link_sharpening": LinkSharpening}
SUBSETS = [[name for name, on in zip(PARTS, chosen, strict=True) if on] for chosen in product([0, 1], repeat=4)]
LEGAL = [parts for parts in SUBSETS if "link" in parts or "link_sharpening" not in parts]
BATCH, SLOTS, WORD, READS = 2, 5, 3, 2
every_ablation = pytest.mark.parametrize("parts", LEGAL, ids=names)


class TestAllocation:
    @given(draws())
    def test_together_what_is_not_in_use(self, draw):
        """All slots together get 1 - Π usage, each no more than it is free."""
        usage = draw.unit("batch", "slots")
        weights = allocation_weights(usage)
        assert_close(weights.sum(-1), 1 - usage.prod(-1))
        assert (weights >= 0).all()
        assert (weights <= 1 - usage).all()

    @given(draws(), st.data())
    def test_a_freed_slot_is_the_next_to_be_written(self, draw, data):
        slot = torch.full((draw.sizes.batch,), data.draw(st.integers(0, draw.sizes.slots - 1)))
        reads = one_hot(slot, draw.sizes.slots)[:, None].expand(-1, draw.sizes.heads, -1)
        full, gates = torch.ones_like(reads[:, 0]), torch.zeros_like(reads[:, :, 0])
        gates[:, -1] = 1
        usage, retention = usage_after(full, torch.zeros_like(full), reads, gates)
        assert usage.equal(full - reads[:, 0])
        assert retention.equal(usage)
        assert allocation_weights(usage).equal(reads[:, 0])
        assert usage_after(usage, reads[:, 0], reads, torch.zeros_like(gates))[0].equal(full)

    def test_ties_go_to_the_lower_slot(self):
        """With so many slots that a sort which isn't stable shows."""
        usage = torch.ones(1, 100)
        usage[0, torch.randperm(100)[:30]] = 0.5
        order = allocation_weights(usage).argsort(descending=True)[0, :30]
        assert order.tolist() == (usage[0] == 0.5).nonzero().flatten().tolist()

    @pytest.mark.parametrize("usage", list(product([0.0, 0.3, 1.0], repeat=3)), ids=str)
    def test_gradients_are_exact_at_the_ends(self, usage):
        """Also where factors of a product are 0."""
        usage = torch.tensor([usage]).double()
        (order,) = usage.argsort(stable=True)
        expected = torch.zeros(3, 3).double()
        for place, slot in enumerate(order):
            before = order[:place]
            expected[slot, slot] = -usage[0, before].prod()
            for other in before:
                expected[slot, other] = (1 - usage[0, slot]) * usage[0, before[before != other]].prod()
        actual = torch.autograd.functional.jacobian(allocation_weights, usage)
        assert_close(actual[0, :, 0], expected, rtol=0, atol=1e-15)

    @given(draws(), st.sampled_from([torch.float64, *DTYPES]))
    def test_usage_stays_between_0_and_1(self, draw, dtype):
        usage = torch.zeros(draw.sizes.batch, draw.sizes.slots, dtype=dtype)
        for _ in range(20):
            reads, gates = draw.weights("batch", "heads", "slots").to(dtype), draw.unit("batch", "heads").to(dtype)
            usage, _ = usage_after(usage, (8 * draw.normal("batch", "slots")).softmax(-1).to(dtype), reads, gates)
            assert ((usage >= 0) & (usage <= 1)).all()


class TestLinks:
    @given(draws())
    def test_rows_and_columns_are_at_most_distributions(self, draw):
        precedence = torch.zeros(draw.sizes.batch, draw.sizes.slots, dtype=torch.float64)
        link = torch.zeros(*precedence.shape, draw.sizes.slots, dtype=torch.float64)
        for _ in range(10):
            write = draw.unit("batch")[:, None] * (4 * draw.normal("batch", "slots")).softmax(-1)
            link, precedence = link_after(link, precedence, write), precedence_after(precedence, write)
            assert link.diagonal(dim1=1, dim2=2).eq(0).all()
            assert (link >= -1e-15).all()
            for total in (link.sum(1), link.sum(2), precedence.sum(-1)):
                assert (total <= 1 + 1e-12).all()

    @given(st.permutations(range(6)))
    def test_one_slot_after_the_other_is_followed_exactly(self, slots):
        precedence, link = torch.zeros(1, 6), torch.zeros(1, 6, 6)
        for slot in slots:
            write = one_hot(torch.tensor([slot]), 6, torch.float32)
            link, precedence = link_after(link, precedence, write), precedence_after(precedence, write)
        assert precedence.equal(write)
        reads = one_hot(torch.tensor([slots]), 6, torch.float32)
        forward, backward = follow_link(link, reads)
        nothing = torch.zeros(1, 1, 6)
        assert forward.equal(torch.cat([reads[:, 1:], nothing], 1))
        assert backward.equal(torch.cat([nothing, reads[:, :-1]], 1))

    @given(draws(torch.float32))
    def test_writing_nothing_changes_nothing(self, draw):
        precedence, link = draw.weights("batch", "slots"), draw.unit("batch", "slots", "slots")
        link.diagonal(dim1=1, dim2=2).zero_()
        nothing = torch.zeros_like(precedence)
        assert link_after(link, precedence, nothing).equal(link)
        assert precedence_after(precedence, nothing).equal(precedence)


class TestMaskedContent:
    @given(draws())
    def test_a_mask_of_ones_is_none(self, draw):
        memory, key, strength = content(draw)
        weights = masked_content_address(memory, key, strength, torch.ones_like(key))
        assert_close(weights, content_address(memory, key, strength))

    @given(draws())
    def test_what_is_masked_does_not_count(self, draw):
        memory, key, strength = content(draw)
        mask, other = draw.mask("batch", "word")[:, None].double(), draw.normal("batch", "slots", "word")
        everywhere = mask.expand_as(key)
        weights = masked_content_address(memory, key, strength, everywhere)
        changed = torch.where(mask == 1, memory, other)
        assert_close(masked_content_address(changed, key + (1 - everywhere), strength, everywhere), weights)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_masking_all_finds_all(self, dtype):
        memory, key = torch.randn(1, 4, 3, dtype=dtype), torch.randn(1, 2, 3, dtype=dtype)
        mask = torch.zeros_like(key, requires_grad=True)
        weights = masked_content_address(memory, key, torch.full((1, 2), 1e4, dtype=dtype), mask)
        assert weights.eq(0.25).all()
        weights[..., 0].sum().backward()
        assert mask.grad.isfinite().all()


class TestAddressing:
    def test_sharpening_needs_links(self):
        with pytest.raises(ValueError, match="nothing to sharpen"):
            DNCAddressing(link=None, link_sharpening=LinkSharpening())

    @every_ablation
    def test_a_removed_part_takes_nothing_from_the_controller(self, parts):
        sizes = {"mask": (READS + 1) * WORD, "deallocation": 0, "link": 3 * READS, "link_sharpening": 2 * READS}
        always = (READS + 1) * (WORD + 1) + 2 * WORD + READS + 2
        addressing = addressing_of(parts)
        assert addressing.interface_size(WORD, READS) == always + sum(sizes[name] for name in parts)
        assert addressing.interface_size(WORD, READS) == sum(scheme_of(addressing).sizes(WORD, READS).values())

    def test_defaults_are_of_the_paper(self):
        assert DNCAddressing() == addressing_of(["link"])
        assert scheme_of(DNCAddressing()) == DNCScheme()


class TestAccess:
    @every_ablation
    def test_starts_with_nothing(self, parts):
        state = access_of(parts).initial_state(BATCH)
        assert all(value.eq(0).all() for name, value in state._asdict().items() if name != "memory" and "link" in parts)
        assert (state.link is None) == (state.precedence_weights is None) == ("link" not in parts)

    @every_ablation
    @pytest.mark.parametrize("scale", [1.0, 1e4])
    def test_weights_stay_at_most_distributions(self, parts, scale):
        access = access_of(parts)
        state = access.initial_state(BATCH)
        for _ in range(6):
            _, state = access(scale * torch.randn(BATCH, 4), state)
            for weights in (state.read_weights, state.write_weights):
                assert (weights >= -1e-6).all()
                assert (weights.sum(-1) <= 1 + 1e-5).all()
            assert ((state.usage >= 0) & (state.usage <= 1)).all()

    @pytest.mark.parametrize("parts", [["link"], list(PARTS)], ids=names)
    def test_reads_in_the_order_of_writing_and_writes_where_it_freed(self, parts):
        """Write three words, read on from the first, free the second, write a fourth: it takes the freed slot."""
        access, steps = programmed(parts, memory_size=3)
        words, state = torch.eye(WORD), access.initial_state(1)
        for word in words:
            _, state = access(steps(write_gate=1, allocation_gate=1, add=word), state)
        assert_close(state.memory[0], words, atol=1e-4, rtol=0)
        read_vectors, state = access(steps(read_key=words[0]), state)
        seen = [read_vectors]
        for _ in range(2):
            read_vectors, state = access(steps(forward=1), state)
            seen.append(read_vectors)
        assert_close(torch.cat(seen)[:, 0], words, atol=0.01, rtol=0)
        read_vectors, state = access(steps(backward=1), state)
        assert_close(read_vectors[0, 0], words[1], atol=0.01, rtol=0)
        fourth = torch.full((WORD,), 2.0)
        _, state = access(steps(write_gate=1, allocation_gate=1, add=fourth, erase=1, free_gates=1), state)
        assert_close(state.memory[0, 1], fourth, atol=0.05, rtol=0)

    @pytest.mark.parametrize("parts", [["link"], ["link", "deallocation"]], ids=names)
    def test_what_is_freed_is_forgotten_if_it_is_deallocated(self, parts):
        access, steps = programmed(parts)
        state, word = access.initial_state(1), torch.tensor([1.0, 0.0, 0.0])
        _, state = access(steps(write_gate=1, allocation_gate=1, add=word), state)
        _, state = access(steps(read_key=word), state)
        _, state = access(steps(free_gates=1), state)
        assert_close(state.usage[0, 0], torch.tensor(0.0), atol=1e-3, rtol=0)
        assert_close(state.memory[0, 0], word * ("deallocation" not in parts), atol=1e-3, rtol=0)

    @every_ablation
    def test_emitted_ranges(self, parts):
        access = access_of(parts)
        emitted = access.emitted(30 * torch.randn(50, 4))
        always = {"read_strength", "write_strength", "free_gates", "allocation_gate", "write_gate"}
        assert emitted.keys() == always | ({"read_modes"} if "link" in parts else set()) | set(parts) & set(TRACED)
        heads = {name: value.shape[1:] for name, value in emitted.items()}
        assert heads["read_strength"] == heads["free_gates"] == (READS,)
        assert heads["write_strength"] == heads["allocation_gate"] == heads["write_gate"] == (1,)
        for name in ("free_gates", "allocation_gate", "write_gate"):
            assert ((emitted[name] >= 0) & (emitted[name] <= 1)).all()
        assert (torch.cat([emitted["read_strength"], emitted["write_strength"]], 1) >= 1).all()
        if "link" in parts:
            assert_close(emitted["read_modes"].sum(-1), torch.ones(50, READS))
        if "link_sharpening" in parts:
            assert emitted["link_sharpening"].shape == (50, READS, 2)

    @pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
    def test_sizes_are_positive(self, sizes):
        with pytest.raises(ValueError, match="must be at least 1"):
            DNCAccess(4, *sizes, DNCAddressing(), nn.Identity())


class TestDNC:
    @every_ablation
    @pytest.mark.parametrize(("controller", "memory"), list(zip(CONTROLLERS, [*MEMORIES, LearnedMemory], strict=True)))
    def test_every_ablation_trains_every_parameter(self, parts, controller, memory):
        check_gradients(tiny_dnc(parts, controller, memory), inputs_of("vectors", time=4))

    @pytest.mark.parametrize("controller", CONTROLLERS)
    @every_ablation
    def test_equals_loops_in_numpy(self, controller, parts):
        model = tiny_dnc(parts, controller).double()
        inputs = torch.randn(BATCH, 6, 4).double()
        outputs, state = model(inputs)
        expected, access = loop_over_steps(model, parts, inputs)
        assert_close(outputs, torch.from_numpy(expected), rtol=1e-8, atol=1e-10)
        for name, value in named_tensors(state.access).items():
            assert_close(value, torch.from_numpy(access[name]), rtol=1e-8, atol=1e-10)

    @every_ablation
    def test_gradients(self, parts):
        model = tiny_dnc(parts, hidden_size=2, memory_size=3, word_size=2).double()
        inputs, (parameter_names, values) = torch.randn(1, 4, 4).double(), zip(*model.named_parameters(), strict=True)
        values = [value.detach().clone().requires_grad_() for value in values]

        def run(*given):
            outputs, state = functional_call(model, dict(zip(parameter_names, given, strict=True)), (inputs,))
            return outputs, *named_tensors(state.access).values()

        assert torch.autograd.gradcheck(run, values, fast_mode=True)

    @every_ablation
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("scale", [1.0, 1e3])
    def test_zero_memory_and_extreme_parameters_stay_finite(self, parts, dtype, scale):
        model = tiny_dnc(parts, memory=partial(ConstantMemory, value=0.0))
        with torch.no_grad():
            model.cell.access.interface.weight.mul_(scale)
            model.cell.access.interface.bias.mul_(scale)
        inputs = torch.cat([torch.zeros(BATCH, 6, 4), torch.randn(BATCH, 6, 4)], dim=1).to(dtype)
        outputs, state = model.to(dtype)(inputs)
        outputs.sum().backward()
        assert outputs.isfinite().all()
        assert all(value.isfinite().all() for value in named_tensors(state).values())
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_sharpening_where_links_say_nothing_keeps_gradients_in_range(self, dtype):
        """Weights near 0 renormalised at every step: without a floor a gradient would overflow."""
        for seed in (5, 15):
            torch.manual_seed(seed)
            model = DNC(SPECS["vectors"], addressing=addressing_of(PARTS), memory_size=7, word_size=4, num_read_heads=2)
            with torch.no_grad():
                interface = model.cell.access.interface
                interface.weight.mul_(300)
                interface.bias.add_(300 * torch.randn_like(interface.bias))
            outputs, _ = model.to(dtype)(torch.randn(2, 30, 4).to(dtype))
            outputs.sum().backward()
            assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    def test_defaults_are_comparable_with_the_ntm(self):
        model = DNC(SPECS["vectors"])
        assert model.initial_state(1).access.memory.shape == (1, 128, 20)
        assert model.cell.controller.output_size == 100


class TestSequenceOp:
    @pytest.mark.parametrize("controller", [LSTMController, CONTROLLERS[1], FeedForwardController])
    @every_ablation
    def test_equals_the_cell(self, controller, parts):
        """Features, every tensor of the state and all gradients."""
        model, inputs = tiny_dnc(parts, controller).double(), torch.randn(BATCH, 5, 4).double()
        by_op = DNC_SEQUENCE._replace(
            run=lambda *given: dnc_sequence_reference(*given[:3], scheme_of(given[3].addressing))
        )
        start = model.initial_state(BATCH)
        results = [
            run_fused(by_op, model.cell.controller, model.cell.access, inputs, start),
            model._run(inputs, start),
        ]
        flat = [list(named_tensors(tuple(result)).values()) for result in results]
        assert_close(*flat, rtol=1e-10, atol=1e-12)
        weights = [torch.randn_like(value) for value in flat[0]]
        parameters = list(model.cell.parameters())
        gradients = [
            torch.autograd.grad(values, parameters, weights, allow_unused=True, retain_graph=True) for values in flat
        ]
        assert_close(*gradients, rtol=1e-9, atol=1e-11)

    def test_a_sequence_that_has_ended_stays(self):
        given, state = arguments(DNCScheme())
        features, after = dnc_sequence(*given, lengths=torch.tensor([2, 0]))
        short, short_after = dnc_sequence(given[0][:1, :2], first_row(state), *given[2:])
        assert_close(features[:1, :2], short)
        assert features[0, 2:].eq(0).all()
        assert features[1].eq(0).all()
        assert_close(named_tensors(first_row(after)), named_tensors(short_after))
        assert all(new[1].equal(old[1]) for new, old in zip(after, state, strict=True))

    def test_a_scheme_that_does_not_fit_is_refused(self):
        with pytest.raises(ValueError, match="link_sharpening sharpens what links say"):
            dnc_sequence(*arguments(DNCScheme(link=False, link_sharpening=True))[0])
        (inputs, state, weights, scheme), _ = arguments(DNCScheme())
        with pytest.raises(ValueError, match="link=False needs a state without link"):
            dnc_sequence(inputs, state, weights, scheme._replace(link=False))
        with pytest.raises(ValueError, match="link=True needs a state with precedence_weights"):
            dnc_sequence(inputs, state._replace(precedence_weights=None), weights, scheme)
        with pytest.raises(ValueError, match="between 0 and the 4 steps"):
            dnc_sequence(inputs, state, weights, scheme, torch.tensor([5, 0]))

    def test_other_parts_are_not_taken_for_these(self):
        class Slower(TemporalLink):
            pass

        access = access_of(["link"])
        assert obstacle(access) is None
        access.addressing = DNCAddressing(link=Slower())
        assert "Slower" in obstacle(access)


def content(draw):
    memory, key = draw.normal("batch", "slots", "word"), draw.normal("batch", "heads", "word")
    return memory, key, draw.positive("batch", "heads")


def addressing_of(parts):
    return DNCAddressing(**{name: part() if name in parts else None for name, part in PARTS.items()})


def access_of(parts, controller_size=4):
    return DNCAccess(controller_size, SLOTS, WORD, READS, addressing_of(parts), ConstantMemory(SLOTS, WORD))


def tiny_dnc(parts, controller=LSTMController, memory=LearnedMemory, hidden_size=4, memory_size=SLOTS, word_size=WORD):
    made = partial(controller, hidden_size=hidden_size)
    return disturb(DNC(SPECS["vectors"], made, addressing_of(parts), memory, memory_size, word_size, READS))


def first_row(state):
    return type(state)(*(value[:1] for value in state))


def arguments(scheme):
    """Arguments of `dnc_sequence` for a tiny DNC with an LSTM, and the state among them."""
    given = []
    model = tiny_dnc(
        [name for name, on in scheme._asdict().items() if on and (scheme.link or name != "link_sharpening")]
    )
    taken = DNC_SEQUENCE._replace(run=lambda *found: given.extend(found[:3]))
    run_fused(taken, model.cell.controller, model.cell.access, torch.randn(2, 4, 4), model.initial_state(2))
    return (*given, scheme), given[1]


def programmed(parts, memory_size=SLOTS):
    """An access whose interface is its input, and a maker of inputs: what is named is done fully, the rest not."""
    addressing = addressing_of(parts)
    sizes = scheme_of(addressing).sizes(WORD, 1)
    memory = ConstantMemory(memory_size, WORD, value=0.0)
    access = DNCAccess(sum(sizes.values()), memory_size, WORD, 1, addressing, memory)
    with torch.no_grad():
        access.interface.weight.copy_(torch.eye(sum(sizes.values())))

    def steps(read_key=None, add=None, forward=0, backward=0, **gates):
        raw = {name: torch.full((size,), -20.0) for name, size in sizes.items()}
        for name in ("read_key", "write_key", "add"):
            raw[name] = torch.zeros(WORD)
        raw["read_key"] = raw["read_key"] if read_key is None else read_key
        raw["add"] = raw["add"] if add is None else add
        raw["read_strength"] = torch.full((1,), 50.0)
        raw["read_modes"] = 40 * torch.tensor([backward, 1 - forward - backward, forward])
        for name in {"read_mask", "write_mask"} & sizes.keys():
            raw[name] = torch.full((sizes[name],), 20.0)
        raw |= {name: torch.full((sizes[name],), 20.0 * on) for name, on in gates.items()}
        return torch.cat([raw[name] for name in sizes])[None]

    return access, steps


def loop_over_steps(model, parts, inputs):
    """Outputs `[batch time output]` and the last state of the access by name, step by step in numpy."""
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}
    start = model.initial_state(len(inputs))
    state = {name: value.detach().numpy() for name, value in named_tensors(start.access).items()}
    controller = [part.detach().numpy() for part in start.controller]
    read_vectors, outputs = start.read_vectors.detach().numpy(), []
    for step_inputs in inputs.numpy().swapaxes(0, 1):
        seen = np.concatenate([step_inputs, read_vectors.reshape(len(inputs), -1)], axis=1)
        hidden, controller = step_of_controller(weights, seen, controller)
        interface = hidden @ weights["cell.access.interface.weight"].T + weights["cell.access.interface.bias"]
        read_vectors, state = step_of_heads(parts, interface, state)
        features = np.concatenate([hidden, read_vectors.reshape(len(inputs), -1)], axis=1)
        outputs.append(features @ weights["output.weight"].T + weights["output.bias"])
    return np.stack(outputs, axis=1), state


def step_of_heads(parts, interface, state):
    """Read vectors, and the state after one step (Methods of the paper, in its order)."""
    taken = 0

    def take(heads, size):
        nonlocal taken
        taken += heads * size
        return interface[:, taken - heads * size : taken].reshape(-1, heads, size)

    read_key, read_strength = take(READS, WORD), 1 + softplus(take(READS, 1)[..., 0])
    write_key, write_strength = take(1, WORD), 1 + softplus(take(1, 1)[..., 0])
    erase, add, free_gates = sigmoid(take(1, WORD)), take(1, WORD), sigmoid(take(READS, 1)[..., 0])
    allocation_gate, write_gate = sigmoid(take(1, 1)), sigmoid(take(1, 1))
    modes = np.apply_along_axis(naive.softmax, -1, take(READS, 3)) if "link" in parts else None
    ones = np.ones_like(read_key), np.ones_like(write_key)
    read_mask, write_mask = (sigmoid(take(READS, WORD)), sigmoid(take(1, WORD))) if "mask" in parts else ones
    powers = 1 + softplus(take(READS, 2)) if "link_sharpening" in parts else None
    assert taken == interface.shape[1]

    usage, retention = naive.usage_after(
        state["usage"], state["write_weights"][:, 0], state["read_weights"], free_gates
    )
    found = naive.masked_content_address(state["memory"], write_key, write_strength, write_mask)
    free = naive.allocation_weights(usage)[:, None]
    write_weights = write_gate * (allocation_gate * free + (1 - allocation_gate) * found)
    memory = state["memory"] * retention[:, :, None] if "deallocation" in parts else state["memory"]
    memory = naive.erase_add(memory, write_weights, erase, add)
    read_weights = naive.masked_content_address(memory, read_key, read_strength, read_mask)
    links = {}
    if "link" in parts:
        link = naive.link_after(state["link"], state["precedence_weights"], write_weights[:, 0])
        precedence = naive.precedence_after(state["precedence_weights"], write_weights[:, 0])
        links = {"link": link, "precedence_weights": precedence}
        forward, backward = naive.follow_link(link, state["read_weights"])
        if powers is not None:
            forward, backward = (
                naive.sharpen(weights, powers[..., i], 1e-6) for i, weights in enumerate((forward, backward))
            )
        kinds = (backward, read_weights, forward)
        read_weights = sum(modes[:, :, i, None] * kind for i, kind in enumerate(kinds))
    after = {"memory": memory, "usage": usage, "read_weights": read_weights, "write_weights": write_weights}
    return naive.read(memory, read_weights), after | links
