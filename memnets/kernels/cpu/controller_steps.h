// The steps of a chunk's controller: layers of LSTM, each seeing the hidden vector of the one below, or one tanh layer.
#pragma once

#include "controller.h"
#include "controller_weights.h"
#include "trace.h"
#include "weight_gradient.h"

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
  std::vector<T> numbers;
  int64_t width;
};

// The features before the first step, a row for each of a chunk's sequences.
template <class T>
Space<T> first_features(const SequenceCall& call, int64_t first, int64_t rows) {
  const auto& sizes = call.sizes;
  Space<T> space(rows, sizes.features());
  const Trace<T> hidden(OneStep{call.hidden}), read_vectors(OneStep{call.read_vectors});
  for (int64_t b = 0; b < rows; b++) {
    T* reads = std::copy_n(hidden.at(first + b, 0) + hidden.size - sizes.hidden, sizes.hidden, space.rows().row(b));
    std::copy_n(read_vectors.at(first + b, 0), sizes.reads, reads);
  }
  return space;
}

// A chunk's controller, step by step.
template <class T>
struct ControllerForward {
  // `first_cell`, of an LSTM, is `dense` [batch layers hidden].
  ControllerForward(const SequenceCall& call, const PackedWeights& weights, const ControllerTrace& trace,
                    const MaybeTensor& first_cell, int64_t first, int64_t rows)
      : call(call), sizes(call.sizes), weights(weights), inputs(call.inputs), features(trace.features),
        gates(trace.gates), cells(trace.cells), hiddens(trace.hiddens), first(first), rows(rows),
        start(first_features<T>(call, first, rows)), space(rows, sizes.gates) {
    if (!first_cell) return;
    const Trace<T> given_hidden(OneStep{call.hidden}), given_cell(OneStep{*first_cell});
    for (int64_t b = first; b < first + rows; b++) {
      std::copy_n(given_hidden.at(b, 0), hiddens.size, hiddens.at(b, 0));
      std::copy_n(given_cell.at(b, 0), cells.size, cells.at(b, 0));
    }
  }

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
  Rows<T> seen(int64_t t) { return t < 0 ? start.rows() : features.across(first, t); }
  // Hidden vectors of a layer, likewise.
  Rows<T> hidden(int64_t layer, int64_t t) {
    return layer + 1 == sizes.layers ? seen(t) : hiddens.across(first, t + 1, layer * sizes.hidden);
  }

  void bottom_sums(int64_t t) {
    const Rows<T> before = seen(t - 1);
    start_with(call.weights.bias, 0, inputs.across(first, t), weights.bottom, sizes.features(), sizes.input);
    if (sizes.layers == 1) return add(before, weights.bottom, 0, sizes.features());
    add(hidden(0, t - 1), weights.bottom, 0, sizes.hidden);
    add(before.from(0, sizes.hidden), weights.bottom, sizes.hidden, sizes.reads);
  }
  void upper_sums(int64_t layer, int64_t t) {
    const Tensor& matrix = weights.upper[layer - 1];
    start_with(call.weights.upper_bias, layer - 1, hidden(layer - 1, t), matrix, 0, sizes.hidden);
    add(hidden(layer, t - 1), matrix, sizes.hidden, sizes.hidden);
  }
  // The sums are a row of biases, then grow by vectors times the `depth` rows of a matrix from `row` on.
  void start_with(const Tensor& biases, int64_t layer, Rows<T> vectors, const Tensor& matrix, int64_t row,
                  int64_t depth) {
    const Rows<const T> bias{biases.const_data_ptr<T>() + layer * sizes.gates, 0};
    multiply(bias, constant(vectors), rows_of<T>(matrix, row), space.rows(), rows, depth, sizes.gates);
  }
  void add(Rows<T> vectors, const Tensor& matrix, int64_t row, int64_t depth) {
    multiply_add(constant(vectors), rows_of<T>(matrix, row), space.rows(), rows, depth, sizes.gates);
  }

  const SequenceCall& call;
  const ControllerSizes& sizes;
  const PackedWeights& weights;
  Trace<T> inputs, features, gates, cells, hiddens;
  int64_t first, rows;
  Space<T> start, space;
};

// The state's gradients, of the final state at first and of the initial one at last, those of the inputs, if wanted, and
// sums of those of the weights: of a layer from inputs and reads, and from its last hidden vector; of the upper layers;
// of the interface.
struct BackwardRoom {
  Tensor d_features, d_reads, d_hidden, d_cell;  // [batch steps features] [batch reads] [batch layers hidden] x 2
  Tensor d_inputs;                               // [batch steps input], or no sequences
  LayerSums bottom, interface;
  std::vector<LayerSums> upper;
};

// The gradient of `ControllerForward`. `d_output` are gradients of the top layer's hidden vectors and scratch.
template <class T>
struct ControllerBackward {
  ControllerBackward(const SequenceCall& call, const PackedWeights& weights, const ControllerTrace& trace,
                     const BackwardRoom& room, int64_t worker, int64_t first, int64_t rows)
      : call(call), sizes(call.sizes), weights(weights), inputs(call.inputs), features(trace.features),
        gates(trace.gates), cells(trace.cells), hiddens(trace.hiddens),
        d_reads(OneStep{room.d_reads}), d_hidden(OneStep{room.d_hidden}), d_cell(OneStep{room.d_cell}),
        d_inputs(room.d_inputs), wants_inputs(room.d_inputs.size(0)), first(first), rows(rows),
        start(first_features<T>(call, first, rows)), bottom(rows, sizes.features() + (wants_inputs ? sizes.input : 0)),
        upper(rows, sizes.layers > 1 ? 2 * sizes.hidden : 0), zeros(std::max(bottom.width, upper.width), T(0)),
        of_bottom(room.bottom, worker, rows), of_interface(room.interface, worker, rows) {
    for (const LayerSums& sums : room.upper) of_upper.emplace_back(sums, worker, rows);
  }

  void step(int64_t t, Rows<T> d_output) {
    for (int64_t layer = sizes.layers - 1; layer >= 0; layer--) {
      const int64_t unit = layer * sizes.hidden;
      WeightGradient<T>& gradient = layer ? of_upper[layer - 1] : of_bottom;
      const Rows<T> activated = gates.across(first, t, 4 * unit), d_sums = gradient.d_sums();
      const Rows<T> cell = cells.across(first, t, unit), next_cell = cells.across(first, t + 1, unit);
      for (int64_t b = 0; b < rows; b++) {
        if (!runs(b, t)) {
          gradient.leave_out(b);
          continue;
        }
        if (sizes.lstm)
          lstm_step_backward(activated.row(b), cell.row(b), next_cell.row(b), d_output.row(b),
                             d_cell.at(first + b, 0) + unit, d_sums.row(b), sizes.hidden),
              gates.fetch(first + b, t - 1), cells.fetch(first + b, t - 1);
        else
          tanh_step_backward(features.at(first + b, t), d_output.row(b), d_sums.row(b), sizes.hidden);
        layer ? upper_seen(b, t, layer, gradient.seen().row(b)) : bottom_seen(b, t, gradient.seen().row(b));
      }
      layer ? upper_backward(layer, t, d_sums, d_output) : bottom_backward(t, d_sums);
      gradient.add();
    }
  }
  // After the first step.
  void finish() {
    of_bottom.add_up(), of_interface.add_up();
    for (auto& gradient : of_upper) gradient.add_up();
  }

  bool runs(int64_t b, int64_t t) const { return t < call.lengths[first + b]; }
  // Hidden vectors of a layer after step t, and before the first at t = -1.
  const T* hidden(int64_t b, int64_t layer, int64_t t) {
    if (layer + 1 < sizes.layers) return hiddens.at(first + b, t + 1) + layer * sizes.hidden;
    return seen(b, t);
  }
  // Features after step t, and before the first.
  const T* seen(int64_t b, int64_t t) {
    return t < 0 ? start.rows().row(b) : features.at(first + b, t);
  }
  // What the layers saw, in the order of their weights.
  void bottom_seen(int64_t b, int64_t t, T* into) {
    const T* before = seen(b, t - 1);
    into = std::copy_n(inputs.at(first + b, t), sizes.input, into);
    into = std::copy_n(before + sizes.hidden, sizes.reads, into);
    if (sizes.lstm) std::copy_n(hidden(b, 0, t - 1), sizes.hidden, into);
  }
  void upper_seen(int64_t b, int64_t t, int64_t layer, T* into) {
    into = std::copy_n(hidden(b, layer - 1, t), sizes.hidden, into);
    std::copy_n(hidden(b, layer, t - 1), sizes.hidden, into);
  }

  void bottom_backward(int64_t t, Rows<T> d_sums) {
    multiply_sums(d_sums, weights.bottom, bottom);
    for (int64_t b = 0; b < rows; b++) {
      if (!runs(b, t)) continue;
      const T* d_seen = bottom.rows().row(b);
      std::copy_n(d_seen, sizes.hidden, d_hidden.at(first + b, 0));
      std::copy_n(d_seen + sizes.hidden, sizes.reads, d_reads.at(first + b, 0));
      if (wants_inputs) std::copy_n(d_seen + sizes.features(), sizes.input, d_inputs.at(first + b, t));
    }
  }
  // To the layer's own last hidden vector, and to the layer below, whose next step has had its say.
  void upper_backward(int64_t layer, int64_t t, Rows<T> d_sums, Rows<T> d_below) {
    multiply_sums(d_sums, weights.upper[layer - 1], upper);
    for (int64_t b = 0; b < rows; b++) {
      if (!runs(b, t)) continue;
      const T* d_seen = upper.rows().row(b);
      T* own = d_hidden.at(first + b, 0) + layer * sizes.hidden;
      std::copy_n(own - sizes.hidden, sizes.hidden, d_below.row(b));
      add_scaled(d_below.row(b), d_seen, T(1), sizes.hidden);
      std::copy_n(d_seen + sizes.hidden, sizes.hidden, own);
    }
  }
  void multiply_sums(Rows<T> d_sums, const Tensor& matrix, Space<T>& into) {
    const Rows<const T> zero{zeros.data(), 0};
    multiply(zero, constant(d_sums), rows_of<T>(matrix), into.rows(), rows, sizes.gates, matrix.size(1));
  }

  const SequenceCall& call;
  const ControllerSizes& sizes;
  const PackedWeights& weights;
  Trace<T> inputs, features, gates, cells, hiddens, d_reads, d_hidden, d_cell, d_inputs;
  bool wants_inputs;
  int64_t first, rows;
  Space<T> start, bottom, upper;
  std::vector<T> zeros;
  WeightGradient<T> of_bottom, of_interface;
  std::vector<WeightGradient<T>> of_upper;
};

}  // namespace memnets
