// The whole recurrence of a DNC in one call, forward and backward: controller, allocation, write, links and reads.
//
// The reference is memnets/ops/dnc_sequence.py; names and equations are the same. Tensors of links and precedence have
// no slots if there are no links.
#include <torch/library.h>

#include <tuple>

#include "dnc_heads.h"
#include "sequence.h"

namespace memnets {
namespace {

constexpr const char* OP = "dnc_sequence";

// The memory's state before the first step.
struct DNCState {
  Tensor memory, usage, precedence, link, read_weights, write_weights;
};

DNCScheme dnc_scheme(const SequenceCall& call, const MemorySizes& memory, bool mask, bool deallocation, bool link,
                     bool link_sharpening) {
  const DNCScheme scheme{memory, mask, deallocation, link, link_sharpening};
  TORCH_CHECK(memory.slots > 0 && memory.read_heads > 0, OP, ": no slots, or no heads that read");
  TORCH_CHECK(link || !link_sharpening, OP, ": link_sharpening sharpens what links say, and there are none");
  TORCH_CHECK(call.sizes.reads == memory.read_heads * memory.word, OP, ": read vectors don't fit the memory");
  TORCH_CHECK(call.sizes.interface == scheme.interface(), OP, ": interface weights don't fit the heads");
  return scheme;
}

void check_state(const DNCScheme& scheme, const DNCState& state, int64_t batch) {
  const int64_t slots = scheme.memory.slots, linked = scheme.link ? slots : 0;
  check_shape(OP, "memory", state.memory, {batch, slots, scheme.memory.word});
  check_shape(OP, "usage", state.usage, {batch, slots});
  check_shape(OP, "precedence_weights", state.precedence, {batch, linked});
  check_shape(OP, "link", state.link, {batch, linked, linked});
  check_shape(OP, "read_weights", state.read_weights, {batch, scheme.reads(), slots});
  check_shape(OP, "write_weights", state.write_weights, {batch, 1, slots});
}

DNCTrace allocate(const SequenceCall& call, const DNCScheme& scheme, bool keep) {
  const int64_t batch = call.sizes.batch, slots = scheme.memory.slots, linked = scheme.link ? slots : 0;
  const int64_t steps = keep ? call.sizes.steps : 1, states = keep ? call.sizes.steps + 1 : 2;
  return {call.trace({batch, steps, scheme.emitted()}),
          call.trace({batch, keep ? steps / MEMORY_INTERVAL + 1 : 1, scheme.memory.word, slots}),
          call.trace({batch, states, scheme.num_rows(), slots}), call.trace({batch, steps, scheme.num_traces(), slots}),
          call.trace({batch, keep ? (steps - 1) / link_interval(steps) + 1 : 0, linked, linked})};
}

// The rows that pass from step to step, of a `[batch rows slots]` tensor, as the parts of the state.
struct StateRows {
  StateRows(const DNCScheme& scheme, const Tensor& rows)
      : read_weights(rows.narrow(1, 0, scheme.reads())), write_weights(rows.narrow(1, scheme.reads(), 1)),
        usage(rows.select(1, scheme.usage_row())),
        precedence(scheme.link ? rows.select(1, scheme.precedence_row()) : rows.select(1, 0).narrow(1, 0, 0)) {}
  Tensor read_weights, write_weights, usage, precedence;
};

// How many sequences a thread takes at a time, that what it makes again of their links stays small.
int64_t link_chunk(int64_t bytes) {
  constexpr int64_t MOST_BYTES = 1 << 20;
  return std::clamp<int64_t>(MOST_BYTES / std::max<int64_t>(bytes, 1), 1, CHUNK);
}

Tensor copy(const Tensor& view) { return view.clone(at::MemoryFormat::Contiguous); }

using Forward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                           Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using Backward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                            Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Forward forward(const Tensor& inputs, const MaybeTensor& lengths, const Tensor& memory, const Tensor& usage,
                const Tensor& precedence, const Tensor& link, const Tensor& read_weights, const Tensor& write_weights,
                const Tensor& read_vectors, const MaybeTensor& hidden, const MaybeTensor& cell,
                const Tensor& input_weight, const MaybeTensor& recurrent_weight, const Tensor& bias,
                const MaybeTensor& upper_weight, const MaybeTensor& upper_bias, const Tensor& interface_weight,
                const Tensor& interface_bias, bool mask, bool deallocation, bool linked, bool link_sharpening,
                bool keep) {
  const ControllerWeights controller{input_weight, recurrent_weight, bias, upper_weight, upper_bias, interface_weight,
                                     interface_bias};
  const SequenceCall call(OP, inputs, lengths, read_vectors, hidden, controller);
  const DNCScheme scheme = dnc_scheme(call, {memory.size(1), memory.size(2), read_weights.size(1), 1}, mask,
                                      deallocation, linked, link_sharpening);
  const DNCState state{memory, usage, precedence, link, read_weights, write_weights};
  check_state(scheme, state, call.sizes.batch);
  const DNCTrace trace = allocate(call, scheme, keep);
  const StateRows first(scheme, trace.rows.select(1, 0));
  first.read_weights.copy_(read_weights), first.write_weights.copy_(write_weights);
  first.usage.copy_(usage), first.precedence.copy_(precedence);
  const Tensor first_memory = dense(memory), final_memory = call.like(memory);
  const Tensor final_link = copy(link);
  const SequenceResult result = run_forward(call, cell, keep, [&]<class T>(int64_t first, int64_t count) {
    return DNCForward<T>(scheme, trace, first_memory, final_memory, final_link, call.sizes.steps, first, count);
  });
  const StateRows last(scheme, call.last(trace.rows));
  return {result.trace.features, final_memory, copy(last.usage), copy(last.precedence), final_link,
          copy(last.read_weights), copy(last.write_weights), result.read_vectors.view(read_vectors.sizes()),
          result.hidden, result.cell, result.trace.gates, result.trace.cells, result.trace.hiddens, trace.emitted,
          trace.memories, trace.rows, trace.traces, trace.links};
}

Backward backward(const MaybeTensor& d_features, const MaybeTensor& d_memory, const MaybeTensor& d_usage,
                  const MaybeTensor& d_precedence, const MaybeTensor& d_link, const MaybeTensor& d_read_weights,
                  const MaybeTensor& d_write_weights, const MaybeTensor& d_read_vectors, const MaybeTensor& d_hidden,
                  const MaybeTensor& d_cell, const Tensor& inputs, const MaybeTensor& lengths,
                  const Tensor& read_vectors, const MaybeTensor& hidden, const Tensor& input_weight,
                  const MaybeTensor& recurrent_weight, const Tensor& bias, const MaybeTensor& upper_weight,
                  const MaybeTensor& upper_bias, const Tensor& interface_weight, const Tensor& interface_bias,
                  const Tensor& features, const Tensor& gates, const Tensor& cells, const Tensor& hiddens,
                  const Tensor& emitted, const Tensor& memories, const Tensor& rows, const Tensor& traces,
                  const Tensor& links, bool mask, bool deallocation, bool linked, bool link_sharpening,
                  bool wants_inputs, bool wants_memory) {
  const ControllerWeights controller{input_weight, recurrent_weight, bias, upper_weight, upper_bias, interface_weight,
                                     interface_bias};
  SequenceCall call(OP, inputs, lengths, read_vectors, hidden, controller);
  const DNCScheme scheme = dnc_scheme(call, {memories.size(3), memories.size(2), read_vectors.size(1), 1}, mask,
                                      deallocation, linked, link_sharpening);
  call.chunk = link_chunk(links.size(2) * links.size(3) * link_interval(call.sizes.steps) * links.element_size());
  const DNCTrace trace{emitted, memories, rows, traces, links};
  const int64_t batch = call.sizes.batch, slots = scheme.memory.slots;
  const DNCGradients room{dense(d_memory),
                          at::empty({wants_memory ? batch : 0, slots, scheme.memory.word}, inputs.options()),
                          at::empty({batch, scheme.num_rows(), slots}, inputs.options()),
                          at::empty({batch, links.size(2), links.size(3)}, inputs.options())};
  const StateRows to(scheme, room.rows);
  const auto set = [](Tensor into, const MaybeTensor& given) { given ? into.copy_(*given) : into.zero_(); };
  set(room.link, d_link);
  set(to.read_weights, d_read_weights), set(to.write_weights, d_write_weights);
  set(to.usage, d_usage), set(to.precedence, d_precedence);
  const SequenceGradients found =
      run_backward(call, {features, gates, cells, hiddens}, {d_features, d_read_vectors, d_hidden, d_cell},
                   wants_inputs, [&]<class T>(int64_t first, int64_t count) {
                     return DNCBackward<T>(scheme, trace, room, call.sizes.steps, first, count);
                   });
  return {found.inputs, room.wanted, copy(to.usage), copy(to.precedence), room.link,
          copy(to.read_weights), copy(to.write_weights), found.read_vectors.view(read_vectors.sizes()), found.hidden,
          found.cell, found.input_weight, found.recurrent_weight, found.bias, found.upper_weight, found.upper_bias,
          found.interface_weight, found.interface_bias};
}

}  // namespace
}  // namespace memnets

TORCH_LIBRARY_FRAGMENT(memnets, library) {
  library.def(
      "dnc_sequence_forward(Tensor inputs, Tensor? lengths, Tensor memory, Tensor usage, Tensor precedence_weights, "
      "Tensor link, Tensor read_weights, Tensor write_weights, Tensor read_vectors, Tensor? hidden, Tensor? cell, "
      "Tensor input_weight, Tensor? recurrent_weight, Tensor bias, Tensor? upper_weight, Tensor? upper_bias, "
      "Tensor interface_weight, Tensor interface_bias, bool mask, bool deallocation, bool linked, "
      "bool link_sharpening, bool keep) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, "
      "Tensor, Tensor, Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "dnc_sequence_backward(Tensor? d_features, Tensor? d_memory, Tensor? d_usage, Tensor? d_precedence_weights, "
      "Tensor? d_link, Tensor? d_read_weights, Tensor? d_write_weights, Tensor? d_read_vectors, Tensor? d_hidden, "
      "Tensor? d_cell, Tensor inputs, Tensor? lengths, Tensor read_vectors, Tensor? hidden, Tensor input_weight, "
      "Tensor? recurrent_weight, Tensor bias, Tensor? upper_weight, Tensor? upper_bias, Tensor interface_weight, "
      "Tensor interface_bias, Tensor features, Tensor gates, Tensor cells, Tensor hiddens, Tensor emitted, "
      "Tensor memories, Tensor rows, Tensor traces, Tensor links, bool mask, bool deallocation, bool linked, "
      "bool link_sharpening, bool wants_inputs, bool wants_memory) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, "
      "Tensor, Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(memnets, CPU, library) {
  library.impl("dnc_sequence_forward", &memnets::forward);
  library.impl("dnc_sequence_backward", &memnets::backward);
}
