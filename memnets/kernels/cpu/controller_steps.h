// The steps of a chunk's controller: layers of LSTM, each seeing the hidden vector of the one below, or one tanh layer.
#pragma once

#include "controller.h"
#include "controller_weights.h"
#include "trace.h"

namespace memnets {

// What the controller leaves behind for its backward pass; gates and cells have no layers with a tanh layer.
struct ControllerTrace {
  Tensor features;  // [batch steps features]: the top layer's hidden vector, then read vectors
  Tensor gates;     // [batch steps layers gates], activated
  Tensor cells;     // [batch steps+1 layers hidden]
  Tensor hiddens;   // [batch steps+1 layers-1 hidden]: of the layers below the top
};

// Working space: a row of at least `size` numbers, whole vectors, for each sequence of a chunk; 0 at first.
template <class T>
struct Space {
  Space(int64_t rows, int64_t size) : numbers(rows * padded<T>(size), T(0)), width(padded<T>(size)) {}
  Rows<T> rows() { return {numbers.data(), width}; }
  void clear() { std::fill(numbers.begin(), numbers.end(), T(0)); }
  std::vector<T> numbers;
  int64_t width;
};

// A chunk's controller, step by step.
template <class T>
struct ControllerForward {
  ControllerForward(const SequenceCall& call, const PackedWeights& weights, const Tensor& projected,
                    const ControllerTrace& trace, int64_t first, int64_t rows)
      : call(call), sizes(call.sizes), weights(weights), projected(projected), features(trace.features),
        gates(trace.gates), cells(trace.cells), hiddens(trace.hiddens), start(call.start.unsqueeze(1)), first(first),
        rows(rows), space(rows, sizes.gates) {}

  void step(int64_t t) {
    for (int64_t layer = 0; layer < sizes.layers; layer++) {
      layer ? upper_sums(layer, t) : bottom_sums(t);
      const int64_t unit = layer * sizes.hidden;
      const Rows<T> sums = space.rows(), output = hidden(layer, t), activated = gates.across(first, t, 4 * unit);
      const Rows<T> cell = cells.across(first, t, unit), next_cell = cells.across(first, t + 1, unit);
      for (int64_t b = 0; b < rows; b++) {
        if (t >= call.lengths[first + b]) continue;
        if (sizes.lstm)
          lstm_step(sums.row(b), cell.row(b), activated.row(b), next_cell.row(b), output.row(b), sizes.hidden);
        else
          tanh_step(sums.row(b), output.row(b), sizes.hidden);
      }
    }
  }

  // Features after step t; before the first, at t = -1.
  Rows<T> seen(int64_t t) const { return t < 0 ? start.across(first, 0) : features.across(first, t); }
  // Hidden vectors of a layer, likewise.
  Rows<T> hidden(int64_t layer, int64_t t) const {
    return layer + 1 == sizes.layers ? seen(t) : hiddens.across(first, t + 1, layer * sizes.hidden);
  }

  void bottom_sums(int64_t t) {
    const Rows<T> from_input = projected.across(first, t), before = seen(t - 1), sums = space.rows();
    for (int64_t b = 0; b < rows; b++) std::copy_n(from_input.row(b), sizes.gates, sums.row(b));
    if (sizes.layers == 1) return multiply(before, weights.bottom, 0, sizes.features());
    multiply(hidden(0, t - 1), weights.bottom, 0, sizes.hidden);
    multiply({before.start + sizes.hidden, before.stride}, weights.bottom, sizes.hidden, sizes.reads);
  }
  void upper_sums(int64_t layer, int64_t t) {
    const T* bias = call.weights.upper_bias.const_data_ptr<T>() + (layer - 1) * sizes.gates;
    for (int64_t b = 0; b < rows; b++) std::copy_n(bias, sizes.gates, space.rows().row(b));
    multiply(hidden(layer - 1, t), weights.upper[layer - 1], 0, sizes.hidden);
    multiply(hidden(layer, t - 1), weights.upper[layer - 1], sizes.hidden, sizes.hidden);
  }
  // sums += vectors times the `depth` rows of a matrix from `row` on
  void multiply(Rows<T> vectors, const Tensor& matrix, int64_t row, int64_t depth) {
    multiply_add(constant(vectors), rows_of<T>(matrix, row), space.rows(), rows, depth, matrix.size(1));
  }

  const SequenceCall& call;
  const ControllerSizes& sizes;
  const PackedWeights& weights;
  Trace<T> projected, features, gates, cells, hiddens, start;
  int64_t first, rows;
  Space<T> space;
};

// The state's gradients, of the final state at first and of the initial one at last, and those of every step's sums
// before the activations of controller and interface.
struct BackwardRoom {
  Tensor d_features, d_reads, d_hidden, d_cell;  // [batch steps features] [batch reads] [batch layers hidden] twice
  Tensor d_gates, d_interface;                   // [batch steps layers gates] [batch steps interface]
};

// The gradient of `ControllerForward`. `d_output` are gradients of the top layer's hidden vectors and scratch.
template <class T>
struct ControllerBackward {
  ControllerBackward(const SequenceCall& call, const PackedWeights& weights, const ControllerTrace& trace,
                     const BackwardRoom& room, int64_t first, int64_t rows)
      : call(call), sizes(call.sizes), weights(weights), features(trace.features), gates(trace.gates),
        cells(trace.cells), d_reads(room.d_reads.unsqueeze(1)), d_hidden(room.d_hidden.unsqueeze(1)),
        d_cell(room.d_cell.unsqueeze(1)), d_gates(room.d_gates), first(first), rows(rows),
        bottom(rows, sizes.features()), upper(rows, sizes.layers > 1 ? 2 * sizes.hidden : 0) {}

  void step(int64_t t, Rows<T> d_output) {
    for (int64_t layer = sizes.layers - 1; layer >= 0; layer--) {
      const int64_t unit = layer * sizes.hidden;
      const Rows<T> activated = gates.across(first, t, 4 * unit);
      const Rows<T> d_sums = d_gates.across(first, t, layer * sizes.gates);
      const Rows<T> cell = cells.across(first, t, unit), next_cell = cells.across(first, t + 1, unit);
      for (int64_t b = 0; b < rows; b++) {
        if (t >= call.lengths[first + b]) continue;
        if (sizes.lstm)
          lstm_step_backward(activated.row(b), cell.row(b), next_cell.row(b), d_output.row(b),
                             d_cell.at(first + b, 0) + unit, d_sums.row(b), sizes.hidden);
        else
          tanh_step_backward(features.at(first + b, t), d_output.row(b), d_sums.row(b), sizes.hidden);
      }
      layer ? upper_backward(layer, t, d_sums, d_output) : bottom_backward(t, d_sums);
    }
  }

  void bottom_backward(int64_t t, Rows<T> d_sums) {
    multiply(d_sums, weights.bottom, bottom);
    for (int64_t b = 0; b < rows; b++) {
      if (t >= call.lengths[first + b]) continue;
      std::copy_n(bottom.rows().row(b), sizes.hidden, d_hidden.at(first + b, 0));
      std::copy_n(bottom.rows().row(b) + sizes.hidden, sizes.reads, d_reads.at(first + b, 0));
    }
  }
  // To the layer's own last hidden vector, and to the layer below, whose next step has had its say.
  void upper_backward(int64_t layer, int64_t t, Rows<T> d_sums, Rows<T> d_below) {
    multiply(d_sums, weights.upper[layer - 1], upper);
    for (int64_t b = 0; b < rows; b++) {
      if (t >= call.lengths[first + b]) continue;
      const T* d_seen = upper.rows().row(b);
      T* own = d_hidden.at(first + b, 0) + layer * sizes.hidden;
      std::copy_n(own - sizes.hidden, sizes.hidden, d_below.row(b));
      add_scaled(d_below.row(b), d_seen, T(1), sizes.hidden);
      std::copy_n(d_seen + sizes.hidden, sizes.hidden, own);
    }
  }
  void multiply(Rows<T> d_sums, const Tensor& matrix, Space<T>& into) {
    into.clear();
    multiply_add(constant(d_sums), rows_of<T>(matrix), into.rows(), rows, sizes.gates, matrix.size(1));
  }

  const SequenceCall& call;
  const ControllerSizes& sizes;
  const PackedWeights& weights;
  Trace<T> features, gates, cells, d_reads, d_hidden, d_cell, d_gates;
  int64_t first, rows;
  Space<T> bottom, upper;
};

}  // namespace memnets
