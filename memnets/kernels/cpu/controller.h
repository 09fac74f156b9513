// One step of an LSTM (Hochreiter & Schmidhuber 1997) for one sequence, gates in PyTorch's order i f g o.
#pragma once

#include "vector_math.h"

namespace memnets {

// c' = f c + i g and h = o tanh(c'), with i, f, o the sigmoid and g the tanh of the four parts of `sums` [4 size].
// `gates` [4 size] receives i f g o.
template <class T>
inline void lstm_step(const T* MEMNETS_RESTRICT sums, const T* MEMNETS_RESTRICT previous_cell,
                      T* MEMNETS_RESTRICT gates, T* MEMNETS_RESTRICT cell, T* MEMNETS_RESTRICT hidden, int64_t size) {
  each<T>(size, [&](int64_t j, auto lanes) MEMNETS_INLINE {
    const Vector<T> insert = sigmoid(lanes.load(sums + j)), forget = sigmoid(lanes.load(sums + size + j));
    const Vector<T> candidate = hyperbolic_tangent(lanes.load(sums + 2 * size + j));
    const Vector<T> emit = sigmoid(lanes.load(sums + 3 * size + j));
    const Vector<T> next = forget * lanes.load(previous_cell + j) + insert * candidate;
    lanes.store(cell + j, next);
    lanes.store(hidden + j, emit * hyperbolic_tangent(next));
    lanes.store(gates + j, insert);
    lanes.store(gates + size + j, forget);
    lanes.store(gates + 2 * size + j, candidate);
    lanes.store(gates + 3 * size + j, emit);
  });
}

// Gradient of `lstm_step`: `d_sums` from those of hidden and, in `d_cell`, of the new cell; `d_cell` then holds the
// gradient of the previous cell.
template <class T>
inline void lstm_step_backward(const T* MEMNETS_RESTRICT gates, const T* MEMNETS_RESTRICT previous_cell,
                               const T* MEMNETS_RESTRICT cell, const T* MEMNETS_RESTRICT d_hidden,
                               T* MEMNETS_RESTRICT d_cell, T* MEMNETS_RESTRICT d_sums, int64_t size) {
  each<T>(size, [&](int64_t j, auto lanes) MEMNETS_INLINE {
    const Vector<T> insert = lanes.load(gates + j), forget = lanes.load(gates + size + j);
    const Vector<T> candidate = lanes.load(gates + 2 * size + j), emit = lanes.load(gates + 3 * size + j);
    const Vector<T> squashed = hyperbolic_tangent(lanes.load(cell + j)), d_output = lanes.load(d_hidden + j);
    const Vector<T> d_next = lanes.load(d_cell + j) + d_output * emit * (1 - squashed * squashed);
    lanes.store(d_sums + j, d_next * candidate * insert * (1 - insert));
    lanes.store(d_sums + size + j, d_next * lanes.load(previous_cell + j) * forget * (1 - forget));
    lanes.store(d_sums + 2 * size + j, d_next * insert * (1 - candidate * candidate));
    lanes.store(d_sums + 3 * size + j, d_output * squashed * emit * (1 - emit));
    lanes.store(d_cell + j, d_next * forget);
  });
}

// The controller without memory of its own: hidden = tanh(sums), and its gradient.
template <class T>
inline void tanh_step(const T* MEMNETS_RESTRICT sums, T* MEMNETS_RESTRICT hidden, int64_t size) {
  each<T>(size, [&](int64_t j, auto lanes) MEMNETS_INLINE { lanes.store(hidden + j, hyperbolic_tangent(lanes.load(sums + j))); });
}
template <class T>
inline void tanh_step_backward(const T* MEMNETS_RESTRICT hidden, const T* MEMNETS_RESTRICT d_hidden,
                               T* MEMNETS_RESTRICT d_sums, int64_t size) {
  each<T>(size, [&](int64_t j, auto lanes) MEMNETS_INLINE {
    const Vector<T> output = lanes.load(hidden + j);
    lanes.store(d_sums + j, lanes.load(d_hidden + j) * (1 - output * output));
  });
}

}  // namespace memnets
