// Cells that every sentence of a story updates side by side: one story, forward and backward.
//
// The reference is memnets/ops/entity_memory.py; names and equations are the same.
#pragma once

#include <algorithm>
#include <vector>

#include "matrix.h"
#include "vector_math.h"

namespace memnets {

struct EntitySizes {
  int64_t batch, sentences, slots, word;
  int64_t cells() const { return slots * word; }
};

// What all stories share: U and its transpose, V w_j + b for every cell, and the slopes of φ.
template <class T>
struct EntityWeights {
  const T *from_memory, *transposed, *about_keys, *slopes;
};

// A story's sentences s [length word]; sᵀ w_j + a_j for every cell [length slots]; W s [length word].
template <class T>
struct EntityStory {
  const T *sentences, *matches, *about;
  int64_t length;
};

// What a story leaves behind: h before every sentence and after the last, φ's arguments, gates. Where nothing is kept,
// every sentence's are in the place of the one before.
template <class T>
struct EntityTrace {
  T *memory, *units, *gates;
  bool keep;
  T* memory_at(int64_t t, const EntitySizes& sizes) const { return memory + keep * t * sizes.cells(); }
  T* units_at(int64_t t, const EntitySizes& sizes) const { return units + keep * t * sizes.cells(); }
  T* gates_at(int64_t t, const EntitySizes& sizes) const { return gates + keep * t * sizes.slots; }
};

// Gradients: of what one story has, and sums over stories.
template <class T>
struct EntityStoryGradients {
  T *memory, *sentences, *matches, *about;
};
template <class T>
struct EntitySums {
  T *from_memory, *about_keys, *slopes;
};

// A vector no longer than this has no direction, and stays as it is; as in the reference.
constexpr double SHORTEST = 1e-6;

template <class T>
class EntityReader {
 public:
  explicit EntityReader(const EntitySizes& sizes) : sizes(sizes) {}

  // The memory after the story, from the one at the trace's start.
  void forward(const EntityWeights<T>& weights, const EntityStory<T>& story, const EntityTrace<T>& trace) const {
    const int64_t word = sizes.word;
    for (int64_t t = 0; t < story.length; t++) {
      const T *memory = trace.memory_at(t, sizes), *sentence = story.sentences + t * word;
      T *units = trace.units_at(t, sizes), *gates = trace.gates_at(t, sizes), *after = trace.memory_at(t + 1, sizes);
      candidate_units(weights, memory, story.about + t * word, units);
      for (int64_t j = 0; j < sizes.slots; j++)
        gates[j] = dot(memory + j * word, sentence, word) + story.matches[t * sizes.slots + j];
      each<T>(sizes.slots, [&](int64_t j, auto lanes) MEMNETS_INLINE {
        lanes.store(gates + j, sigmoid(lanes.load(gates + j)));
      });
      for (int64_t j = 0; j < sizes.slots; j++)
        update(memory + j * word, units + j * word, gates[j], weights.slopes, after + j * word);
    }
  }

  // Gradients from that of the memory after the story, which lies in `into.memory` and becomes that of the first.
  void backward(const EntityWeights<T>& weights, const EntityStory<T>& story, const EntityTrace<T>& trace,
                const EntityStoryGradients<T>& into, const EntitySums<T>& sums) {
    if (!story.length) return;
    const int64_t word = sizes.word;
    d_units.resize(std::max<int64_t>(d_units.size(), story.length * sizes.cells()));
    for (int64_t t = story.length - 1; t >= 0; t--) {
      const T *memory = trace.memory_at(t, sizes), *gates = trace.gates_at(t, sizes);
      T* d_now = d_units.data() + t * sizes.cells();
      for (int64_t j = 0; j < sizes.slots; j++) {
        const int64_t cell = j * word;
        const Updated updated{memory + cell, trace.units_at(t, sizes) + cell, gates[j],
                              trace.memory_at(t + 1, sizes) + cell};
        const T d_gate = update_backward(updated, weights.slopes, into.memory + cell, d_now + cell, sums.slopes);
        const T d_match = d_gate * gates[j] * (1 - gates[j]);
        into.matches[t * sizes.slots + j] = d_match;
        add_scaled(into.memory + cell, story.sentences + t * word, d_match, word);
        add_scaled(into.sentences + t * word, memory + cell, d_match, word);
        add_scaled(into.about + t * word, d_now + cell, T(1), word);
      }
      add_scaled(sums.about_keys, d_now, T(1), sizes.cells());
      multiply_add<T>(Rows<const T>{d_now, word}, {weights.from_memory, word}, {into.memory, word}, sizes.slots, word,
                      word);
    }
    multiply_add<T>(Columns<const T>{d_units.data(), word}, {trace.memory, word}, {sums.from_memory, word}, word,
                    story.length * sizes.slots, word);
  }

 private:
  // A cell's h, φ's arguments, gate, and its h afterwards.
  struct Updated {
    const T *memory, *units;
    T gate;
    const T* after;
  };

  // U h_j + V w_j + W s + b for every cell.
  void candidate_units(const EntityWeights<T>& weights, const T* memory, const T* about, T* units) const {
    const int64_t word = sizes.word;
    for (int64_t j = 0; j < sizes.slots; j++)
      each<T>(word, [&](int64_t i, auto lanes) MEMNETS_INLINE {
        lanes.store(units + j * word + i, lanes.load(weights.about_keys + j * word + i) + lanes.load(about + i));
      });
    multiply_add<T>(Rows<const T>{memory, word}, {weights.transposed, word}, {units, word}, sizes.slots, word, word);
  }

  static Vector<T> activation(Vector<T> units, Vector<T> slopes) { return units > 0 ? units : slopes * units; }

  // after = (h + g φ(units)) / its length; it may be h.
  void update(const T* memory, const T* units, T gate, const T* slopes, T* after) const {
    Vector<T> squares = {};
    each<T>(sizes.word, [&](int64_t i, auto lanes) MEMNETS_INLINE {
      const auto sum = lanes.load(memory + i) + gate * activation(lanes.load(units + i), lanes.load(slopes + i));
      squares += sum * sum;
      lanes.store(after + i, sum);
    });
    const T factor = inverse_length(sum_of<T>(squares));
    each<T>(sizes.word, [&](int64_t i, auto lanes) MEMNETS_INLINE {
      lanes.store(after + i, factor * lanes.load(after + i));
    });
  }

  static bool has_direction(T squared) { return squared > T(SHORTEST * SHORTEST); }
  static T inverse_length(T squared) { return has_direction(squared) ? 1 / std::sqrt(squared) : T(1); }

  // From the gradient of the cell afterwards to that of h, bar what comes by gate and units, in its place; that of units,
  // into `d_units`; and that of the gate.
  T update_backward(const Updated& cell, const T* slopes, T* d_memory, T* d_units, T* d_slopes) const {
    Vector<T> squares = {}, along = {};
    each<T>(sizes.word, [&](int64_t i, auto lanes) MEMNETS_INLINE {
      const auto candidate = activation(lanes.load(cell.units + i), lanes.load(slopes + i));
      const auto sum = lanes.load(cell.memory + i) + cell.gate * candidate;
      squares += sum * sum;
      along += lanes.load(cell.after + i) * lanes.load(d_memory + i);
    });
    const T squared = sum_of<T>(squares), factor = inverse_length(squared);
    const T removed = has_direction(squared) ? sum_of<T>(along) : T(0);
    Vector<T> d_gate = {};
    each<T>(sizes.word, [&](int64_t i, auto lanes) MEMNETS_INLINE {
      const auto units = lanes.load(cell.units + i), slope = lanes.load(slopes + i);
      const auto d_sum = factor * (lanes.load(d_memory + i) - removed * lanes.load(cell.after + i));
      const auto d_candidate = cell.gate * d_sum;
      d_gate += d_sum * activation(units, slope);
      lanes.store(d_slopes + i, lanes.load(d_slopes + i) + (units > 0 ? Vector<T>{} : d_candidate * units));
      lanes.store(d_units + i, units > 0 ? d_candidate : slope * d_candidate);
      lanes.store(d_memory + i, d_sum);
    });
    return sum_of<T>(d_gate);
  }

  EntitySizes sizes;
  std::vector<T> d_units;  // of every sentence of a story
};

}  // namespace memnets
