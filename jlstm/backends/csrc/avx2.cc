// The kernels for AVX2 + FMA. Compiled without -march: only what follows the pragma may use these instructions, so every
// standard header is included before it.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "lstm.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include "workspace.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#include "avx2.h"
#include "backward.h"
#include "forward.h"

namespace {
template void forward<Avx2>(const Forward&, const Threads&);
template void backward<Avx2>(const Backward&, const Threads&);
}  // namespace

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const jlstm::Kernels* jlstm::avx2() {
  static const Kernels kernels{"AVX2+FMA", forward<Avx2>, backward<Avx2>};
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &kernels : nullptr;
}
#else
const jlstm::Kernels* jlstm::avx2() { return nullptr; }
#endif
