// Gradients of weights, summed over steps and sequences while the backward pass runs.
#pragma once

#include <vector>

#include "controller_weights.h"
#include "matrix.h"

namespace memnets {

// Gradients of the weights and bias of one layer, a sum of each worker's own: [workers outputs seen], [workers outputs].
struct LayerSums {
  LayerSums(int64_t workers, int64_t outputs, std::initializer_list<int64_t> widths, const at::TensorOptions& options)
      : bias(at::zeros({workers, outputs}, options)) {
    for (const int64_t width : widths) weights.push_back(at::zeros({workers, outputs, width}, options));
  }
  // Over all workers.
  static Tensor total(const Tensor& sums) { return sums.size(0) == 1 ? sums.squeeze(0) : sums.sum(0); }

  std::vector<Tensor> weights;  // of the parts of what the layer sees
  Tensor bias;
};

// A worker's part of them. Steps are collected first: a product of a few of them reads and writes the sums less often.
template <class T>
struct WeightGradient {
  WeightGradient(const LayerSums& sums, int64_t worker, int64_t rows)
      : sums(sums), worker(worker), outputs(sums.bias.size(1)), step_rows(rows),
        capacity((MOST_ROWS + rows - 1) / rows * rows) {
    for (const Tensor& part : sums.weights) seen_size += part.size(2);
    d_outputs.resize(capacity * outputs), all_seen.resize(capacity * seen_size);
  }

  // The rows of this step's sequences: gradients of the layer's sums, and what it saw, its parts side by side.
  Rows<T> d_sums() { return {d_outputs.data() + filled * outputs, outputs}; }
  Rows<T> seen() { return {all_seen.data() + filled * seen_size, seen_size}; }
  // A sequence that has no such step adds nothing.
  void leave_out(int64_t row) {
    std::fill_n(d_sums().row(row), outputs, T(0));
    std::fill_n(seen().row(row), seen_size, T(0));
  }
  // The step's rows are there.
  void add() {
    filled += step_rows;
    if (filled == capacity) add_up();
  }
  void add_up() {
    int64_t first = 0;
    for (const Tensor& part : sums.weights) {
      const int64_t width = part.size(2);
      multiply_add<T>(Columns<const T>{d_outputs.data(), outputs}, {all_seen.data() + first, seen_size},
                      {part.data_ptr<T>() + worker * outputs * width, width}, outputs, filled, width);
      first += width;
    }
    T* bias = sums.bias.data_ptr<T>() + worker * outputs;
    for (int64_t row = 0; row < filled; row++) add_scaled(bias, d_outputs.data() + row * outputs, T(1), outputs);
    filled = 0;
  }

  static constexpr int64_t MOST_ROWS = 48;
  const LayerSums& sums;
  int64_t worker, outputs, step_rows, capacity, seen_size = 0, filled = 0;
  std::vector<T> d_outputs, all_seen;
};

}  // namespace memnets
