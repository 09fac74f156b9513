// The whole recurrence of a controller and a memory's heads, forward and backward; what the memory is, the heads say.
//
// Sequences are independent: threads share them out in chunks, and within a chunk one matrix product serves all its
// sequences at a step. What doesn't depend on the step before (input projection, weight gradients) is one large matrix
// product outside the loop.
//
// To add a sequence kernel for another memory:
//
// 1. `x_heads.h`: one step of one sequence. Two types, made for each chunk of sequences by the functions of point 2,
//
//      struct XForward {   // activates the raw interface, addresses, reads and writes
//        void step(int64_t sequence, int64_t t, const T* raw_interface, T* reads);
//        void finish(int64_t sequence, int64_t steps);  // after its last step, or none: give out its state
//      };
//      struct XBackward {  // the gradient of `step`, steps in reverse
//        void step(int64_t sequence, int64_t t, const T* d_reads, T* d_raw_interface);
//      };
//
//    `sequence` counts from 0 over the whole batch. A step reads and writes its own sequence's rows alone, whatever
//    thread runs it. State passes from step to step in traces (trace.h) of the heads' own: row 0 the initial state, row
//    t + 1 that after step t; without a backward pass two rows in turn do. XBackward owns pointers to buffers
//    `[batch ...]` that hold the gradients of the final state and, when the loop is through, those of the initial one;
//    no step is called for a sequence without any, so that they stay what they are. `step` overwrites all of its last
//    argument.
// 2. `x_sequence.cpp`: both ops make a `SequenceCall`, check the heads' shapes, allocate traces with `call.room`, call
//      run_forward(call, cell, keep, [&]<class T>(int64_t first, int64_t rows) { return XForward<T>(...); })
//      run_backward(call, trace, gradients, wants_inputs, [&]<class T>(int64_t first, int64_t rows) { ... })
//    which makes the heads of sequences `first` to `first + rows`; ntm_sequence.cpp is the example. The order of
//    arguments and results is that of `CPUSequence` in sequence.py.
// 3. `x_sequence.py`: a `CPUSequence` with the shapes of traces and state; ops/x_sequence.py: the reference.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include "controller_steps.h"

namespace memnets {

// The results, final state and trace; hidden and cell [batch layers hidden] have no layers with a tanh layer.
struct SequenceResult {
  ControllerTrace trace;
  Tensor read_vectors, hidden, cell;  // read vectors [batch reads]
};

// Gradients of results, where there are any.
struct ResultGradients {
  MaybeTensor features, read_vectors, hidden, cell;
};

// Gradients of what the controller was given; `inputs` has no sequences if they weren't wanted. Of upper weights, none
// for one layer.
struct SequenceGradients {
  Tensor inputs, read_vectors, hidden, cell, input_weight, recurrent_weight, bias, upper_weight, upper_bias,
      interface_weight, interface_bias;
};

// Call work(first, end) for chunks of the batch: of about the same size, and as many for each thread.
template <class Work>
void for_chunks(const SequenceCall& call, const Work& work) {
  const int64_t batch = call.sizes.batch, threads = std::min<int64_t>(at::get_num_threads(), batch);
  const int64_t rounds = (batch + threads * call.chunk - 1) / (threads * call.chunk), count = rounds * threads;
  at::parallel_for(0, count, 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++) work(i * batch / count, (i + 1) * batch / count);
  });
}

// All steps of a chunk.
template <class T, class Heads>
void forward_chunk(const SequenceCall& call, ControllerForward<T>& controller, const Tensor& interface, Heads& heads,
                   const SequenceResult& into) {
  const auto& sizes = call.sizes;
  const int64_t first = controller.first, rows = controller.rows, hidden = sizes.hidden;
  const T* bias = call.weights.interface_bias.const_data_ptr<T>();
  Space<T> space(rows, sizes.interface);
  const Rows<T> raw = space.rows();
  for (int64_t t = 0, steps = call.lengths.most(first, first + rows); t < steps; t++) {
    controller.step(t);
    const Rows<T> now = controller.seen(t);
    for (int64_t b = 0; b < rows; b++) std::copy_n(bias, sizes.interface, raw.row(b));
    multiply_add(constant(now), rows_of<T>(interface), raw, rows, hidden, interface.size(1));
    for (int64_t b = 0; b < rows; b++)
      if (t < call.lengths[first + b]) heads.step(first + b, t, raw.row(b), now.row(b) + hidden);
  }
  const Trace<T> last_hidden(into.hidden.unsqueeze(1)), last_reads(into.read_vectors.unsqueeze(1));
  for (int64_t b = 0; b < rows; b++) {
    const int64_t steps = call.lengths[first + b];
    heads.finish(first + b, steps);
    std::copy_n(controller.seen(steps - 1).row(b) + hidden, sizes.reads, last_reads.at(first + b, 0));
    for (int64_t layer = 0; layer < sizes.state_layers(); layer++)
      std::copy_n(controller.hidden(layer, steps - 1).row(b), hidden, last_hidden.at(first + b, 0) + layer * hidden);
  }
}

// Features at every step, the final state of the controller, and what its backward pass needs if `keep`.
template <class MakeHeads>
SequenceResult run_forward(const SequenceCall& call, const MaybeTensor& cell, bool keep, const MakeHeads& make_heads) {
  const auto& sizes = call.sizes;
  const int64_t batch = sizes.batch, steps = keep ? sizes.steps : 1, states = keep ? sizes.steps + 1 : 2;
  const int64_t layers = sizes.state_layers(), hidden = sizes.hidden;
  const ControllerTrace trace{call.room({batch, sizes.steps, sizes.features()}),
                              call.room({batch, steps, layers, sizes.gates}),
                              call.room({batch, states, layers, hidden}),
                              call.room({batch, states, sizes.layers - 1, hidden})};
  if (sizes.lstm) {
    TORCH_CHECK(cell, call.op, ": a cell vector goes with recurrent weights");
    check_shape(call.op, "cell", *cell, {batch, layers, hidden});
    trace.cells.select(1, 0).copy_(*cell);
  }
  trace.hiddens.select(1, 0).copy_(call.hidden.narrow(1, 0, sizes.layers - 1));
  const Tensor flat = call.inputs.reshape({batch * sizes.steps, sizes.input});
  const Tensor projected = at::addmm(call.weights.bias, flat, call.weights.input.narrow(1, 0, sizes.input).t())
                               .view({batch, sizes.steps, sizes.gates});
  SequenceResult result{trace, at::empty({batch, sizes.reads}, flat.options()),
                        at::empty({batch, layers, hidden}, flat.options()), Tensor()};
  AT_DISPATCH_FLOATING_TYPES(call.inputs.scalar_type(), "memnets sequence", [&] {
    const PackedWeights weights = PackedWeights::of<scalar_t>(call, true);
    for_chunks(call, [&](int64_t first, int64_t end) {
      ControllerForward<scalar_t> controller(call, weights, projected, trace, first, end - first);
      auto heads = make_heads.template operator()<scalar_t>(first, end - first);
      forward_chunk<scalar_t>(call, controller, weights.interface, heads, result);
    });
  });
  result.cell = call.last(trace.cells);
  return result;
}

template <class T, class Heads>
void backward_chunk(const SequenceCall& call, ControllerBackward<T>& controller, const Tensor& interface, Heads& heads,
                    const BackwardRoom& room) {
  const auto& sizes = call.sizes;
  const int64_t first = controller.first, rows = controller.rows, hidden = sizes.hidden;
  const Trace<T> d_interface(room.d_interface), d_features(room.d_features);
  Space<T> space(rows, hidden);
  const Rows<T> d_output = space.rows();
  for (int64_t t = call.lengths.most(first, first + rows) - 1; t >= 0; t--) {
    const Rows<T> d_raw = d_interface.across(first, t), d_now = d_features.across(first, t);
    for (int64_t b = 0; b < rows; b++) {
      if (t >= call.lengths[first + b]) continue;  // its gradients are still 0
      T* d_reads = controller.d_reads.at(first + b, 0);
      add_scaled(d_reads, d_now.row(b) + hidden, T(1), sizes.reads);
      heads.step(first + b, t, d_reads, d_raw.row(b));
      std::copy_n(controller.d_hidden.at(first + b, 0) + (sizes.layers - 1) * hidden, hidden, d_output.row(b));
      add_scaled(d_output.row(b), d_now.row(b), T(1), hidden);
    }
    multiply_add(constant(d_raw), rows_of<T>(interface), d_output, rows, sizes.interface, interface.size(1));
    controller.step(t, d_output);
  }
}

// Hidden vectors of a layer before or after every step, [batch*steps hidden].
inline Tensor hidden_of(const SequenceCall& call, const ControllerTrace& trace, int64_t layer, bool before) {
  const auto& sizes = call.sizes;
  if (layer + 1 < sizes.layers) return trace.hiddens.select(2, layer).narrow(1, !before, sizes.steps).flatten(0, 1);
  const Tensor own = trace.features.narrow(2, 0, sizes.hidden);
  if (!before) return own.flatten(0, 1);
  const Tensor start = call.start.narrow(1, 0, sizes.hidden).unsqueeze(1);
  return at::cat({start, own.narrow(1, 0, sizes.steps - 1)}, 1).flatten(0, 1);
}

// Of the bottom layer's weights, which saw inputs, read vectors and its last hidden vectors.
inline void bottom_gradients(const SequenceCall& call, const ControllerTrace& trace, const BackwardRoom& room,
                             bool wants_inputs, SequenceGradients& found) {
  const auto& sizes = call.sizes;
  const auto copy = [](const Tensor& view) { return view.clone(at::MemoryFormat::Contiguous); };
  const Tensor d_gates = room.d_gates.select(2, 0).flatten(0, 1), inputs = call.inputs.flatten(0, 1);
  const Tensor reads = at::cat({call.start.unsqueeze(1), trace.features.narrow(1, 0, sizes.steps - 1)}, 1)
                           .flatten(0, 1)
                           .narrow(1, sizes.hidden, sizes.reads);
  const Tensor seen = at::cat({inputs, reads, hidden_of(call, trace, 0, true)}, 1);
  const Tensor d_weight = at::mm(d_gates.t(), seen);
  const int64_t input_width = sizes.input + sizes.reads;
  found.input_weight = copy(d_weight.narrow(1, 0, input_width));
  found.recurrent_weight = copy(d_weight.narrow(1, input_width, sizes.lstm ? sizes.hidden : 0));
  found.bias = d_gates.sum(0);
  found.inputs = wants_inputs
                     ? at::mm(d_gates, call.weights.input.narrow(1, 0, sizes.input)).view(call.inputs.sizes())
                     : at::empty({0, sizes.steps, sizes.input}, call.inputs.options());
}

// Of the upper layers', which saw the hidden vectors of the layer below and their own last ones.
inline void upper_gradients(const SequenceCall& call, const ControllerTrace& trace, const BackwardRoom& room,
                            SequenceGradients& found) {
  const auto& sizes = call.sizes;
  const auto options = call.inputs.options();
  found.upper_weight = at::empty({sizes.layers - 1, sizes.gates, 2 * sizes.hidden}, options);
  found.upper_bias = at::empty({sizes.layers - 1, sizes.gates}, options);
  for (int64_t layer = 1; layer < sizes.layers; layer++) {
    const Tensor d_gates = room.d_gates.select(2, layer).flatten(0, 1);
    const Tensor seen = at::cat({hidden_of(call, trace, layer - 1, false), hidden_of(call, trace, layer, true)}, 1);
    found.upper_weight[layer - 1].copy_(at::mm(d_gates.t(), seen));
    found.upper_bias[layer - 1].copy_(d_gates.sum(0));
  }
}

template <class MakeHeads>
void run_backward_loop(const SequenceCall& call, const ControllerTrace& trace, const BackwardRoom& room,
                       const MakeHeads& make_heads) {
  AT_DISPATCH_FLOATING_TYPES(call.inputs.scalar_type(), "memnets sequence", [&] {
    const PackedWeights weights = PackedWeights::of<scalar_t>(call, false);
    for_chunks(call, [&](int64_t first, int64_t end) {
      ControllerBackward<scalar_t> controller(call, weights, trace, room, first, end - first);
      auto heads = make_heads.template operator()<scalar_t>(first, end - first);
      backward_chunk<scalar_t>(call, controller, weights.interface, heads, room);
    });
  });
}

// A copy of the gradient, or zeros.
inline Tensor gradient_or_zeros(const MaybeTensor& given, at::IntArrayRef shape, const at::TensorOptions& options) {
  return given ? at::empty(shape, options).copy_(given->reshape(shape)) : at::zeros(shape, options);
}

// Gradients of all that the controller was given. The heads have theirs.
template <class MakeHeads>
SequenceGradients run_backward(const SequenceCall& call, const ControllerTrace& trace, const ResultGradients& given,
                               bool wants_inputs, const MakeHeads& make_heads) {
  const auto& sizes = call.sizes;
  const auto options = call.inputs.options();
  TORCH_CHECK(trace.gates.size(1) == sizes.steps, call.op, ": the forward pass was told not to keep its steps");
  const BackwardRoom room{
      given.features ? given.features->contiguous() : at::zeros_like(trace.features),
      gradient_or_zeros(given.read_vectors, {sizes.batch, sizes.reads}, options),
      gradient_or_zeros(sizes.lstm ? given.hidden : MaybeTensor(), {sizes.batch, sizes.layers, sizes.hidden}, options),
      gradient_or_zeros(given.cell, {sizes.batch, sizes.state_layers(), sizes.hidden}, options),
      call.room({sizes.batch, sizes.steps, sizes.layers, sizes.gates}),
      call.room({sizes.batch, sizes.steps, sizes.interface}),
  };
  run_backward_loop(call, trace, room, make_heads);
  SequenceGradients found;
  found.read_vectors = room.d_reads, found.cell = room.d_cell;
  found.hidden = sizes.lstm ? room.d_hidden : at::empty({sizes.batch, 0, sizes.hidden}, options);
  bottom_gradients(call, trace, room, wants_inputs, found);
  upper_gradients(call, trace, room, found);
  const Tensor d_interface = room.d_interface.flatten(0, 1);
  found.interface_weight = at::mm(d_interface.t(), hidden_of(call, trace, sizes.layers - 1, false));
  found.interface_bias = d_interface.sum(0);
  return found;
}

}  // namespace memnets
