// Numbers below the normal ones as 0, for as long as one wants.
#pragma once

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace memnets {

// While it lives, this thread takes and gives 0 for numbers below the normal ones (1e-38 in float32), as processors take
// a hundred times as long for these. Weights of slots that nothing resembles, and the links between these, are such.
struct FlushDenormals {
  FlushDenormals(const FlushDenormals&) = delete;
#if defined(__SSE2__)
  FlushDenormals() : before(_mm_getcsr()) { _mm_setcsr(before | 0x8040); }  // results and arguments
  ~FlushDenormals() { _mm_setcsr(before); }
  unsigned before;
#else
  FlushDenormals() {}
#endif
};

}  // namespace memnets
