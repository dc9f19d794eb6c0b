// The kernels for AVX-512, as avx2.cc is for AVX2.
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
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl")
#endif

#include "avx512.h"
#include "backward.h"
#include "forward.h"

namespace {
template void forward<Avx512>(const Forward&, const Threads&);
template void backward<Avx512>(const Backward&, const Threads&);
}  // namespace

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const jlstm::Kernels* jlstm::avx512() {
  static const Kernels kernels{"AVX-512", forward<Avx512>, backward<Avx512>};
  const bool can = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
  return can ? &kernels : nullptr;
}
#else
const jlstm::Kernels* jlstm::avx512() { return nullptr; }
#endif
