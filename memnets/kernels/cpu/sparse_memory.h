// The memory of a sparse access memory's sequence: rows laid out to be searched, and the order in which they were used.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "addressing.h"

namespace memnets {

// Slots side by side in the memory that is searched, so that a vector holds one component of several.
constexpr int64_t PANEL = 16;

struct SparseSizes {
  int64_t slots, word, heads, reads;  // reads: slots that a head reads

  // A head's slice of the interface: key, strength, interpolation gate, write gate, add.
  int64_t strength_at() const { return word; }
  int64_t interpolation_at() const { return word + 1; }
  int64_t write_gate_at() const { return word + 2; }
  int64_t add_at() const { return word + 3; }
  int64_t slice() const { return 2 * word + 3; }
  int64_t interface() const { return heads * slice(); }
  // A head writes to the slots it read and to one more, the last of its places.
  int64_t places() const { return reads + 1; }
  int64_t writes() const { return heads * places(); }
  int64_t padded() const { return (slots + PANEL - 1) / PANEL * PANEL; }
};

// The searched memory of one sequence: panels of slots, each [word PANEL].
template <class T>
struct Panels {
  Panels(int64_t padded, int64_t word) : word(word), numbers(padded * word, T(0)) {}
  T* row(int64_t slot) { return numbers.data() + slot / PANEL * PANEL * word + slot % PANEL; }
  void get(int64_t slot, T* into) {
    const T* from = row(slot);
    for (int64_t w = 0; w < word; w++) into[w] = from[w * PANEL];
  }
  void set(int64_t slot, const T* from) {
    T* into = row(slot);
    for (int64_t w = 0; w < word; w++) into[w * PANEL] = from[w];
  }
  int64_t word;
  std::vector<T> numbers;
};

// Slots in the order of their last access, of equal ones the lower first: a ring of links that begins and ends at
// `slots`.
struct Recency {
  Recency(const int64_t* last_access, int64_t slots) : newer(slots + 1), older(slots + 1), end(slots) {
    std::vector<int64_t> order(slots);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return last_access[a] < last_access[b]; });
    newer[end] = older[end] = end;
    for (const int64_t slot : order) append(slot);
  }
  void append(int64_t slot) {
    const int64_t last = older[end];
    newer[last] = older[end] = slot;
    older[slot] = last, newer[slot] = end;
  }
  // Make it the newest.
  void renew(int64_t slot) {
    newer[older[slot]] = newer[slot], older[newer[slot]] = older[slot];
    append(slot);
  }
  int64_t after(int64_t slot) const { return newer[slot]; }
  std::vector<int32_t> newer, older;
  int64_t end;
};

template <class T>
inline T inverse_norm(const T* vector, int64_t size) {
  return T(1) / std::sqrt(dot(vector, vector, size) + T(NORM_EPSILON));
}

// One sequence's memory, and how much of it must be searched.
template <class T>
struct SparseMemory {
  SparseMemory(const SparseSizes& sizes, const T* rows, const int64_t* last_access)
      : panels(sizes.padded(), sizes.word), norms(sizes.padded(), T(1) / std::sqrt(T(NORM_EPSILON))),
        recency(last_access, sizes.slots), used(sizes.slots) {
    const auto untouched = [&](int64_t slot) {
      const T* row = rows + slot * sizes.word;
      return !last_access[slot] && std::all_of(row, row + sizes.word, [](T x) { return x == T(0); });
    };
    while (used > 0 && untouched(used - 1)) used--;
    for (int64_t slot = 0; slot < used; slot++) {
      panels.set(slot, rows + slot * sizes.word);
      norms[slot] = inverse_norm(rows + slot * sizes.word, sizes.word);
    }
  }
  Panels<T> panels;
  std::vector<T> norms;  // 1/|row|
  Recency recency;
  int64_t used;  // from here on slots are zero and were never used
};

}  // namespace memnets
