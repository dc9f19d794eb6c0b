// Scratch memory that is kept between calls: fresh pages cost a fault each, some 10 % of a large training step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace jlstm {

// Ask for pages of 2 MiB where an array is large: 512 times fewer faults at its first touch.
inline void prefer_huge_pages(const void* p, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHuge = uintptr_t{2} << 20;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(p) + kHuge - 1) / kHuge * kHuge;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(p) + bytes) / kHuge * kHuge;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)p, (void)bytes;
#endif
}

// One block of floats, aligned to a cache line, and given back to a short list of free ones.
class Workspace {
 public:
  explicit Workspace(size_t floats) {
    Cache& cache = Cache::get();
    const size_t bytes = floats * sizeof(float);
    {
      std::lock_guard<std::mutex> lock(cache.mutex);
      for (size_t i = 0; i < cache.free.size(); ++i) {
        if (cache.free[i].bytes >= bytes && cache.free[i].bytes <= 4 * bytes + kHuge) {
          block_ = cache.free[i];
          cache.kept -= block_.bytes;
          cache.free.erase(cache.free.begin() + static_cast<ptrdiff_t>(i));
          return;
        }
      }
    }
    // A whole huge page where there is some use for it: small pages lie anywhere in memory, and weights of half of L2
    // then evict each other (measured: 0.5 or 0.7 of the peak, from process to process).
    const size_t unit = kExact ? 64 : bytes > kSmall ? kHuge : kSmall;
    block_.bytes = (bytes + unit - 1) / unit * unit;
    block_.p = std::aligned_alloc(unit, block_.bytes);
    if (!block_.p) throw std::bad_alloc();
    prefer_huge_pages(block_.p, block_.bytes);
  }
  ~Workspace() {
    Cache& cache = Cache::get();
    std::lock_guard<std::mutex> lock(cache.mutex);
    if (cache.kept + block_.bytes > kKept || cache.free.size() >= 16) {
      std::free(block_.p);
    } else {
      cache.kept += block_.bytes;
      cache.free.push_back(block_);
    }
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // The next n floats of the block, from a cache line on.
  float* take(int64_t n) {
    float* p = static_cast<float*>(block_.p) + used_;
    used_ += padded(n);
    return p;
  }
  static int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

 private:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr bool kExact = true;  // nothing past the end, nothing kept: an overrun is seen
#else
  static constexpr bool kExact = false;
#endif
  static constexpr size_t kSmall = size_t{64} << 10, kHuge = size_t{2} << 20, kKept = kExact ? 0 : size_t{256} << 20;
  struct Block {
    void* p = nullptr;
    size_t bytes = 0;
  };
  struct Cache {
    std::mutex mutex;
    std::vector<Block> free;
    size_t kept = 0;
    static Cache& get() {
      static Cache* cache = new Cache;  // never destroyed: a thread of XLA may outlive the statics
      return *cache;
    }
  };
  Block block_;
  int64_t used_ = 0;
};

}  // namespace jlstm
