"""A SAM again, in numpy: a memory with all its slots, written and read weight by weight."""

from __future__ import annotations

import naive
import numpy as np
from test_ntm import sigmoid, step_of_controller


class DenseMemory:
    """One sequence's memory with all its slots, step by step as the paper has it."""

    def __init__(self, num_slots, word_size, num_heads, k, threshold):
        self.memory, self.last_access = np.zeros((num_slots, word_size)), np.zeros(num_slots, int)
        self.read_weights = np.zeros((num_heads, num_slots))
        self.k, self.threshold, self.clock = k, threshold, 0

    def step(self, interface):
        """Read vectors of all heads."""
        self.clock += 1
        num_slots, word_size = self.memory.shape
        oldest = sorted(range(num_slots), key=lambda n: (self.last_access[n], n))
        write_weights, erased, written = np.zeros_like(self.read_weights), np.zeros(num_slots), 0
        emitted = [split(raw, word_size) for raw in np.split(interface, len(self.read_weights))]
        for h, (_, _, interpolation, gate, add) in enumerate(emitted):
            one_hot = np.arange(num_slots) == oldest[h]
            gamma = sigmoid(interpolation)
            write_weights[h] = sigmoid(gate) * (gamma * self.read_weights[h] + (1 - gamma) * one_hot)
            erased, written = erased + one_hot, written + np.outer(write_weights[h], np.tanh(add))
        self.memory = (1 - erased)[:, None] * self.memory + written
        self.read_weights = np.stack([self._find(np.tanh(key), np.log1p(np.exp(s))) for key, s, *_ in emitted])
        self.last_access[(write_weights + self.read_weights).sum(0) > self.threshold] = self.clock
        return self.read_weights @ self.memory

    def _find(self, key, strength):
        similarity = [naive.similarity_of("cosine", key, row) for row in self.memory]
        best = sorted(range(len(similarity)), key=lambda n: (-similarity[n], n))[: self.k]
        weights = np.zeros(len(similarity))
        weights[best] = naive.softmax([strength * similarity[n] for n in best])
        return weights


def split(raw, word_size):
    """Key, strength, interpolation gate, write gate, add."""
    return raw[:word_size], *raw[word_size : word_size + 3], raw[word_size + 3 :]


def loop_over_steps(model, inputs):
    """Outputs `[batch time output]` and the last memories of a SAM."""
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}
    access, start = model.cell.access, model.initial_state(len(inputs))
    sizes = access.scheme.memory_size, access.word_size, access.num_read_heads, access.top_k, access.scheme.threshold
    memories = [DenseMemory(*sizes) for _ in inputs]
    controller = [part.detach().numpy() for part in start.controller]
    read_vectors, outputs = start.read_vectors.detach().numpy(), []
    for step_inputs in inputs.numpy().swapaxes(0, 1):
        seen = np.concatenate([step_inputs, read_vectors.reshape(len(inputs), -1)], axis=1)
        hidden, controller = step_of_controller(weights, seen, controller)
        interface = hidden @ weights["cell.access.interface.weight"].T + weights["cell.access.interface.bias"]
        read_vectors = np.stack([memory.step(row) for memory, row in zip(memories, interface, strict=True)])
        features = np.concatenate([hidden, read_vectors.reshape(len(inputs), -1)], axis=1)
        outputs.append(features @ weights["output.weight"].T + weights["output.bias"])
    return np.stack(outputs, axis=1), memories
