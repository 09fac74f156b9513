// Where a DNC's heads write and read, and what is there before they write (Graves et al. 2016, Methods).
#pragma once

#include <algorithm>

#include "dnc_interface.h"

namespace memnets {

// The memory before a write: what the read heads retain of it, with de-allocation. `into` [word slots] receives that.
template <class T>
inline const T* before_write(const DNCScheme& scheme, const T* memory, const T* retention, T* MEMNETS_RESTRICT into) {
  if (!scheme.deallocation) return memory;
  const int64_t slots = scheme.memory.slots;
  each_block(scheme.memory.word, [&](auto block, int64_t w) MEMNETS_INLINE {
    each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
      const Vector<T> left = lanes.load(retention + n);
      repeat(block, [&](auto j) MEMNETS_INLINE {
        lanes.store(into + (w + j) * slots + n, left * lanes.load(memory + (w + j) * slots + n));
      });
    });
  });
  return into;
}

// Its gradient: `d_memory` is that of what was retained, then that of the memory; that of the retention is overwritten.
template <class T>
inline void before_write_backward(const DNCScheme& scheme, const T* MEMNETS_RESTRICT memory,
                                  const T* MEMNETS_RESTRICT retention, T* MEMNETS_RESTRICT d_memory,
                                  T* MEMNETS_RESTRICT d_retention) {
  const int64_t slots = scheme.memory.slots;
  std::fill_n(d_retention, slots, T(0));
  if (!scheme.deallocation) return;
  each_block(scheme.memory.word, [&](auto block, int64_t w) MEMNETS_INLINE {
    each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
      const Vector<T> left = lanes.load(retention + n);
      Vector<T> sum = lanes.load(d_retention + n);
      repeat(block, [&](auto j) MEMNETS_INLINE {
        const int64_t at = (w + j) * slots + n;
        const Vector<T> change = lanes.load(d_memory + at);
        sum += change * lanes.load(memory + at);
        lanes.store(d_memory + at, left * change);
      });
      lanes.store(d_retention + n, sum);
    });
  });
}

// write_gate (allocation_gate a(n) + (1 - allocation_gate) c(n))
template <class T>
inline void write_weights(const DNCScheme& scheme, const T* sent, const T* MEMNETS_RESTRICT allocation,
                          const T* MEMNETS_RESTRICT content, T* MEMNETS_RESTRICT weights) {
  const T share = sent[scheme.allocation_gate_at()], gate = sent[scheme.write_gate_at()];
  each<T>(scheme.memory.slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
    lanes.store(weights + n, gate * (share * lanes.load(allocation + n) + (1 - share) * lanes.load(content + n)));
  });
}

// Its gradient.
template <class T>
inline void write_weights_backward(const DNCScheme& scheme, const T* sent, const T* MEMNETS_RESTRICT allocation,
                                   const T* MEMNETS_RESTRICT content, const T* MEMNETS_RESTRICT d_weights,
                                   T* MEMNETS_RESTRICT d_allocation, T* MEMNETS_RESTRICT d_content, T* d_sent) {
  const T share = sent[scheme.allocation_gate_at()], gate = sent[scheme.write_gate_at()];
  Vector<T> d_share = {}, d_gate = {};
  each<T>(scheme.memory.slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
    const Vector<T> free = lanes.load(allocation + n), found = lanes.load(content + n);
    const Vector<T> change = lanes.load(d_weights + n);
    d_share += change * (free - found);
    d_gate += change * (share * free + (1 - share) * found);
    lanes.store(d_allocation + n, gate * share * change);
    lanes.store(d_content + n, gate * (1 - share) * change);
  });
  d_sent[scheme.allocation_gate_at()] = gate * sum_of<T>(d_share);
  d_sent[scheme.write_gate_at()] = sum_of<T>(d_gate);
}

// Read weights of a head, modes . (backward, content, forward); content alone without links.
template <class T>
inline void read_weights(const DNCScheme& scheme, const T* sent, const T* traces, int64_t head,
                         T* MEMNETS_RESTRICT weights) {
  const int64_t slots = scheme.memory.slots;
  const T* content = traces + (scheme.content_trace(head) + 1) * slots;
  if (!scheme.link) {
    std::copy_n(content, slots, weights);
    return;
  }
  const T *modes = sent + scheme.modes_at(head), *back = traces + (scheme.sharp_backward_trace() + head) * slots;
  const T* ahead = traces + (scheme.sharp_forward_trace() + head) * slots;
  each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
    lanes.store(weights + n, modes[0] * lanes.load(back + n) + modes[1] * lanes.load(content + n) +
                                 modes[2] * lanes.load(ahead + n));
  });
}

}  // namespace memnets
