// The whole recurrence of an NTM in one call, forward and backward: controller, heads, addressing, read and write.
//
// The reference is memnets/ops/ntm_sequence.py; names and equations are the same.
#include <torch/library.h>

#include <tuple>

#include "ntm_heads.h"
#include "sequence.h"

namespace memnets {
namespace {

constexpr const char* OP = "ntm_sequence";

HeadSizes head_sizes(const SequenceCall& call, const MemorySizes& memory, c10::string_view similarity, bool strength,
                     bool gate, int64_t shift_width, bool sharpening) {
  const bool key = similarity != "none";
  const HeadSizes sizes{memory, {key, similarity == "cosine", strength, gate, sharpening, shift_width, memory.word}};
  TORCH_CHECK(memory.slots > 0, OP, ": a memory of no slots");
  TORCH_CHECK(memory.write_heads > 0, OP, ": no head that writes");
  TORCH_CHECK(key || !gate, OP, ": a gate needs content weights: similarity 'none' has none");
  TORCH_CHECK(shift_width % 2 || !shift_width, OP, ": shift_width must be odd, not ", shift_width);
  TORCH_CHECK(call.sizes.interface == sizes.interface(), OP, ": interface weights don't fit the heads");
  return sizes;
}

HeadTrace allocate(const SequenceCall& call, const HeadSizes& sizes, bool keep) {
  const int64_t batch = call.sizes.batch, slots = sizes.memory.slots;
  const int64_t steps = keep ? call.sizes.steps : 1, states = keep ? call.sizes.steps + 1 : 2;
  return {call.trace({batch, steps, call.sizes.interface}),
          call.trace({batch, keep ? steps / MEMORY_INTERVAL + 1 : 1, sizes.memory.word, slots}),
          call.trace({batch, states, sizes.heads(), slots}),
          call.trace({batch, steps, sizes.heads(), sizes.scheme.num_traces(), slots})};
}

using Forward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                           Tensor, Tensor, Tensor>;
using Backward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                            Tensor, Tensor, Tensor>;

Forward forward(const Tensor& inputs, const MaybeTensor& lengths, const Tensor& memory, const Tensor& read_weights,
                const Tensor& write_weights, const Tensor& read_vectors, const MaybeTensor& hidden,
                const MaybeTensor& cell, const Tensor& input_weight, const MaybeTensor& recurrent_weight,
                const Tensor& bias, const MaybeTensor& upper_weight, const MaybeTensor& upper_bias,
                const Tensor& interface_weight, const Tensor& interface_bias, c10::string_view similarity,
                bool strength, bool gate, int64_t shift_width, bool sharpening, bool keep) {
  const ControllerWeights controller(input_weight, recurrent_weight, bias, upper_weight, upper_bias, interface_weight,
                                     interface_bias);
  const SequenceCall call(OP, inputs, lengths, read_vectors, hidden, controller);
  const int64_t slots = memory.size(1), reads = read_weights.size(1), writes = write_weights.size(1);
  check_shape(OP, "memory", memory, {call.sizes.batch, slots, memory.size(2)});
  check_shape(OP, "read_weights", read_weights, {call.sizes.batch, reads, slots});
  check_shape(OP, "write_weights", write_weights, {call.sizes.batch, writes, slots});
  check_shape(OP, "read_vectors", read_vectors, {call.sizes.batch, reads, memory.size(2)});
  const HeadSizes sizes = head_sizes(call, {slots, memory.size(2), reads, writes}, similarity, strength, gate,
                                     shift_width, sharpening);
  const HeadTrace trace = allocate(call, sizes, keep);
  const HeadState before{dense(memory), dense(read_weights), dense(write_weights)};
  const HeadState after{call.like(memory), call.like(read_weights), call.like(write_weights)};
  const SequenceResult result = run_forward(call, cell, keep, [&]<class T>(int64_t first, int64_t rows) {
    return HeadsForward<T>(sizes, trace, before, after, first, rows);
  });
  return {result.trace.features, after.memory, after.read_weights, after.write_weights,
          result.read_vectors.view(read_vectors.sizes()), result.hidden, result.cell, result.trace.gates,
          result.trace.cells, result.trace.hiddens, trace.emitted, trace.memories, trace.weights, trace.traces};
}

Backward backward(const MaybeTensor& d_features, const MaybeTensor& d_memory, const MaybeTensor& d_read_weights,
                  const MaybeTensor& d_write_weights, const MaybeTensor& d_read_vectors, const MaybeTensor& d_hidden,
                  const MaybeTensor& d_cell, const Tensor& inputs, const MaybeTensor& lengths,
                  const Tensor& read_vectors, const MaybeTensor& hidden, const Tensor& input_weight,
                  const MaybeTensor& recurrent_weight, const Tensor& bias, const MaybeTensor& upper_weight,
                  const MaybeTensor& upper_bias, const Tensor& interface_weight, const Tensor& interface_bias,
                  const Tensor& features, const Tensor& gates, const Tensor& cells, const Tensor& hiddens,
                  const Tensor& emitted, const Tensor& memories, const Tensor& weights, const Tensor& traces,
                  c10::string_view similarity, bool strength, bool gate, int64_t shift_width, bool sharpening,
                  bool wants_inputs, bool wants_memory) {
  const ControllerWeights controller(input_weight, recurrent_weight, bias, upper_weight, upper_bias, interface_weight,
                                     interface_bias);
  const SequenceCall call(OP, inputs, lengths, read_vectors, hidden, controller);
  const int64_t batch = call.sizes.batch, word = memories.size(2), slots = memories.size(3);
  const int64_t reads = read_vectors.size(1), writes = weights.size(2) - reads;
  const HeadSizes sizes = head_sizes(call, {slots, word, reads, writes}, similarity, strength, gate, shift_width,
                                     sharpening);
  const HeadTrace trace{emitted, memories, weights, traces};
  const auto options = inputs.options();
  const HeadState initial{at::empty({wants_memory ? batch : 0, slots, word}, options),
                          at::empty({batch, reads, slots}, options), at::empty({batch, writes, slots}, options)};
  const auto given = [&](const char* name, const MaybeTensor& gradient, at::IntArrayRef shape) {
    if (gradient) check_shape(OP, name, *gradient, shape);
    return dense(gradient);
  };
  const HeadGradients room{given("d_memory", d_memory, {batch, slots, word}),
                           given("d_read_weights", d_read_weights, {batch, reads, slots}),
                           given("d_write_weights", d_write_weights, {batch, writes, slots}), initial};
  const SequenceGradients found =
      run_backward(call, {features, gates, cells, hiddens}, {d_features, d_read_vectors, d_hidden, d_cell},
                   wants_inputs, [&]<class T>(int64_t first, int64_t rows) {
                     return HeadsBackward<T>(sizes, call.lengths, trace, room, first, rows);
                   });
  return {found.inputs, initial.memory, initial.read_weights, initial.write_weights,
          found.read_vectors.view(read_vectors.sizes()), found.hidden, found.cell, found.input_weight,
          found.recurrent_weight, found.bias, found.upper_weight, found.upper_bias, found.interface_weight,
          found.interface_bias};
}

}  // namespace
}  // namespace memnets

TORCH_LIBRARY_FRAGMENT(memnets, library) {
  library.def(
      "ntm_sequence_forward(Tensor inputs, Tensor? lengths, Tensor memory, Tensor read_weights, Tensor write_weights, "
      "Tensor read_vectors, Tensor? hidden, Tensor? cell, Tensor input_weight, Tensor? recurrent_weight, Tensor bias, "
      "Tensor? upper_weight, Tensor? upper_bias, Tensor interface_weight, Tensor interface_bias, str similarity, "
      "bool strength, bool gate, int shift_width, bool sharpening, bool keep) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, "
      "Tensor)",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "ntm_sequence_backward(Tensor? d_features, Tensor? d_memory, Tensor? d_read_weights, Tensor? d_write_weights, "
      "Tensor? d_read_vectors, Tensor? d_hidden, Tensor? d_cell, Tensor inputs, Tensor? lengths, Tensor read_vectors, "
      "Tensor? hidden, Tensor input_weight, Tensor? recurrent_weight, Tensor bias, Tensor? upper_weight, "
      "Tensor? upper_bias, Tensor interface_weight, Tensor interface_bias, Tensor features, Tensor gates, "
      "Tensor cells, Tensor hiddens, Tensor emitted, Tensor memories, Tensor weights, Tensor traces, "
      "str similarity, bool strength, bool gate, int shift_width, bool sharpening, bool wants_inputs, "
      "bool wants_memory) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, "
      "Tensor)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(memnets, CPU, library) {
  library.impl("ntm_sequence_forward", &memnets::forward);
  library.impl("ntm_sequence_backward", &memnets::backward);
}
