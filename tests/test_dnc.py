"""The DNC: every ablation against loops in numpy and the sequence op, its gradients in float64, no NaN at extremes."""

from __future__ import annotations

from functools import partial
from itertools import product

import pytest
import torch
from dnc_loops import loop_over_steps
from test_memory import MEMORIES, names
from test_models import SPECS, check_gradients, disturb, inputs_of
from test_ntm import CONTROLLERS
from test_ops import DTYPES
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
from memnets.ops.dnc_sequence import DNCScheme, dnc_sequence, dnc_sequence_reference

PARTS = {"mask": KeyMask, "deallocation": Deallocation, "link": TemporalLink, "link_sharpening": LinkSharpening}
SUBSETS = [[name for name, on in zip(PARTS, chosen, strict=True) if on] for chosen in product([0, 1], repeat=4)]
LEGAL = [parts for parts in SUBSETS if "link" in parts or "link_sharpening" not in parts]
BATCH, SLOTS, WORD, READS = 2, 5, 3, 2
every_ablation = pytest.mark.parametrize("parts", LEGAL, ids=names)


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
    @pytest.mark.parametrize(("controller", "memory"), list(zip(CONTROLLERS, MEMORIES, strict=True)))
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
