// Memory for what a forward pass keeps: blocks that are used again, as new ones cost a page fault per page, every call.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Context.h>

#include <cstdlib>
#include <map>
#include <mutex>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace memnets {

class Arena {
 public:
  // An uninitialised tensor; small ones, and all while torch fills uninitialised memory, are torch's own.
  static at::Tensor make(at::IntArrayRef shape, const at::TensorOptions& options) {
    size_t bytes = at::elementSize(options.dtype().toScalarType());
    for (const int64_t size : shape) bytes *= size;
    if (bytes < SMALLEST || at::globalContext().deterministicFillUninitializedMemory()) return at::empty(shape, options);
    Arena* arena = &instance();
    const auto [size, block] = arena->take(bytes);
    return at::from_blob(block, shape, [arena, size = size](void* done) { arena->give_back(size, done); }, options);
  }

 private:
  static constexpr size_t HUGE_PAGE = size_t(2) << 20, SMALLEST = HUGE_PAGE / 2, MOST_KEPT = size_t(512) << 20;

  static Arena& instance() {
    static Arena* arena = new Arena;  // never destroyed: tensors may outlive every static object
    return *arena;
  }

  // The smallest free block that is large enough, and not more than twice as large; else a new one.
  std::pair<size_t, void*> take(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = free_blocks.lower_bound(bytes);
    if (found != free_blocks.end() && found->first <= 2 * bytes) {
      const auto block = *found;
      free_blocks.erase(found);
      kept -= block.first;
      return block;
    }
    const size_t size = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    void* block = std::aligned_alloc(HUGE_PAGE, size);
    TORCH_CHECK(block, "ntm_sequence: no memory for ", size, " bytes");
#if defined(__linux__)
    madvise(block, size, MADV_HUGEPAGE);  // a wish: where it isn't granted, pages are small
#endif
    return {size, block};
  }

  void give_back(size_t size, void* block) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (kept + size > MOST_KEPT) return std::free(block);
    free_blocks.emplace(size, block);
    kept += size;
  }

  std::mutex mutex;
  std::multimap<size_t, void*> free_blocks;
  size_t kept = 0;
};

}  // namespace memnets
