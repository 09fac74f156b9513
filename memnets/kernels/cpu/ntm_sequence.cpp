// The whole recurrence of an NTM in one call, forward and backward: controller, heads, addressing, read and write.
//
// The reference is memnets/ops/ntm_sequence.py; names and equations are the same. Sequences are independent: threads
// share them out in chunks, and within a chunk one matrix product serves all its sequences at a step. What doesn't
// depend on the step before (input projection, weight gradients) is one large matrix product outside the loop.
#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <optional>
#include <tuple>
#include <vector>

#include "controller.h"
#include "matrix.h"
#include "ntm_heads.h"

namespace memnets {
namespace {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;

constexpr int64_t CHUNK = 12;  // most sequences of one matrix product: two tiles of rows; their memories fit the cache

struct Weights {
  Tensor input, recurrent, bias, interface, interface_bias;  // recurrent undefined: feed-forward controller
};

// How many steps each sequence has: as many as there are inputs, if nothing else is said.
struct Lengths {
  Lengths(const MaybeTensor& given, const Sizes& sizes) : steps(sizes.steps) {
    if (!given) return;
    tensor = given->to(at::kLong).contiguous();
    TORCH_CHECK(tensor.dim() == 1 && tensor.size(0) == sizes.batch, "ntm_sequence: a length per sequence is needed");
    each = tensor.const_data_ptr<int64_t>();
    for (int64_t b = 0; b < sizes.batch; b++)
      TORCH_CHECK(each[b] >= 0 && each[b] <= steps, "ntm_sequence: a length of ", each[b], " with ", steps, " steps");
  }
  int64_t operator[](int64_t sequence) const { return each ? each[sequence] : steps; }
  int64_t most(int64_t first, int64_t end) const { return each ? *std::max_element(each + first, each + end) : steps; }

  Tensor tensor;
  const int64_t* each = nullptr;
  int64_t steps;
};

Sizes sizes_of(const Tensor& inputs, const Tensor& memory, const Tensor& read_weights, const Tensor& write_weights,
               const Weights& weights, c10::string_view similarity, bool strength, bool gate, int64_t shift_width,
               bool sharpening) {
  Sizes sizes;
  sizes.batch = inputs.size(0), sizes.steps = inputs.size(1), sizes.input = inputs.size(2);
  sizes.hidden = weights.interface.size(1), sizes.gates = weights.input.size(0);
  sizes.interface = weights.interface.size(0);
  sizes.lstm = weights.recurrent.defined();
  sizes.memory = {memory.size(1), memory.size(2), read_weights.size(1), write_weights.size(1)};
  const bool key = similarity != "none";
  sizes.scheme = {key, similarity == "cosine", strength, gate, sharpening, shift_width, memory.size(2)};
  const auto fits = [](const Tensor& tensor, at::IntArrayRef shape, const char* name) {
    TORCH_CHECK(tensor.sizes() == shape, "ntm_sequence: ", name, " must be ", shape, ", not ", tensor.sizes());
  };
  const auto [slots, word, reads, writes] = sizes.memory;
  fits(memory, {sizes.batch, slots, word}, "memory");
  fits(read_weights, {sizes.batch, reads, slots}, "read_weights");
  fits(write_weights, {sizes.batch, writes, slots}, "write_weights");
  fits(weights.bias, {sizes.gates}, "bias");
  fits(weights.interface_bias, {sizes.interface}, "interface_bias");
  if (sizes.lstm) fits(weights.recurrent, {sizes.gates, sizes.hidden}, "recurrent");
  TORCH_CHECK(key || !gate, "ntm_sequence: a gate needs content weights: similarity 'none' has none");
  TORCH_CHECK(shift_width % 2 || !shift_width, "ntm_sequence: shift_width must be odd, not ", shift_width);
  TORCH_CHECK(sizes.batch > 0 && sizes.steps > 0 && sizes.memory.slots > 0, "ntm_sequence: no sequences, steps or slots");
  TORCH_CHECK(sizes.gates == (sizes.lstm ? 4 : 1) * sizes.hidden, "ntm_sequence: controller weights don't fit");
  TORCH_CHECK(weights.input.size(1) == sizes.input + sizes.reads(), "ntm_sequence: input weights don't fit");
  TORCH_CHECK(sizes.interface == sizes.add_at() + sizes.memory.write_heads * sizes.memory.word,
              "ntm_sequence: interface weights don't fit the heads");
  return sizes;
}

// With lengths, what no step fills is 0.
Saved allocate(const Sizes& sizes, const at::TensorOptions& options, bool keep, bool fill) {
  const auto make = [&](at::IntArrayRef shape) { return fill ? at::zeros(shape, options) : at::empty(shape, options); };
  const int64_t states = keep ? sizes.steps + 1 : 2, steps = keep ? sizes.steps : 1, batch = sizes.batch;
  const int64_t slots = sizes.memory.slots, hidden = sizes.lstm ? sizes.hidden : 0;
  return {make({batch, sizes.steps, sizes.features()}),
          make({batch, steps, 4 * hidden}),
          make({batch, states, hidden}),
          make({batch, steps, sizes.interface}),
          make({batch, keep ? sizes.steps / MEMORY_INTERVAL + 1 : 1, sizes.memory.word, slots}),
          make({batch, states, sizes.heads(), slots}),
          make({batch, steps, sizes.heads(), sizes.scheme.num_traces(), slots}),
          make({batch, steps, sizes.scheme.cosine ? slots : 0})};
}

// Zeros [rows columns] with rows padded to whole vectors.
template <class T>
Tensor packed_zeros(int64_t rows, int64_t columns, const at::TensorOptions& options) {
  return at::zeros({rows, padded<T>(columns)}, options);
}

template <class T>
Rows<const T> rows_of(const Tensor& matrix) {
  return {matrix.const_data_ptr<T>(), matrix.stride(0)};
}

// packed[first + i][j] = matrix[j][i]
template <class T>
void pack_transposed(const Tensor& matrix, const Tensor& packed, int64_t first) {
  const Tensor dense = matrix.stride(1) == 1 ? matrix : matrix.contiguous();
  transpose<T>(rows_of<T>(dense), {packed.data_ptr<T>() + first * packed.stride(0), packed.stride(0)}, dense.size(0),
               dense.size(1));
}

// The weights from one step's features (hidden, reads) to the next step's gates; a feed-forward controller doesn't see
// its last output. For the backward pass [gates features], for the forward pass its transpose.
template <class T>
Tensor recurrence(const Weights& weights, const Sizes& sizes) {
  Tensor packed = packed_zeros<T>(sizes.gates, sizes.features(), weights.input.options());
  if (sizes.lstm) packed.narrow(1, 0, sizes.hidden).copy_(weights.recurrent);
  packed.narrow(1, sizes.hidden, sizes.reads()).copy_(weights.input.narrow(1, sizes.input, sizes.reads()));
  return packed;
}
template <class T>
Tensor recurrence_transposed(const Weights& weights, const Sizes& sizes) {
  Tensor packed = packed_zeros<T>(sizes.features(), sizes.gates, weights.input.options());
  if (sizes.lstm) pack_transposed<T>(weights.recurrent, packed, 0);
  pack_transposed<T>(weights.input.narrow(1, sizes.input, sizes.reads()), packed, sizes.hidden);
  return packed;
}

// Weights from hidden to interface, likewise: [interface hidden] and its transpose.
template <class T>
Tensor interface(const Weights& weights, const Sizes& sizes) {
  Tensor packed = packed_zeros<T>(sizes.interface, sizes.hidden, weights.interface.options());
  packed.narrow(1, 0, sizes.hidden).copy_(weights.interface);
  return packed;
}
template <class T>
Tensor interface_transposed(const Weights& weights, const Sizes& sizes) {
  Tensor packed = packed_zeros<T>(sizes.hidden, sizes.interface, weights.interface.options());
  pack_transposed<T>(weights.interface, packed, 0);
  return packed;
}

Tensor initial_features(const MaybeTensor& hidden, const Tensor& read_vectors, const Sizes& sizes) {
  const Tensor start = hidden ? *hidden : at::zeros({sizes.batch, sizes.hidden}, read_vectors.options());
  return at::cat({start, read_vectors.reshape({sizes.batch, sizes.reads()})}, 1);
}

// Call work(first, end) for chunks of the batch: of about the same size, and as many for each thread.
template <class Work>
void for_chunks(int64_t batch, const Work& work) {
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), batch);
  const int64_t rounds = (batch + threads * CHUNK - 1) / (threads * CHUNK), count = rounds * threads;
  at::parallel_for(0, count, 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++) work(i * batch / count, (i + 1) * batch / count);
  });
}

// Rows of a `[batch steps size]` tensor at one step, from sequence `first` on.
template <class T>
Rows<T> step_rows(const Tensor& tensor, int64_t first, int64_t step) {
  const int64_t steps = tensor.size(1), size = tensor.size(2);
  return {tensor.data_ptr<T>() + (first * steps + step % steps) * size, steps * size};
}
template <class T>
Rows<const T> constant(Rows<T> rows) {
  return {rows.start, rows.stride};
}

template <class T>
void run_forward(const Sizes& sizes, const Lengths& lengths, const Tensor& projected, const Tensor& start, const Tensor& recurrent,
                 const Tensor& interface, const Tensor& interface_bias, const Saved& saved, const Tensor& final_memory) {
  const int64_t hidden = sizes.hidden, features = sizes.features();
  const T* bias = interface_bias.const_data_ptr<T>();
  for_chunks(sizes.batch, [&](int64_t first, int64_t end) {
    const int64_t rows = end - first;
    HeadsForward<T> heads(sizes, saved, first, rows);
    std::vector<T> sums_space(rows * recurrent.size(1)), raw_space(rows * interface.size(1), T(0));
    const Rows<T> sums{sums_space.data(), recurrent.size(1)}, raw{raw_space.data(), interface.size(1)};
    for (int64_t t = 0, steps = lengths.most(first, end); t < steps; t++) {
      const Rows<T> now = step_rows<T>(saved.features, first, t), gates = step_rows<T>(saved.gates, first, t);
      const Rows<T> cell = step_rows<T>(saved.cells, first, t), next_cell = step_rows<T>(saved.cells, first, t + 1);
      const Rows<T> from_input = step_rows<T>(projected, first, t);
      const Rows<T> before = t ? step_rows<T>(saved.features, first, t - 1)
                               : Rows<T>{start.data_ptr<T>() + first * features, features};
      for (int64_t b = 0; b < rows; b++) std::copy_n(from_input.row(b), sizes.gates, sums.row(b));
      multiply_add(constant(before), rows_of<T>(recurrent), sums, rows, features, recurrent.size(1));
      for (int64_t b = 0; b < rows; b++) {
        if (t >= lengths[first + b]) continue;
        if (sizes.lstm)
          lstm_step(sums.row(b), cell.row(b), gates.row(b), next_cell.row(b), now.row(b), hidden);
        else
          tanh_step(sums.row(b), now.row(b), hidden);
        std::copy_n(bias, sizes.interface, raw.row(b));
      }
      multiply_add(constant(now), rows_of<T>(interface), raw, rows, hidden, interface.size(1));
      for (int64_t b = 0; b < rows; b++)
        if (t < lengths[first + b]) heads.step(first + b, t, raw.row(b), now.row(b) + hidden);
    }
    const int64_t slots = sizes.memory.slots, word = sizes.memory.word;
    for (int64_t b = first; b < end; b++)
      transpose<T>({heads.memories.at(b, lengths[b]), slots}, {final_memory.data_ptr<T>() + b * slots * word, word}, word,
                   slots);
  });
}

// Gradients of the sums before the controller's and the interface's activations, at every step; `d_memory`, `d_weights`
// and `d_cell` hold the gradients of the final state and then those of the initial one, `d_start` receives those of the
// first features.
template <class T>
void run_backward(const Sizes& sizes, const Lengths& lengths, const Tensor& d_features, const Tensor& recurrent, const Tensor& interface,
                  const Saved& saved, const Tensor& d_gates, const Tensor& d_interface, const Tensor& d_memory,
                  const Tensor& d_weights, const Tensor& d_cell, const Tensor& d_start) {
  const int64_t hidden = sizes.hidden, features = sizes.features();
  const int64_t memory_size = sizes.memory.slots * sizes.memory.word, weights_size = sizes.heads() * sizes.memory.slots;
  for_chunks(sizes.batch, [&](int64_t first, int64_t end) {
    const int64_t rows = end - first;
    HeadsBackward<T> heads(sizes, saved, first, rows);
    std::vector<T> carry_space(rows * recurrent.size(1), T(0)), d_hidden_space(rows * interface.size(1), T(0));
    const Rows<T> carry{carry_space.data(), recurrent.size(1)}, d_hidden{d_hidden_space.data(), interface.size(1)};
    for (int64_t t = lengths.most(first, end) - 1; t >= 0; t--) {
      const Rows<T> d_raw = step_rows<T>(d_interface, first, t), d_sums = step_rows<T>(d_gates, first, t);
      const Rows<T> d_output = step_rows<T>(d_features, first, t), now = step_rows<T>(saved.features, first, t);
      const Rows<T> gates = step_rows<T>(saved.gates, first, t);
      const Rows<T> cell = step_rows<T>(saved.cells, first, t), next_cell = step_rows<T>(saved.cells, first, t + 1);
      for (int64_t b = 0; b < rows; b++) {
        const int64_t sequence = first + b;
        if (t >= lengths[sequence]) continue;  // its gradients are still 0
        add_scaled(carry.row(b), d_output.row(b), T(1), features);
        if (t + 1 == lengths[sequence] || (t + 1) % MEMORY_INTERVAL == 0) heads.write_again(sequence, t);
        heads.step(sequence, t, carry.row(b) + hidden, d_memory.data_ptr<T>() + sequence * memory_size,
                   d_weights.data_ptr<T>() + sequence * weights_size, d_raw.row(b));
        std::copy_n(carry.row(b), hidden, d_hidden.row(b));
      }
      multiply_add(constant(d_raw), rows_of<T>(interface), d_hidden, rows, sizes.interface, interface.size(1));
      for (int64_t b = 0; b < rows; b++) {
        if (t >= lengths[first + b]) continue;
        if (sizes.lstm)
          lstm_step_backward(gates.row(b), cell.row(b), next_cell.row(b), d_hidden.row(b),
                             d_cell.data_ptr<T>() + (first + b) * hidden, d_sums.row(b), hidden);
        else
          tanh_step_backward(now.row(b), d_hidden.row(b), d_sums.row(b), hidden);
      }
      std::fill(carry_space.begin(), carry_space.end(), T(0));
      multiply_add(constant(d_sums), rows_of<T>(recurrent), carry, rows, sizes.gates, recurrent.size(1));
    }
    for (int64_t b = 0; b < rows; b++)
      std::copy_n(carry.row(b), features, d_start.data_ptr<T>() + (first + b) * features);
  });
}

using Forward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using Backward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Forward forward(const Tensor& inputs, const MaybeTensor& given_lengths, const Tensor& memory, const Tensor& read_weights, const Tensor& write_weights,
                const Tensor& read_vectors, const MaybeTensor& hidden, const MaybeTensor& cell,
                const Tensor& input_weight, const MaybeTensor& recurrent_weight, const Tensor& bias,
                const Tensor& interface_weight, const Tensor& interface_bias, c10::string_view similarity,
                bool strength, bool gate, int64_t shift_width, bool sharpening, bool keep) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::DispatchKey::AutocastCPU);
  const Weights weights{input_weight, recurrent_weight.value_or(Tensor()), bias, interface_weight, interface_bias};
  const Sizes sizes = sizes_of(inputs, memory, read_weights, write_weights, weights, similarity, strength, gate,
                               shift_width, sharpening);
  const int64_t reads = sizes.memory.read_heads, writes = sizes.memory.write_heads;
  const Lengths lengths(given_lengths, sizes);
  const Saved saved = allocate(sizes, inputs.options(), keep, given_lengths.has_value());
  saved.memories.select(1, 0).copy_(memory.transpose(1, 2));
  saved.weights.select(1, 0).narrow(1, 0, reads).copy_(read_weights);
  saved.weights.select(1, 0).narrow(1, reads, writes).copy_(write_weights);
  if (sizes.lstm) saved.cells.select(1, 0).copy_(*cell);
  const Tensor projected = at::addmm(bias, inputs.reshape({sizes.batch * sizes.steps, sizes.input}), input_weight.narrow(1, 0, sizes.input).t())
                               .view({sizes.batch, sizes.steps, sizes.gates});
  const Tensor start = initial_features(hidden, read_vectors, sizes);
  const Tensor final_memory = at::empty(memory.sizes(), inputs.options());
  AT_DISPATCH_FLOATING_TYPES(inputs.scalar_type(), "ntm_sequence", [&] {
    run_forward<scalar_t>(sizes, lengths, projected, start, recurrence_transposed<scalar_t>(weights, sizes),
                          interface_transposed<scalar_t>(weights, sizes), interface_bias.contiguous(), saved,
                          final_memory);
  });
  const auto last = [&](const Tensor& states) {  // each sequence's state after its last step
    if (!given_lengths) return states.select(1, sizes.steps % states.size(1));
    return states.index({at::arange(sizes.batch, at::kLong), at::remainder(lengths.tensor, states.size(1))});
  };
  const auto copy = [](const Tensor& view) { return view.clone(at::MemoryFormat::Contiguous); };
  return {saved.features, final_memory, copy(last(saved.weights).narrow(1, 0, reads)),
          copy(last(saved.weights).narrow(1, reads, writes)), copy(last(saved.cells)), saved.gates, saved.cells,
          saved.emitted, saved.memories, saved.weights, saved.traces, saved.inverse_norms};
}

Backward backward(const MaybeTensor& d_features, const MaybeTensor& d_memory, const MaybeTensor& d_read_weights,
                  const MaybeTensor& d_write_weights, const MaybeTensor& d_cell, const Tensor& inputs,
                  const MaybeTensor& given_lengths, const Tensor& read_vectors, const MaybeTensor& hidden, const Tensor& input_weight,
                  const MaybeTensor& recurrent_weight, const Tensor& bias, const Tensor& interface_weight,
                  const Tensor& interface_bias, const Tensor& features, const Tensor& gates, const Tensor& cells,
                  const Tensor& emitted, const Tensor& memories, const Tensor& weights_trace, const Tensor& traces,
                  const Tensor& inverse_norms, int64_t read_heads, c10::string_view similarity, bool strength,
                  bool gate, int64_t shift_width, bool sharpening, bool wants_inputs) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::DispatchKey::AutocastCPU);
  const Weights weights{input_weight, recurrent_weight.value_or(Tensor()), bias, interface_weight, interface_bias};
  const int64_t write_heads = weights_trace.size(2) - read_heads;
  const Tensor first_weights = weights_trace.select(1, 0);
  const Sizes sizes = sizes_of(inputs, memories.select(1, 0).transpose(1, 2), first_weights.narrow(1, 0, read_heads),
                               first_weights.narrow(1, read_heads, write_heads), weights, similarity, strength, gate,
                               shift_width, sharpening);
  TORCH_CHECK(weights_trace.size(1) == sizes.steps + 1, "ntm_sequence: the forward pass was told not to keep its steps");
  const Saved saved{features, gates, cells, emitted, memories, weights_trace, traces, inverse_norms};
  const auto options = inputs.options();
  const int64_t batch = sizes.batch, slots = sizes.memory.slots;
  Tensor to_memory = at::empty({batch, sizes.memory.word, slots}, options);
  Tensor to_weights = at::empty({batch, sizes.heads(), slots}, options);
  Tensor to_cell = at::zeros({batch, sizes.lstm ? sizes.hidden : 0}, options);
  const auto set = [](Tensor into, const MaybeTensor& given) { given ? into.copy_(*given) : into.zero_(); };
  set(to_memory.transpose(1, 2), d_memory);
  set(to_weights.narrow(1, 0, read_heads), d_read_weights);
  set(to_weights.narrow(1, read_heads, write_heads), d_write_weights);
  set(to_cell, d_cell);
  const Tensor d_output = d_features ? d_features->contiguous() : at::zeros_like(features);
  const Lengths lengths(given_lengths, sizes);
  const auto make = [&](at::IntArrayRef shape) { return given_lengths ? at::zeros(shape, options) : at::empty(shape, options); };
  const Tensor d_gates = make({batch, sizes.steps, sizes.gates});
  const Tensor d_interface = make({batch, sizes.steps, sizes.interface});
  const Tensor d_start = at::empty({batch, sizes.features()}, options);
  AT_DISPATCH_FLOATING_TYPES(inputs.scalar_type(), "ntm_sequence", [&] {
    run_backward<scalar_t>(sizes, lengths, d_output, recurrence<scalar_t>(weights, sizes),
                           interface<scalar_t>(weights, sizes), saved, d_gates, d_interface, to_memory, to_weights,
                           to_cell, d_start);
  });
  // What each step's gates saw: inputs, and the features of the step before.
  const Tensor start = initial_features(hidden, read_vectors, sizes).unsqueeze(1);
  const Tensor before = at::cat({start, features.narrow(1, 0, sizes.steps - 1)}, 1);
  const Tensor seen = at::cat({inputs, before.narrow(2, sizes.hidden, sizes.reads()), before.narrow(2, 0, sizes.hidden)}, 2);
  const Tensor flat_gates = d_gates.view({-1, sizes.gates}), flat_interface = d_interface.view({-1, sizes.interface});
  const Tensor d_seen_weight = at::mm(flat_gates.t(), seen.flatten(0, 1));
  const Tensor d_inputs = wants_inputs
                              ? at::mm(flat_gates, input_weight.narrow(1, 0, sizes.input)).view(inputs.sizes())
                              : at::empty({0, sizes.steps, sizes.input}, options);
  const Tensor d_interface_weight =
      at::mm(flat_interface.t(), features.view({-1, sizes.features()}).narrow(1, 0, sizes.hidden));
  const auto copy = [](const Tensor& view) { return view.clone(at::MemoryFormat::Contiguous); };
  const int64_t input_width = sizes.input + sizes.reads(), recurrent_width = sizes.lstm ? sizes.hidden : 0;
  return {d_inputs,
          copy(to_memory.transpose(1, 2)),
          copy(to_weights.narrow(1, 0, read_heads)),
          copy(to_weights.narrow(1, read_heads, write_heads)),
          copy(d_start.narrow(1, sizes.hidden, sizes.reads())).view({batch, read_heads, sizes.memory.word}),
          copy(d_start.narrow(1, 0, recurrent_width)),
          to_cell,
          copy(d_seen_weight.narrow(1, 0, input_width)),
          copy(d_seen_weight.narrow(1, input_width, recurrent_width)),
          flat_gates.sum(0),
          d_interface_weight,
          flat_interface.sum(0)};
}

}  // namespace
}  // namespace memnets

TORCH_LIBRARY_FRAGMENT(memnets, library) {
  library.def(
      "ntm_sequence_forward(Tensor inputs, Tensor? lengths, Tensor memory, Tensor read_weights, Tensor write_weights, "
      "Tensor read_vectors, Tensor? hidden, Tensor? cell, Tensor input_weight, Tensor? recurrent_weight, Tensor bias, "
      "Tensor interface_weight, Tensor interface_bias, str similarity, bool strength, bool gate, int shift_width, "
      "bool sharpening, bool keep) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "ntm_sequence_backward(Tensor? d_features, Tensor? d_memory, Tensor? d_read_weights, Tensor? d_write_weights, "
      "Tensor? d_cell, Tensor inputs, Tensor? lengths, Tensor read_vectors, Tensor? hidden, Tensor input_weight, "
      "Tensor? recurrent_weight, Tensor bias, Tensor interface_weight, Tensor interface_bias, Tensor features, "
      "Tensor gates, Tensor cells, Tensor emitted, Tensor memories, Tensor weights, Tensor traces, "
      "Tensor inverse_norms, int read_heads, str similarity, bool strength, bool gate, int shift_width, "
      "bool sharpening, bool wants_inputs) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(memnets, CPU, library) {
  library.impl("ntm_sequence_forward", &memnets::forward);
  library.impl("ntm_sequence_backward", &memnets::backward);
}
