// Products with weights as they lie, for calls so short that packing them would take longer than the work itself.
#pragma once

#include <algorithm>
#include <cstdint>

#include "product.h"
#include "rows.h"

namespace {

// z[M][n] += a[M][U] @ w[U][n]
template <class S, int M, int U>
JLSTM_OWN_FUNCTION void add_outer(int64_t n, const float* a, int64_t lda, const float* w, int64_t ldw, float* z, int64_t ldz) {
  typename S::F x[M][U];
#pragma GCC unroll 64
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 64
    for (int u = 0; u < U; ++u) x[m][u] = S::broadcast(a + m * lda + u);
  for (int64_t j = 0; j < n; j += S::kWidth) {
    typename S::F acc[M];
#pragma GCC unroll 64
    for (int m = 0; m < M; ++m) acc[m] = S::load(z + m * ldz + j);
#pragma GCC unroll 64
    for (int u = 0; u < U; ++u) {
      const auto v = load_part<S>(w + u * ldw, j, n);
#pragma GCC unroll 64
      for (int m = 0; m < M; ++m) acc[m] = S::fma(x[m][u], v, acc[m]);
    }
#pragma GCC unroll 64
    for (int m = 0; m < M; ++m) S::store(z + m * ldz + j, acc[m]);
  }
}

// z[R][n] += a[R][K] @ w[K][n]; z may be written up to a whole vector.
template <class S>
void product_direct(int64_t R, int64_t K, const float* a, int64_t lda, const float* w, int64_t n, float* z, int64_t ldz) {
  for (int64_t r = 0; r < R; r += 4) {
    with_constant<4>(std::min<int64_t>(4, R - r), [&](auto m) {
      constexpr int U = 8 / (m == 3 ? 4 : m);  // 8 numbers of a in registers
      int64_t k = 0;
      for (; k + U <= K; k += U) add_outer<S, m, U>(n, a + r * lda + k, lda, w + k * n, n, z + r * ldz, ldz);
      for (; k < K; ++k) add_outer<S, m, 1>(n, a + r * lda + k, lda, w + k * n, n, z + r * ldz, ldz);
    });
  }
}

template <class S>
float sum(typename S::F a) {
  float part[S::kWidth], total = 0;
  S::store(part, a);
  for (float x : part) total += x;
  return total;
}

// c[M][U] (+)= a[M][4 N16] @ the transpose of w[U][4 N]
template <class S, int M, int U>
JLSTM_OWN_FUNCTION void add_dots(int64_t N, const float* a, int64_t lda, const float* w, bool add, float* c, int64_t ldc) {
  const int64_t N16 = round_up(N, kPanel), row = kGates * N;
  typename S::F acc[M][U];
#pragma GCC unroll 64
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 64
    for (int u = 0; u < U; ++u) acc[m][u] = S::zero();
  for (int64_t g = 0; g < kGates; ++g) {
    for (int64_t n = 0; n < N; n += S::kWidth) {
      typename S::F x[M];
#pragma GCC unroll 64
      for (int m = 0; m < M; ++m) x[m] = S::load(a + m * lda + g * N16 + n);
#pragma GCC unroll 64
      for (int u = 0; u < U; ++u) {
        const auto v = load_part<S>(w + u * row + g * N, n, N);
#pragma GCC unroll 64
        for (int m = 0; m < M; ++m) acc[m][u] = S::fma(x[m], v, acc[m][u]);
      }
    }
  }
  for (int m = 0; m < M; ++m)
    for (int u = 0; u < U; ++u) c[m * ldc + u] = sum<S>(acc[m][u]) + (add ? c[m * ldc + u] : 0.0f);
}

// c[R][K] (+)= a[R][4 N16] @ the transpose of w[K][4 N]
template <class S>
void product_direct_transposed(int64_t R, int64_t K, int64_t N, const float* a, int64_t lda, const float* w, bool add,
                               float* c, int64_t ldc) {
  for (int64_t k = 0; k < K; k += 4) {
    for (int64_t r = 0; r < R; r += 2) {
      with_constant<2>(std::min<int64_t>(2, R - r), [&](auto m) {
        with_constant<4>(std::min<int64_t>(4, K - k), [&](auto u) {
          add_dots<S, m, u>(N, a + r * lda, lda, w + k * kGates * N, add, c + r * ldc + k, ldc);
        });
      });
    }
  }
}

// c[U][4 N] = the transpose of a[n][U], times b[n][4 N16]
template <class S, int U>
JLSTM_OWN_FUNCTION void outer(int64_t n, int64_t N, const float* a, int64_t lda, const float* b, int64_t ldb, float* c) {
  const int64_t N16 = round_up(N, kPanel);
  for (int64_t g = 0; g < kGates; ++g) {
    for (int64_t j = 0; j < N; j += S::kWidth) {
      typename S::F acc[U];
#pragma GCC unroll 64
      for (int u = 0; u < U; ++u) acc[u] = S::zero();
      for (int64_t i = 0; i < n; ++i) {
        const auto v = S::load(b + i * ldb + g * N16 + j);
#pragma GCC unroll 64
        for (int u = 0; u < U; ++u) acc[u] = S::fma(S::broadcast(a + i * lda + u), v, acc[u]);
      }
#pragma GCC unroll 64
      for (int u = 0; u < U; ++u) store_part<S>(c + (u * kGates + g) * N, j, N, acc[u]);
    }
  }
}

// c[K][4 N] = the transpose of a[n][K], times b[n][4 N16]
template <class S>
void outer_direct(int64_t n, int64_t K, int64_t N, const float* a, int64_t lda, const float* b, int64_t ldb, float* c) {
  for (int64_t k = 0; k < K; k += 4)
    with_constant<4>(std::min<int64_t>(4, K - k), [&](auto u) {
      outer<S, u>(n, N, a + k, lda, b, ldb, c + k * kGates * N);
    });
}

}  // namespace
