"""A DNC step by step in numpy: what its tests compare with."""

from __future__ import annotations

import naive
import numpy as np
from test_memory import softplus
from test_ntm import sigmoid, step_of_controller

from memnets.contracts import named_tensors


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
    taken, reads, word_size = 0, state["read_weights"].shape[1], state["memory"].shape[2]

    def take(heads, size):
        nonlocal taken
        taken += heads * size
        return interface[:, taken - heads * size : taken].reshape(-1, heads, size)

    read_key, read_strength = take(reads, word_size), 1 + softplus(take(reads, 1)[..., 0])
    write_key, write_strength = take(1, word_size), 1 + softplus(take(1, 1)[..., 0])
    erase, add, free_gates = sigmoid(take(1, word_size)), take(1, word_size), sigmoid(take(reads, 1)[..., 0])
    allocation_gate, write_gate = sigmoid(take(1, 1)), sigmoid(take(1, 1))
    modes = np.apply_along_axis(naive.softmax, -1, take(reads, 3)) if "link" in parts else None
    ones = np.ones_like(read_key), np.ones_like(write_key)
    read_mask, write_mask = (sigmoid(take(reads, word_size)), sigmoid(take(1, word_size))) if "mask" in parts else ones
    powers = 1 + softplus(take(reads, 2)) if "link_sharpening" in parts else None
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
