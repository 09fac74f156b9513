// The whole recurrence of a sparse access memory in one call, forward and backward: controller, write, search and read.
//
// The reference is memnets/ops/sam_sequence.py; names and equations are the same. A step costs the search of the slots
// that were used, and else what the heads touch: it writes and keeps a few rows, and the backward pass puts them back
// step by step (Rae et al. 2016, section 3.4).
#include <torch/library.h>

#include <tuple>

#include "sam_heads.h"
#include "sequence.h"

namespace memnets {
namespace {

constexpr const char* OP = "sam_sequence";

SparseSizes sparse_sizes(const SequenceCall& call, at::IntArrayRef memory, at::IntArrayRef read_weights) {
  TORCH_CHECK(memory.size() == 3 && read_weights.size() == 3, OP,
              ": memory must be [batch slots word], read_weights [batch heads k]");
  const SparseSizes sizes{memory[1], memory[2], read_weights[1], read_weights[2]};
  TORCH_CHECK(sizes.reads >= 1 && sizes.reads <= sizes.slots, OP, ": a head can't read ", sizes.reads, " of ",
              sizes.slots, " slots");
  TORCH_CHECK(sizes.heads <= sizes.slots, OP, ": every head writes to a slot of its own, so ", sizes.heads,
              " heads need as many, not ", sizes.slots);
  TORCH_CHECK(call.sizes.reads == sizes.heads * sizes.word, OP, ": read vectors don't fit the memory");
  TORCH_CHECK(call.sizes.interface == sizes.interface(), OP, ": interface weights don't fit the heads");
  return sizes;
}

void check_slots(const char* name, const Tensor& slots, int64_t most) {
  const bool within = slots.numel() == 0 || (slots.min().item<int64_t>() >= 0 && slots.max().item<int64_t>() < most);
  TORCH_CHECK(within, OP, ": ", name, " must lie between 0 and ", most - 1);
}

Tensor copy(const Tensor& view) { return view.clone(at::MemoryFormat::Contiguous); }

SparseTrace allocate(const SequenceCall& call, const SparseSizes& sizes, bool keep) {
  const int64_t batch = call.sizes.batch, steps = keep ? call.sizes.steps : 1, states = keep ? call.sizes.steps + 1 : 2;
  const auto options = call.inputs.options();
  return {call.trace({batch, steps, call.sizes.interface}), call.trace({batch, states, sizes.heads, sizes.reads}),
          at::zeros({batch, states, sizes.heads, sizes.places()}, options.dtype(at::kLong)),
          call.trace({batch, steps, sizes.writes(), sizes.word}),
          at::empty({batch, keep ? sizes.slots : 0, sizes.word}, options)};
}

using Forward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                           Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using Backward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                            Tensor, Tensor, Tensor>;

Forward forward(const Tensor& inputs, const MaybeTensor& lengths, const Tensor& memory, const Tensor& read_weights,
                const Tensor& write_weights, const Tensor& last_access, const Tensor& clock, const Tensor& read_slots,
                const Tensor& write_slots, const Tensor& read_vectors, const MaybeTensor& hidden,
                const MaybeTensor& cell, const Tensor& input_weight, const MaybeTensor& recurrent_weight,
                const Tensor& bias, const MaybeTensor& upper_weight, const MaybeTensor& upper_bias,
                const Tensor& interface_weight, const Tensor& interface_bias, double threshold, bool keep) {
  const ControllerWeights controller{input_weight, recurrent_weight, bias,          upper_weight,
                                     upper_bias,   interface_weight, interface_bias};
  const SequenceCall call(OP, inputs, lengths, read_vectors, hidden, controller);
  const SparseSizes sizes = sparse_sizes(call, memory.sizes(), read_weights.sizes());
  const int64_t batch = call.sizes.batch, heads = sizes.heads, reads = sizes.reads, places = sizes.places();
  check_shape(OP, "memory", memory, {batch, sizes.slots, sizes.word});
  check_shape(OP, "read_weights", read_weights, {batch, heads, reads});
  check_shape(OP, "write_weights", write_weights, {batch, heads, places});
  check_shape(OP, "last_access", last_access, {batch, sizes.slots});
  check_shape(OP, "clock", clock, {batch});
  check_shape(OP, "read_slots", read_slots, {batch, heads, reads});
  check_shape(OP, "write_slots", write_slots, {batch, heads, places});
  check_slots("read_slots", read_slots, sizes.slots);
  const SparseTrace trace = allocate(call, sizes, keep);
  trace.weights.select(1, 0).copy_(read_weights);
  trace.slots.select(1, 0).narrow(2, 0, reads).copy_(read_slots);
  const SparseState state{copy(memory), copy(write_weights), copy(last_access), copy(clock), copy(write_slots)};
  const SequenceResult result = run_forward(call, cell, keep, [&]<class T>(int64_t first, int64_t rows) {
    return SparseForward<T>(sizes, threshold, trace, state, first, rows);
  });
  return {result.trace.features, state.memory, call.last(trace.weights), state.write_weights, state.last_access,
          state.clock, copy(call.last(trace.slots).narrow(2, 0, reads)), state.write_slots,
          result.read_vectors.view(read_vectors.sizes()), result.hidden, result.cell, result.trace.gates,
          result.trace.cells, result.trace.hiddens, trace.emitted, trace.weights, trace.slots, trace.replaced,
          trace.memories};
}

Backward backward(const MaybeTensor& d_features, const MaybeTensor& d_memory, const MaybeTensor& d_read_weights,
                  const MaybeTensor& d_write_weights, const MaybeTensor& d_read_vectors, const MaybeTensor& d_hidden,
                  const MaybeTensor& d_cell, const Tensor& inputs, const MaybeTensor& lengths,
                  const Tensor& read_vectors, const MaybeTensor& hidden, const Tensor& input_weight,
                  const MaybeTensor& recurrent_weight, const Tensor& bias, const MaybeTensor& upper_weight,
                  const MaybeTensor& upper_bias, const Tensor& interface_weight, const Tensor& interface_bias,
                  const Tensor& features, const Tensor& gates, const Tensor& cells, const Tensor& hiddens,
                  const Tensor& emitted, const Tensor& weights, const Tensor& slots, const Tensor& replaced,
                  const Tensor& memories, double, bool wants_inputs, bool wants_memory) {
  const ControllerWeights controller{input_weight, recurrent_weight, bias,          upper_weight,
                                     upper_bias,   interface_weight, interface_bias};
  const SequenceCall call(OP, inputs, lengths, read_vectors, hidden, controller);
  const SparseSizes sizes = sparse_sizes(call, memories.sizes(), weights.select(1, 0).sizes());
  const SparseTrace trace{emitted, weights, slots, replaced, memories};
  const int64_t batch = call.sizes.batch;
  const auto options = inputs.options();
  const SparseGradients room{gradient_or_zeros(d_memory, memories.sizes(), options),
                             gradient_or_zeros(d_read_weights, {batch, sizes.heads, sizes.reads}, options),
                             gradient_or_zeros(d_write_weights, {batch, sizes.heads, sizes.places()}, options)};
  const Tensor again = copy(memories);
  const SequenceGradients found =
      run_backward(call, {features, gates, cells, hiddens}, {d_features, d_read_vectors, d_hidden, d_cell},
                   wants_inputs,
                   [&]<class T>(int64_t, int64_t) { return SparseBackward<T>(sizes, trace, again, room); });
  const Tensor memory = wants_memory ? room.memory : at::empty({0, sizes.slots, sizes.word}, options);
  return {found.inputs, memory, room.read_weights, room.write_weights,
          found.read_vectors.view(read_vectors.sizes()), found.hidden, found.cell, found.input_weight,
          found.recurrent_weight, found.bias, found.upper_weight, found.upper_bias, found.interface_weight,
          found.interface_bias};
}

}  // namespace
}  // namespace memnets

TORCH_LIBRARY_FRAGMENT(memnets, library) {
  library.def(
      "sam_sequence_forward(Tensor inputs, Tensor? lengths, Tensor memory, Tensor read_weights, Tensor write_weights, "
      "Tensor last_access, Tensor clock, Tensor read_slots, Tensor write_slots, Tensor read_vectors, Tensor? hidden, "
      "Tensor? cell, Tensor input_weight, Tensor? recurrent_weight, Tensor bias, Tensor? upper_weight, "
      "Tensor? upper_bias, Tensor interface_weight, Tensor interface_bias, float threshold, bool keep) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, "
      "Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "sam_sequence_backward(Tensor? d_features, Tensor? d_memory, Tensor? d_read_weights, Tensor? d_write_weights, "
      "Tensor? d_read_vectors, Tensor? d_hidden, Tensor? d_cell, Tensor inputs, Tensor? lengths, "
      "Tensor read_vectors, Tensor? hidden, Tensor input_weight, Tensor? recurrent_weight, Tensor bias, "
      "Tensor? upper_weight, Tensor? upper_bias, Tensor interface_weight, Tensor interface_bias, Tensor features, "
      "Tensor gates, Tensor cells, Tensor hiddens, Tensor emitted, Tensor weights, Tensor slots, Tensor replaced, "
      "Tensor memories, float threshold, bool wants_inputs, bool wants_memory) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, "
      "Tensor)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(memnets, CPU, library) {
  library.impl("sam_sequence_forward", &memnets::forward);
  library.impl("sam_sequence_backward", &memnets::backward);
}
