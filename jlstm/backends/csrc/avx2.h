// AVX2 + FMA: what the kernel asks of an instruction set. Another one is another struct with these members.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

struct Avx2 {
  using F = __m256;
  static constexpr int kWidth = 8;
  static constexpr int kRows = 6, kPanels = 1;  // 6 x 2 accumulators, 2 vectors of weights, 1 broadcast: 15 of 16
  static constexpr int64_t kInner = 384;        // 24 of 32 KiB of L1
  static constexpr int64_t kFetch = 0;          // weights are fetched into L2, a panel ahead

  static F zero() { return _mm256_setzero_ps(); }
  static F set(float a) { return _mm256_set1_ps(a); }
  static F broadcast(const float* p) { return _mm256_broadcast_ss(p); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F a) { _mm256_storeu_ps(p, a); }
  // The first n numbers, at most kWidth; zeros for the others.
  static F load_first(const float* p, int64_t n) { return _mm256_maskload_ps(p, first(n)); }
  static void store_first(float* p, F a, int64_t n) { _mm256_maskstore_ps(p, first(n), a); }
  static __m256i first(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static constexpr bool kStreams = false;  // stores go through the caches
  static void stream(float* p, F a) { store(p, a); }
  static void prefetch(const float* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1); }  // into L2
  static void fence() {}

  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F quotient(F a, F b) { return div(a, b); }  // of finite numbers, b at least 1
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  // Of a NaN and a number these two return the second argument, so a NaN there passes.
  static F max(F limit, F a) { return _mm256_max_ps(limit, a); }
  static F min(F limit, F a) { return _mm256_min_ps(limit, a); }
  static F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  static F zero_unless_positive(F a, F b) { return _mm256_and_ps(_mm256_cmp_ps(a, zero(), _CMP_GT_OQ), b); }

  // to[j][i] = from[i][j] for 8 x 8 numbers
  static void transpose(const float* from, int64_t ld_from, float* to, int64_t ld_to) {
    F r[8], s[8];
    for (int i = 0; i < 8; ++i) r[i] = load(from + i * ld_from);
    for (int i = 0; i < 8; i += 2) {
      s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
      s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      r[i] = _mm256_shuffle_ps(s[i], s[i + 2], 0x44);
      r[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], 0xee);
      r[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0x44);
      r[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {
      store(to + i * ld_to, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
      store(to + (i + 4) * ld_to, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
  }

  // exp(-x) for x in [-88.3, 87]: 2^n exp(r) with |r| <= ln(2)/2, exp(r) to 1.1e-7 by a polynomial of degree 5 (our own
  // least maximum fit). ln(2) as one float32 is good to 1.9e-9 n.
  static F exp_of_minus(F x) {
    const F n = _mm256_round_ps(mul(x, set(-1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const F r = _mm256_fnmsub_ps(n, set(0.693147181f), x);
    F p = fma(set(8.312529842e-03f), r, set(4.189012158e-02f));
    p = fma(p, r, set(1.666711444e-01f));
    p = fma(p, r, set(4.999923172e-01f));
    p = fma(fma(p, r, set(1.0f)), r, set(1.0f));
    return _mm256_castsi256_ps(  // a NaN's p stays one: the integer of n is 0 in the bits that are left
        _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
  }
};

}  // namespace
