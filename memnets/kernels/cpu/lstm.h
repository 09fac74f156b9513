// One step of an LSTM (Hochreiter & Schmidhuber 1997) for one sequence, gates in PyTorch's order i f g o.
#pragma once

#include "vector_math.h"

namespace memnets {

// c' = f c + i g and h = o tanh(c'), with i, f, o the sigmoid and g the tanh of the four parts of `sums` [4 size].
// `gates` [4 size] receives i f g o.
template <class T>
inline void lstm_step(const T* MEMNETS_RESTRICT sums, const T* MEMNETS_RESTRICT previous_cell,
                      T* MEMNETS_RESTRICT gates, T* MEMNETS_RESTRICT cell, T* MEMNETS_RESTRICT hidden, int64_t size) {
  MEMNETS_SIMD for (int64_t j = 0; j < size; j++) {
    const T insert = sigmoid(sums[j]);
    const T forget = sigmoid(sums[size + j]);
    const T candidate = hyperbolic_tangent(sums[2 * size + j]);
    const T emit = sigmoid(sums[3 * size + j]);
    const T next = forget * previous_cell[j] + insert * candidate;
    cell[j] = next;
    hidden[j] = emit * hyperbolic_tangent(next);
    gates[j] = insert;
    gates[size + j] = forget;
    gates[2 * size + j] = candidate;
    gates[3 * size + j] = emit;
  }
}

// Gradient of `lstm_step`: `d_sums` from those of hidden and, in `d_cell`, of the new cell; `d_cell` then holds the
// gradient of the previous cell.
template <class T>
inline void lstm_step_backward(const T* MEMNETS_RESTRICT gates, const T* MEMNETS_RESTRICT previous_cell,
                               const T* MEMNETS_RESTRICT cell, const T* MEMNETS_RESTRICT d_hidden,
                               T* MEMNETS_RESTRICT d_cell, T* MEMNETS_RESTRICT d_sums, int64_t size) {
  MEMNETS_SIMD for (int64_t j = 0; j < size; j++) {
    const T insert = gates[j], forget = gates[size + j], candidate = gates[2 * size + j], emit = gates[3 * size + j];
    const T squashed = hyperbolic_tangent(cell[j]);
    const T d_next = d_cell[j] + d_hidden[j] * emit * (T(1) - squashed * squashed);
    d_sums[j] = d_next * candidate * insert * (T(1) - insert);
    d_sums[size + j] = d_next * previous_cell[j] * forget * (T(1) - forget);
    d_sums[2 * size + j] = d_next * insert * (T(1) - candidate * candidate);
    d_sums[3 * size + j] = d_hidden[j] * squashed * emit * (T(1) - emit);
    d_cell[j] = d_next * forget;
  }
}

}  // namespace memnets
