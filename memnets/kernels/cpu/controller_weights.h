// What a sequence kernel is given whatever its memory: inputs, lengths, a controller's state and weights; their sizes,
// checked, and the weights packed for products of matrices.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>

#include <initializer_list>
#include <optional>
#include <vector>

#include "matrix.h"
#include "trace.h"

namespace memnets {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;

struct ControllerSizes {
  int64_t batch, steps, input, hidden, layers, gates, interface, reads;  // reads: numbers read in a step, all heads
  bool lstm;                                                             // or one tanh layer

  int64_t features() const { return hidden + reads; }
  int64_t state_layers() const { return lstm ? layers : 0; }
};

// Undefined where there are none: `recurrent` with a tanh layer, `upper` with one layer.
struct ControllerWeights {
  ControllerWeights(const Tensor& input, const MaybeTensor& recurrent, const Tensor& bias, const MaybeTensor& upper,
                    const MaybeTensor& upper_bias, const Tensor& interface, const Tensor& interface_bias)
      : input(input), recurrent(recurrent.value_or(Tensor())), bias(bias.contiguous()), upper(upper.value_or(Tensor())),
        upper_bias(upper_bias ? upper_bias->contiguous() : Tensor()), interface(interface),
        interface_bias(interface_bias.contiguous()) {}
  Tensor input, recurrent, bias, upper, upper_bias, interface, interface_bias;
};

// How many steps each sequence has: as many as there are inputs, if nothing else is said.
struct Lengths {
  Lengths(const char* op, const MaybeTensor& given, int64_t batch, int64_t steps) : steps(steps) {
    if (!given) return;
    tensor = given->to(at::kLong).contiguous();
    TORCH_CHECK(tensor.dim() == 1 && tensor.size(0) == batch, op, ": a length per sequence is needed");
    each = tensor.const_data_ptr<int64_t>();
    for (int64_t b = 0; b < batch; b++)
      TORCH_CHECK(each[b] >= 0 && each[b] <= steps, op, ": a length of ", each[b], " with ", steps, " steps");
  }
  int64_t operator[](int64_t sequence) const { return each ? each[sequence] : steps; }
  int64_t most(int64_t first, int64_t end) const { return each ? *std::max_element(each + first, each + end) : steps; }

  Tensor tensor;  // undefined if nothing was said
  const int64_t* each = nullptr;
  int64_t steps;
};

inline void check_shape(const char* op, const char* name, const Tensor& tensor, at::IntArrayRef shape) {
  TORCH_CHECK(tensor.sizes() == shape, op, ": ", name, " must be ", shape, ", not ", tensor.sizes());
}

inline ControllerSizes controller_sizes(const char* op, const Tensor& inputs, const Tensor& read_vectors,
                                        const MaybeTensor& hidden, const ControllerWeights& weights) {
  ControllerSizes sizes;
  sizes.lstm = weights.recurrent.defined();
  sizes.batch = inputs.size(0), sizes.steps = inputs.size(1), sizes.input = inputs.size(2);
  sizes.layers = 1 + (weights.upper.defined() ? weights.upper.size(0) : 0);
  sizes.gates = weights.input.size(0), sizes.interface = weights.interface.size(0);
  sizes.hidden = weights.interface.size(1), sizes.reads = read_vectors.size(1) * read_vectors.size(2);
  const auto [batch, steps, input, size, layers, gates, interface, reads, lstm] = sizes;
  TORCH_CHECK(batch > 0 && steps > 0, op, ": no sequences or no steps");
  TORCH_CHECK(gates == (lstm ? 4 : 1) * size && (lstm || layers == 1), op, ": controller weights don't fit");
  TORCH_CHECK(weights.input.size(1) == input + reads, op, ": input weights don't fit");
  check_shape(op, "read_vectors", read_vectors, {batch, read_vectors.size(1), read_vectors.size(2)});
  TORCH_CHECK(hidden.has_value() == lstm, op, ": hidden vectors go with recurrent weights");
  check_shape(op, "bias", weights.bias, {gates});
  check_shape(op, "interface_bias", weights.interface_bias, {interface});
  if (lstm) check_shape(op, "recurrent", weights.recurrent, {gates, size});
  if (lstm) check_shape(op, "hidden", *hidden, {batch, layers, size});
  if (layers > 1) check_shape(op, "upper", weights.upper, {layers - 1, gates, 2 * size});
  TORCH_CHECK(weights.upper_bias.defined() == (layers > 1), op, ": upper weights go with an upper bias");
  if (layers > 1) check_shape(op, "upper_bias", weights.upper_bias, {layers - 1, gates});
  return sizes;
}

constexpr int64_t CHUNK = 8;  // rows of a matrix product; so many of the usual memories fit the cache

// What forward and backward pass are given alike.
struct SequenceCall {
  SequenceCall(const char* op, const Tensor& inputs, const MaybeTensor& given_lengths, const Tensor& read_vectors,
               const MaybeTensor& hidden, const ControllerWeights& weights)
      : op(op), sizes(controller_sizes(op, inputs, read_vectors, hidden, weights)),
        lengths(op, given_lengths, sizes.batch, sizes.steps), inputs(inputs.contiguous()), weights(weights),
        hidden(hidden ? dense(*hidden) : at::zeros({sizes.batch, 1, sizes.hidden}, inputs.options())),
        read_vectors(dense(read_vectors)) {}

  // Room `[batch steps ...]` for results of every step. With lengths, what no step fills is 0.
  Tensor room(at::IntArrayRef shape) const {
    return lengths.each ? at::zeros(shape, inputs.options()) : at::empty(shape, inputs.options());
  }
  // The same for what every step leaves behind, a step after the other: its numbers are used together.
  Tensor trace(at::IntArrayRef shape) const {
    std::vector<int64_t> strides(shape.size());
    int64_t stride = 1;
    const auto lay = [&](size_t axis) {
      strides[axis] = stride;
      stride *= std::max<int64_t>(shape[axis], 1);
    };
    for (size_t axis = shape.size() - 1; axis > 1; axis--) lay(axis);
    lay(0);
    lay(1);
    const Tensor made = at::empty_strided(shape, strides, inputs.options());
    return lengths.each ? made.zero_() : made;
  }
  // Room for a state after the last step.
  Tensor like(const Tensor& state) const { return at::empty(state.sizes(), inputs.options()); }
  // Threads that share out the batch.
  int64_t workers() const { return std::min<int64_t>(at::get_num_threads(), sizes.batch); }
  // Each sequence's row of a trace with an initial row, after its last step.
  Tensor last(const Tensor& states) const {
    if (!lengths.each) return states.select(1, sizes.steps % states.size(1)).clone(at::MemoryFormat::Contiguous);
    return states.index({at::arange(sizes.batch, at::kLong), at::remainder(lengths.tensor, states.size(1))});
  }

  // As long as the call lasts: it has a gradient of its own, and its results' dtype is its inputs'.
  at::AutoDispatchBelowADInplaceOrView no_autograd;
  c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::DispatchKey::AutocastCPU};
  const char* op;
  ControllerSizes sizes;
  Lengths lengths;
  Tensor inputs;
  ControllerWeights weights;
  Tensor hidden, read_vectors;  // before the first step, `dense` [batch layers hidden] [batch read_heads word]
  int64_t chunk = CHUNK;  // most sequences that one thread runs step by step together
};

template <class T>
Rows<const T> rows_of(const Tensor& matrix, int64_t first = 0) {
  return {matrix.const_data_ptr<T>() + first * matrix.stride(0), matrix.stride(0)};
}
template <class T>
Rows<const T> constant(Rows<T> rows) {
  return {rows.start, rows.stride};
}

inline int64_t width_of(std::initializer_list<Tensor> matrices) {
  int64_t columns = 0;
  for (const Tensor& matrix : matrices) columns += matrix.size(1);
  return columns;
}
inline Tensor dense_rows(const Tensor& matrix) { return matrix.stride(1) == 1 ? matrix : matrix.contiguous(); }

// The matrices side by side, rows padded to whole vectors with zeros.
template <class T>
Tensor packed(std::initializer_list<Tensor> matrices) {
  const int64_t rows = matrices.begin()->size(0), columns = width_of(matrices);
  const Tensor into = at::empty({rows, padded<T>(columns)}, matrices.begin()->options());
  const Rows<T> to{into.data_ptr<T>(), into.size(1)};
  int64_t at = 0;
  for (const Tensor& matrix : matrices) {
    const Tensor dense = dense_rows(matrix);
    const Rows<const T> from = rows_of<T>(dense);
    const int64_t width = dense.size(1);
    for (int64_t i = 0; i < rows; i++) std::copy_n(from.row(i), width, to.row(i) + at);
    at += width;
  }
  for (int64_t i = 0; i < rows; i++) std::fill(to.row(i) + columns, to.row(i + 1), T(0));
  return into;
}

// The transpose of the matrices side by side, its rows padded likewise.
template <class T>
Tensor packed_transposed(std::initializer_list<Tensor> matrices) {
  const int64_t rows = matrices.begin()->size(0);
  const int64_t columns = width_of(matrices), width = padded<T>(rows);
  const Tensor into = at::empty({columns, width}, matrices.begin()->options());
  const Rows<T> to{into.data_ptr<T>(), width};
  for (int64_t j = 0; j < columns; j++) std::fill(to.row(j) + rows, to.row(j + 1), T(0));
  int64_t at = 0;
  for (const Tensor& matrix : matrices) {
    const Tensor dense = dense_rows(matrix);
    transpose<T>(rows_of<T>(dense), to.from(at, 0), rows, dense.size(1));
    at += dense.size(1);
  }
  return into;
}

// The weights of a step: of the bottom layer from the step before (hidden, reads) and the input to its gates, of the
// upper layers from hidden vectors (below, own) to theirs, and from the top layer's to the interface. A tanh layer
// doesn't see its last output. For the backward pass `[gates seen]`, for the forward pass transposed.
struct PackedWeights {
  Tensor bottom, interface;
  std::vector<Tensor> upper;

  template <class T>
  static PackedWeights of(const SequenceCall& call, bool transposed, bool with_inputs) {
    const auto pack = [&](std::initializer_list<Tensor> matrices) {
      return transposed ? packed_transposed<T>(matrices) : packed<T>(matrices);
    };
    const auto& [sizes, weights] = std::tie(call.sizes, call.weights);
    const Tensor own = sizes.lstm ? weights.recurrent : at::zeros({sizes.gates, sizes.hidden}, call.inputs.options());
    const Tensor reads = weights.input.narrow(1, sizes.input, sizes.reads);
    const Tensor inputs = weights.input.narrow(1, 0, with_inputs ? sizes.input : 0);
    PackedWeights made{pack({own, reads, inputs}), pack({weights.interface}), {}};
    for (int64_t layer = 1; layer < sizes.layers; layer++) made.upper.push_back(pack({weights.upper[layer - 1]}));
    return made;
  }
};

}  // namespace memnets
