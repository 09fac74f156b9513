// The whole recurrence of a controller and a memory's heads, forward and backward; what the memory is, the heads say.
//
// Sequences are independent: threads share them out in chunks, and within a chunk one matrix product serves all its
// sequences at a step. What they see and its gradients are summed up to those of the weights every few steps, while all
// of it is still in the cache.
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
//        void finish(int64_t sequence);  // after its first step, or none: give out what `step` left elsewhere
//      };
//
//    `sequence` counts from 0 over the whole batch. A step reads and writes its own sequence's rows alone, whatever
//    thread runs it. State passes from step to step in traces (trace.h) of the heads' own: row 0 the initial state, row
//    t + 1 that after step t; without a backward pass two rows in turn do. An NTM's heads fill row 0 when they are made
//    and give out the last row in `finish`; others do so before and after the loop. A memory, large, is kept every few
//    steps only (`MemorySteps`). XBackward holds the gradients of the final state and, when the loop is through, those
//    of the initial one; no step is called for a sequence without any, so that they stay what they are. That of the memory,
//    the state's first tensor, is given out only if it is wanted (`MemoryGradients`). `step` overwrites all of its last
//    argument.
// 2. `x_sequence.cpp`: both ops make a `SequenceCall`, check the heads' shapes, allocate traces with `call.trace`, call
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

// Call work(worker, first, end) for chunks of the batch: of about the same size, and as many for each worker.
template <class Work>
void for_chunks(const SequenceCall& call, const Work& work) {
  const int64_t batch = call.sizes.batch, workers = call.workers();
  const int64_t rounds = (batch + workers * call.chunk - 1) / (workers * call.chunk), count = rounds * workers;
  at::parallel_for(0, workers, 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from * rounds; i < to * rounds; i++) {
      const int64_t first = i * batch / count, end = (i + 1) * batch / count;
      if (first < end) work(i / rounds, first, end);  // there may be fewer sequences than chunks
    }
  });
}

// All steps of a chunk.
template <class T, class Heads>
void forward_chunk(const SequenceCall& call, ControllerForward<T>& controller, const Tensor& interface, Heads& heads,
                   const SequenceResult& into) {
  const auto& sizes = call.sizes;
  const int64_t first = controller.first, rows = controller.rows, hidden = sizes.hidden;
  const Rows<const T> bias{call.weights.interface_bias.const_data_ptr<T>(), 0};
  Space<T> space(rows, sizes.interface);
  const Rows<T> raw = space.rows();
  for (int64_t t = 0, steps = call.lengths.most(first, first + rows); t < steps; t++) {
    controller.step(t);
    const Rows<T> now = controller.seen(t);
    multiply(bias, constant(now), rows_of<T>(interface), raw, rows, hidden, sizes.interface);
    for (int64_t b = 0; b < rows; b++)
      if (t < call.lengths[first + b]) heads.step(first + b, t, raw.row(b), now.row(b) + hidden);
  }
  const Trace<T> last_hidden(OneStep{into.hidden}), last_cell(OneStep{into.cell});
  const Trace<T> last_reads(OneStep{into.read_vectors});
  for (int64_t b = 0; b < rows; b++) {
    const int64_t steps = call.lengths[first + b];
    heads.finish(first + b, steps);
    std::copy_n(controller.seen(steps - 1).row(b) + hidden, sizes.reads, last_reads.at(first + b, 0));
    std::copy_n(controller.cells.at(first + b, steps), last_cell.size, last_cell.at(first + b, 0));
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
                              call.trace({batch, steps, layers, sizes.gates}),
                              call.trace({batch, states, layers, hidden}),
                              call.trace({batch, states, sizes.layers - 1, hidden})};
  TORCH_CHECK(cell.has_value() == sizes.lstm, call.op, ": a cell vector goes with recurrent weights");
  if (cell) check_shape(call.op, "cell", *cell, {batch, layers, hidden});
  const MaybeTensor first_cell = dense(cell);
  const auto options = call.inputs.options();
  const SequenceResult result{trace, at::empty({batch, sizes.reads}, options),
                              at::empty({batch, layers, hidden}, options), at::empty({batch, layers, hidden}, options)};
  AT_DISPATCH_FLOATING_TYPES(call.inputs.scalar_type(), "memnets sequence", [&] {
    const PackedWeights weights = PackedWeights::of<scalar_t>(call, true, true);
    for_chunks(call, [&](int64_t, int64_t first, int64_t end) {
      ControllerForward<scalar_t> controller(call, weights, trace, first_cell, first, end - first);
      auto heads = make_heads.template operator()<scalar_t>(first, end - first);
      forward_chunk<scalar_t>(call, controller, weights.interface, heads, result);
    });
  });
  return result;
}

template <class T, class Heads>
void backward_chunk(const SequenceCall& call, ControllerBackward<T>& controller, const Tensor& interface, Heads& heads,
                    const BackwardRoom& room) {
  const auto& sizes = call.sizes;
  const int64_t first = controller.first, rows = controller.rows, hidden = sizes.hidden, top = sizes.layers - 1;
  const Trace<T> d_features(room.d_features);
  WeightGradient<T>& gradient = controller.of_interface;
  Space<T> space(rows, hidden);
  const Rows<T> d_output = space.rows();
  for (int64_t t = call.lengths.most(first, first + rows) - 1; t >= 0; t--) {
    const Rows<T> d_raw = gradient.d_sums(), d_now = d_features.across(first, t);
    for (int64_t b = 0; b < rows; b++) {
      if (!controller.runs(b, t)) {  // its gradients are still 0
        gradient.leave_out(b);
        continue;
      }
      T* d_reads = controller.d_reads.at(first + b, 0);
      add_scaled(d_reads, d_now.row(b) + hidden, T(1), sizes.reads);
      heads.step(first + b, t, d_reads, d_raw.row(b));
      std::copy_n(controller.hidden(b, top, t), hidden, gradient.seen().row(b));
      std::copy_n(controller.d_hidden.at(first + b, 0) + top * hidden, hidden, d_output.row(b));
      add_scaled(d_output.row(b), d_now.row(b), T(1), hidden);
    }
    multiply_add(constant(d_raw), rows_of<T>(interface), d_output, rows, sizes.interface, interface.size(1));
    gradient.add();
    controller.step(t, d_output);
  }
  controller.finish();
  for (int64_t b = 0; b < rows; b++) heads.finish(first + b);
}

template <class MakeHeads>
void run_backward_loop(const SequenceCall& call, const ControllerTrace& trace, const BackwardRoom& room,
                       const MakeHeads& make_heads) {
  AT_DISPATCH_FLOATING_TYPES(call.inputs.scalar_type(), "memnets sequence", [&] {
    const PackedWeights weights = PackedWeights::of<scalar_t>(call, false, room.d_inputs.size(0) > 0);
    for_chunks(call, [&](int64_t worker, int64_t first, int64_t end) {
      ControllerBackward<scalar_t> controller(call, weights, trace, room, worker, first, end - first);
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
  const int64_t gates = sizes.gates, hidden = sizes.hidden, workers = call.workers(), own = sizes.lstm ? hidden : 0;
  BackwardRoom room{
      given.features ? given.features->contiguous() : at::zeros_like(trace.features),
      gradient_or_zeros(given.read_vectors, {sizes.batch, sizes.reads}, options),
      gradient_or_zeros(sizes.lstm ? given.hidden : MaybeTensor(), {sizes.batch, sizes.layers, hidden}, options),
      gradient_or_zeros(given.cell, {sizes.batch, sizes.state_layers(), hidden}, options),
      call.room({wants_inputs ? sizes.batch : 0, sizes.steps, sizes.input}),
      LayerSums(workers, gates, {sizes.input + sizes.reads, own}, options),
      LayerSums(workers, sizes.interface, {hidden}, options),
      {},
  };
  for (int64_t layer = 1; layer < sizes.layers; layer++)
    room.upper.emplace_back(workers, gates, std::initializer_list<int64_t>{2 * hidden}, options);
  run_backward_loop(call, trace, room, make_heads);
  SequenceGradients found;
  found.inputs = room.d_inputs, found.read_vectors = room.d_reads, found.cell = room.d_cell;
  found.hidden = sizes.lstm ? room.d_hidden : at::empty({sizes.batch, 0, hidden}, options);
  found.input_weight = LayerSums::total(room.bottom.weights[0]);
  found.recurrent_weight = LayerSums::total(room.bottom.weights[1]);
  found.bias = LayerSums::total(room.bottom.bias);
  found.interface_weight = LayerSums::total(room.interface.weights[0]);
  found.interface_bias = LayerSums::total(room.interface.bias);
  found.upper_weight = at::empty({sizes.layers - 1, gates, 2 * hidden}, options);
  found.upper_bias = at::empty({sizes.layers - 1, gates}, options);
  for (int64_t layer = 1; layer < sizes.layers; layer++) {
    found.upper_weight[layer - 1].copy_(LayerSums::total(room.upper[layer - 1].weights[0]));
    found.upper_bias[layer - 1].copy_(LayerSums::total(room.upper[layer - 1].bias));
  }
  return found;
}

}  // namespace memnets
