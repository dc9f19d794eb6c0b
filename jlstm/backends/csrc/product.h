// Products of a few rows with packed panels of 16 columns: the register tiles that all the time is spent in.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "lstm.h"

namespace {

using jlstm::kPanel;
using jlstm::round_up;

#define JLSTM_OWN_FUNCTION __attribute__((noinline))  // GCC spills a tile that it inlines into a larger loop: 1.8 times

// A row length whose rows do not all fall on the same few sets of the L1 cache.
inline int64_t spread(int64_t n) {
  n = round_up(n, kPanel);
  return n % 128 ? n : n + kPanel;
}

// Where a tile starts from: rows and panels of numbers that are `row` and `panel` floats apart.
struct Start {
  const float* p;
  int64_t row, panel;
};

// Weights to be fetched into L2 while a tile is computed: from each of its panels' successors `step` floats for each K.
struct Ahead {
  const float* p;
  int64_t step;
};

// c[M rows][P panels] = start + a[M rows][K] @ b[P panels][K][16]
template <class S, int M, int P, bool Fetch = false>
JLSTM_OWN_FUNCTION void tile(int64_t K, const float* a, int64_t lda, const float* b, int64_t b_panel, Start start,
                             float* c, int64_t ldc, int64_t c_panel, Ahead ahead = {}) {
  constexpr int V = kPanel / S::kWidth;
  typename S::F acc[M][P * V];
#pragma GCC unroll 64
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 64
    for (int v = 0; v < P * V; ++v)
      acc[m][v] = S::load(start.p + m * start.row + v / V * start.panel + v % V * S::kWidth);
  const float* rows[M];
#pragma GCC unroll 64
  for (int m = 0; m < M; ++m) rows[m] = a + m * lda;
#pragma GCC unroll 1
  for (int64_t k = 0; k < K; ++k) {
    if constexpr (Fetch) {
#pragma GCC unroll 64
      for (int v = 0; v < P; ++v) {
        if constexpr (S::kFetch) {
          S::prefetch_near(b + v * b_panel + (k + S::kFetch) * kPanel);
        } else {
          S::prefetch(ahead.p + v * b_panel);
        }
      }
      ahead.p += ahead.step;
    }
    typename S::F w[P * V];
#pragma GCC unroll 64
    for (int v = 0; v < P * V; ++v) w[v] = S::load(b + v / V * b_panel + k * kPanel + v % V * S::kWidth);
#pragma GCC unroll 64
    for (int m = 0; m < M; ++m) {
      const auto x = S::broadcast(rows[m] + k);
#pragma GCC unroll 64
      for (int v = 0; v < P * V; ++v) acc[m][v] = S::fma(x, w[v], acc[m][v]);
    }
  }
#pragma GCC unroll 64
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 64
    for (int v = 0; v < P * V; ++v) S::store(c + m * ldc + v / V * c_panel + v % V * S::kWidth, acc[m][v]);
}

// c[P panels][M rows][16] (+)= the transpose of a[n][M columns], times b[n][P panels of 16 columns]
template <class S, int M, int P>
JLSTM_OWN_FUNCTION void tile_transposed(int64_t n, const float* a, int64_t lda, const float* b, int64_t ldb, bool add,
                                        float* c, int64_t c_panel) {
  constexpr int V = kPanel / S::kWidth;
  typename S::F acc[M][P * V];
#pragma GCC unroll 64
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 64
    for (int v = 0; v < P * V; ++v)
      acc[m][v] = add ? S::load(c + v / V * c_panel + m * kPanel + v % V * S::kWidth) : S::zero();
#pragma GCC unroll 1
  for (int64_t k = 0; k < n; ++k, a += lda, b += ldb) {
    typename S::F w[P * V];
#pragma GCC unroll 64
    for (int v = 0; v < P * V; ++v) w[v] = S::load(b + v * S::kWidth);
#pragma GCC unroll 64
    for (int m = 0; m < M; ++m) {
      const auto x = S::broadcast(a + m);
#pragma GCC unroll 64
      for (int v = 0; v < P * V; ++v) acc[m][v] = S::fma(x, w[v], acc[m][v]);
    }
  }
#pragma GCC unroll 64
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 64
    for (int v = 0; v < P * V; ++v) S::store(c + v / V * c_panel + m * kPanel + v % V * S::kWidth, acc[m][v]);
}

// Calls f with a compile-time constant equal to m, 1 <= m <= Max.
template <int Max, class Fn>
inline void with_constant(int64_t m, Fn&& f) {
  if constexpr (Max > 1) {
    if (m != Max) return with_constant<Max - 1>(m, std::forward<Fn>(f));
  }
  f(std::integral_constant<int, Max>{});
}

// c[R rows][panels] = start + a[R][K] @ b. With few rows a tile takes several panels, to have eight sums in flight;
// otherwise its panels stay in L1 while all rows go by.
template <class S>
void product(int64_t R, int64_t K, const float* a, int64_t lda, const float* b, int64_t b_panel, int64_t panels,
             Start start, float* c, int64_t ldc, int64_t c_panel) {
  if (R < 4) {
    with_constant<3>(R, [&](auto m) {
      constexpr int most = m * 4 <= S::kRows * S::kPanels ? 4 : 2;
      for (int64_t p = 0; p < panels; p += most) {
        const Start from{start.p + p * start.panel, start.row, start.panel};
        with_constant<most>(std::min<int64_t>(most, panels - p), [&](auto n) {
          tile<S, m, n>(K, a, lda, b + p * b_panel, b_panel, from, c + p * c_panel, ldc, c_panel);
        });
      }
    });
    return;
  }
  constexpr int64_t kBlock = 96;  // more rows are taken in blocks, so that their part of a stays in L2
  for (int64_t first = 0; first < R; first += kBlock) {
    const int64_t last = std::min(first + kBlock, R), tiles = (last - first + S::kRows - 1) / S::kRows;
    for (int64_t k = 0; k == 0 || k < K; k += S::kInner) {  // once where K = 0 too: c = start
      const int64_t inner = std::min(S::kInner, K - k);  // longer sums are taken in pieces: the panels stay in L1
      const Start begin = k ? Start{c, ldc, c_panel} : start;
      for (int64_t p = 0; p < panels; p += S::kPanels) {
        // Wide layers' weights come from L3 at every step. Fetched ahead, they cost a seventh less at N = 512.
        const float* next = p + S::kPanels < panels ? b + (p + S::kPanels) * b_panel + k * kPanel
                            : k + inner < K         ? b + (k + inner) * kPanel
                                                    : b + panels * b_panel;
        for (int64_t i = 0, r = first; i < tiles; ++i) {
          const int64_t rows = (last - r + tiles - i - 1) / (tiles - i);
          const Start from{begin.p + r * begin.row + p * begin.panel, begin.row, begin.panel};
          const Ahead ahead{next + i * inner * kPanel / tiles, (kPanel + tiles - 1) / tiles};
          with_constant<S::kPanels>(std::min<int64_t>(S::kPanels, panels - p), [&](auto n) {
            with_constant<S::kRows>(rows, [&](auto m) {
              tile<S, m, n, true>(inner, a + r * lda + k, lda, b + p * b_panel + k * kPanel, b_panel, from,
                                  c + r * ldc + p * c_panel, ldc, c_panel, ahead);
            });
          });
          r += rows;
        }
      }
    }
  }
}

// c[panels][K][16] (+)= the transpose of a[n][K], times b[n][16 panels]; c_panel floats between the panels of c.
template <class S>
void product_transposed(int64_t n, int64_t K, const float* a, int64_t lda, const float* b, int64_t ldb, int64_t panels,
                        bool add, float* c, int64_t c_panel) {
  constexpr int64_t kBlock = 192;  // columns of a whose n rows stay in L2 while all panels go by
  for (int64_t first = 0; first < K; first += kBlock) {
    const int64_t last = std::min(first + kBlock, K), tiles = (last - first + S::kRows - 1) / S::kRows;
    for (int64_t p = 0; p < panels; p += S::kPanels) {
      for (int64_t i = 0, k = first; i < tiles; ++i) {
        const int64_t columns = (last - k + tiles - i - 1) / (tiles - i);
        float* to = c + p * c_panel + k * kPanel;
        for (int64_t v = 0; v < S::kPanels; ++v)
          for (int64_t m = 0; m < S::kRows; ++m)  // of the tile after next
            S::prefetch(to + v * c_panel + (2 * S::kRows + m) * kPanel);
        with_constant<S::kPanels>(std::min<int64_t>(S::kPanels, panels - p), [&](auto w) {
          with_constant<S::kRows>(columns, [&](auto m) {
            tile_transposed<S, m, w>(n, a + k, lda, b + p * kPanel, ldb, add, to, c_panel);
          });
        });
        k += columns;
      }
    }
  }
}

}  // namespace
