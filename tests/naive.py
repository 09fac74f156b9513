"""Every op again, as loops over single numbers written from the papers' equations: a second statement of the truth."""

from __future__ import annotations

import math

import numpy as np


def softmax(scores):
    exponentials = [math.exp(score - max(scores)) for score in scores]
    return [value / sum(exponentials) for value in exponentials]


def similarity_of(kind, u, v):
    dot = sum(a * b for a, b in zip(u, v, strict=True))
    if kind == "dot":
        return dot
    return dot / math.sqrt((sum(a * a for a in u) + 1e-8) * (sum(b * b for b in v) + 1e-8))


def content_address(memory, key, strength, mask=None, similarity="cosine"):
    weights = np.zeros((*key.shape[:2], memory.shape[1]))
    for b, h in np.ndindex(key.shape[:2]):
        slots = [n for n in range(memory.shape[1]) if mask is None or mask[b, n]]
        if slots:
            scores = [strength[b, h] * similarity_of(similarity, key[b, h], memory[b, n]) for n in slots]
            weights[b, h, slots] = softmax(scores)
    return weights


def content_read(memory, key, strength, mask=None, similarity="cosine"):
    weights = content_address(memory, key, strength, mask, similarity)
    return read(memory, weights), weights


def interpolate(content_weights, previous_weights, gate):
    weights = np.zeros_like(content_weights)
    for b, h, n in np.ndindex(weights.shape):
        weights[b, h, n] = gate[b, h] * content_weights[b, h, n] + (1 - gate[b, h]) * previous_weights[b, h, n]
    return weights


def circular_shift(weights, shift):
    moved = np.zeros_like(weights)
    num_slots, width = weights.shape[-1], shift.shape[-1]
    for b, h, n in np.ndindex(weights.shape):
        for j in range(width):
            moved[b, h, (n + j - width // 2) % num_slots] += weights[b, h, n] * shift[b, h, j]
    return moved


def sharpen(weights, sharpening, epsilon=1e-16):
    sharp = np.zeros_like(weights)
    for b, h in np.ndindex(weights.shape[:2]):
        powers = [(w + epsilon) ** sharpening[b, h] for w in weights[b, h]]
        sharp[b, h] = [power / sum(powers) for power in powers]
    return sharp


def shift_sharpen(content_weights, previous_weights, gate=None, shift=None, sharpening=None):
    weights = previous_weights if content_weights is None else content_weights
    if gate is not None:
        weights = interpolate(content_weights, previous_weights, gate)
    if shift is not None:
        weights = circular_shift(weights, shift)
    return weights if sharpening is None else sharpen(weights, sharpening)


def read(memory, weights):
    vectors = np.zeros((*weights.shape[:2], memory.shape[2]))
    for b, h, n in np.ndindex(weights.shape):
        vectors[b, h] += weights[b, h, n] * memory[b, n]
    return vectors


def erase_add(memory, weights, erase, add):
    written = memory.copy()
    for b, h, n in np.ndindex(weights.shape):
        written[b, n] *= 1 - weights[b, h, n] * erase[b, h]
    for b, h, n in np.ndindex(weights.shape):
        written[b, n] += weights[b, h, n] * add[b, h]
    return written


def topk_address(query, keys, stamps, oldest, newest, k, decay=None):
    scores = np.full((*query.shape[:3], k), -np.inf)
    indices = np.full(scores.shape, -1)
    for b, h, t in np.ndindex(query.shape[:3]):
        held = keys[b, h * keys.shape[1] // query.shape[1]]
        seen = [n for n in range(len(held)) if oldest[b, t] <= stamps[b, n] <= newest[b, t]]
        loss = 0 if decay is None else decay[h] * (newest[b, t] - stamps[b])
        score = held @ query[b, h, t] - loss
        ranked = sorted((-score[n], n) for n in seen)
        for place, (negative, slot) in enumerate(ranked[:k]):
            scores[b, h, t, place], indices[b, h, t, place] = -negative, slot
    return scores, indices


def gather_slots(values, indices):
    rows = np.zeros((*indices.shape, values.shape[-1]))
    for b, h, t, j in np.ndindex(indices.shape):
        rows[b, h, t, j] = values[b, h * values.shape[1] // indices.shape[1], indices[b, h, t, j]]
    return rows


def read_slots(values, weights, indices):
    vectors = np.zeros((*weights.shape[:3], values.shape[-1]))
    for b, h, t, j in np.ndindex(weights.shape):
        group = h * values.shape[1] // weights.shape[1]
        vectors[b, h, t] += weights[b, h, t, j] * values[b, group, indices[b, h, t, j]]
    return vectors


def sparse_read(memory, weights, indices):
    return read(memory, spread(weights, indices, memory.shape[1]))


def sparse_write(memory, weights, indices, erase, add):
    return erase_add(memory, spread(weights, indices, memory.shape[1]), erase, add)


def spread(weights, indices, num_slots):
    """Weights over all slots: a slot that is named twice has the sum."""
    dense = np.zeros((*weights.shape[:2], num_slots))
    for b, h, j in np.ndindex(weights.shape):
        dense[b, h, indices[b, h, j]] += weights[b, h, j]
    return dense


def product_key_address(query, half_keys, k):
    """Every one of the side² keys is scored."""
    scores, indices = np.zeros((*query.shape[:2], k)), np.zeros((*query.shape[:2], k), int)
    side = half_keys.shape[2]
    for r, h in np.ndindex(query.shape[:2]):
        keys = [np.concatenate([half_keys[h, 0, i], half_keys[h, 1, j]]) for i in range(side) for j in range(side)]
        ranked = sorted((-(query[r, h] @ key), slot) for slot, key in enumerate(keys))
        scores[r, h], indices[r, h] = [-negative for negative, _ in ranked[:k]], [slot for _, slot in ranked[:k]]
    return scores, indices


def delta_rule(query, key, add, erase, decay, memory, chunk_size=None):
    """Each step in its turn, in the matrix itself."""
    memory, read = memory.copy(), np.zeros((*query.shape[:3], add.shape[-1]))
    share = query.shape[1] // key.shape[1]
    for b, t in np.ndindex(query.shape[0], query.shape[2]):
        for h in range(query.shape[1]):
            read[b, h, t] = memory[b, h // share].T @ query[b, h, t]
        for g in range(key.shape[1]):
            k, kept = key[b, g, t], 1.0 if decay is None else np.exp(decay[b, g, t])
            memory[b, g] = kept * (np.eye(len(k)) - erase[b, g, t] * np.outer(k, k)) @ memory[b, g]
            memory[b, g] += np.outer(k, add[b, g, t])
    return read, memory


def weighted_gather(values, weights, indices):
    vectors = np.zeros((*weights.shape[:2], values.shape[1]))
    for r, h, j in np.ndindex(weights.shape):
        vectors[r, h] += weights[r, h, j] * values[indices[r, h, j]]
    return vectors


def told(source, relation, target, mask):
    """Row, source, relation and target of every edge that is no padding."""
    for b, e in zip(*np.nonzero(mask), strict=True):
        yield b, source[b, e], relation[b, e], target[b, e]


def follow(nodes, relation_weights, **edges):
    after = relation_weights[:, -1:] * nodes
    for b, i, r, j in told(**edges):
        after[b, j] += relation_weights[b, r] * nodes[b, i]
    return after


def walk(start, relation_weights, num_nodes, **edges):
    summed = np.zeros((len(start), num_nodes))
    for chain in range(relation_weights.shape[1]):
        nodes = np.eye(num_nodes)[start]
        for hop in range(relation_weights.shape[2]):
            nodes = follow(nodes, relation_weights[:, chain, hop], **edges)
        summed += nodes
    return summed


def propagate(states, weights, **edges):
    senders = {}
    for b, i, r, j in told(**edges):
        senders.setdefault((b, j, r), []).append(states[b, i])
    sent = np.zeros((*states.shape[:2], weights.shape[2]))
    for (b, j, r), vectors in senders.items():
        sent[b, j] += sum(vectors) / len(vectors) @ weights[r]
    return sent


def read_and_write(memory, read_weights, write_weights, erase, add):
    return read(memory, read_weights), erase_add(memory, write_weights, erase, add)


def masked_content_address(memory, key, strength, key_mask):
    weights = np.zeros((*key.shape[:2], memory.shape[1]))
    for b, h in np.ndindex(key.shape[:2]):
        mask = key_mask[b, h]
        scores = [similarity_of("cosine", key[b, h] * mask, slot * mask) for slot in memory[b]]
        weights[b, h] = softmax([strength[b, h] * score for score in scores])
    return weights


def usage_after(usage, previous_write_weights, previous_read_weights, free_gates):
    used, retention = np.zeros_like(usage), np.ones_like(usage)
    for b, n in np.ndindex(usage.shape):
        for h in range(free_gates.shape[1]):
            retention[b, n] *= 1 - free_gates[b, h] * previous_read_weights[b, h, n]
        written = previous_write_weights[b, n]
        used[b, n] = (usage[b, n] + written - usage[b, n] * written) * retention[b, n]
    return used, retention


def allocation_weights(usage):
    weights = np.zeros_like(usage)
    for b, row in enumerate(usage):
        left = 1.0
        for slot in sorted(range(len(row)), key=lambda n: (row[n], n)):
            weights[b, slot] = (1 - row[slot]) * left
            left *= row[slot]
    return weights


def link_after(link, precedence_weights, write_weights):
    linked = np.zeros_like(link)
    for b, i, j in np.ndindex(link.shape):
        if i != j:
            kept = (1 - write_weights[b, i] - write_weights[b, j]) * link[b, i, j]
            linked[b, i, j] = kept + write_weights[b, i] * precedence_weights[b, j]
    return linked


def precedence_after(precedence_weights, write_weights):
    return np.array([(1 - sum(w)) * p + w for p, w in zip(precedence_weights, write_weights, strict=True)])


def follow_link(link, read_weights):
    forward, backward = np.zeros_like(read_weights), np.zeros_like(read_weights)
    for b, h, i in np.ndindex(read_weights.shape):
        for j in range(read_weights.shape[2]):
            forward[b, h, i] += link[b, i, j] * read_weights[b, h, j]
            backward[b, h, i] += link[b, j, i] * read_weights[b, h, j]
    return forward, backward


def sparse_content_address(memory, key, strength, k):
    weights, slots = np.zeros((*key.shape[:2], k)), np.zeros((*key.shape[:2], k), int)
    for b, h in np.ndindex(key.shape[:2]):
        similarity = [similarity_of("cosine", key[b, h], row) for row in memory[b]]
        slots[b, h] = sorted(range(len(similarity)), key=lambda n: (-similarity[n], n))[:k]
        weights[b, h] = softmax([strength[b, h] * similarity[n] for n in slots[b, h]])
    return weights, slots


def lru_write(memory, last_access, read_weights, read_slots, interpolation_gate, write_gate, add):
    """With weights over all slots for each head."""
    written, dense = memory.copy(), spread(read_weights, read_slots, memory.shape[1])
    oldest = np.array([sorted(range(len(row)), key=lambda n: (row[n], n)) for row in last_access])
    for b, h in np.ndindex(write_gate.shape):
        written[b, oldest[b, h]] = 0
    for b, h, n in np.ndindex(dense.shape):
        gate, is_oldest = interpolation_gate[b, h], n == oldest[b, h]
        written[b, n] += write_gate[b, h] * (gate * dense[b, h, n] + (1 - gate) * is_oldest) * add[b, h]
    heads = write_gate.shape[1]
    both = np.concatenate([interpolation_gate[..., None] * read_weights, 1 - interpolation_gate[..., None]], -1)
    slots = np.concatenate([read_slots, oldest[:, :heads, None]], -1)
    return written, write_gate[..., None] * both, slots
