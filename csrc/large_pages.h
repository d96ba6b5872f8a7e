// Memory that the system hands out page by page: of a large block, every second millisecond of writing to it is spent there.
#pragma once
#include <cstdint>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace acmix {

// From so many bytes on the C library takes a new block from the system each time, and gives it back when it is freed.
constexpr int64_t kLargeBlock = int64_t{32} << 20;
constexpr uintptr_t kLargePage = uintptr_t{2} << 20;

// Asks for large pages where a block is to be written for the first time. A wish: what comes of it does not matter.
inline void ask_for_large_pages(void* memory, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes < kLargeBlock) return;
  const uintptr_t from = reinterpret_cast<uintptr_t>(memory), first = (from + kLargePage - 1) / kLargePage * kLargePage;
  const uintptr_t last = (from + static_cast<uintptr_t>(bytes)) / kLargePage * kLargePage;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

}  // namespace acmix
