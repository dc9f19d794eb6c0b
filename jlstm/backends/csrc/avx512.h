// AVX-512: the members of avx2.h, with vectors of twice the width and twice as many registers.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

struct Avx512 {
  using F = __m512;
  static constexpr int kWidth = 16;
  static constexpr int kRows = 12, kPanels = 2;  // 12 x 2 accumulators, 2 vectors of weights and 1 broadcast: 27 of 32
  static constexpr int64_t kInner = 384;         // 48 KiB: all of L1
  static constexpr int64_t kFetch = 24;          // weights are fetched into L1, so many rows ahead

  static F zero() { return _mm512_setzero_ps(); }
  static F set(float a) { return _mm512_set1_ps(a); }
  static F broadcast(const float* p) { return _mm512_set1_ps(*p); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F a) { _mm512_storeu_ps(p, a); }
  static F load_first(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store_first(float* p, F a, int64_t n) { _mm512_mask_storeu_ps(p, first(n), a); }
  static __mmask16 first(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
  static constexpr bool kStreams = true;
  static void stream(float* p, F a) { _mm512_stream_ps(p, a); }
  static void fence() { _mm_sfence(); }
  static void prefetch(const float* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1); }
  static void prefetch_near(const float* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }

  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F max(F limit, F a) { return _mm512_max_ps(limit, a); }
  static F min(F limit, F a) { return _mm512_min_ps(limit, a); }
  static F abs(F a) { return _mm512_abs_ps(a); }
  static F zero_unless_positive(F a, F b) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, zero(), _CMP_GT_OQ), b);
  }

  // Of finite numbers, b at least 1: the reciprocal to 14 bits and one Newton step on the quotient. A division takes 16
  // cycles.
  static F quotient(F a, F b) {
    const F r = _mm512_rcp14_ps(b), y = mul(a, r);
    return fma(_mm512_fnmadd_ps(y, b, a), r, y);
  }

  // to[j][i] = from[i][j] for 16 x 16 numbers
  static void transpose(const float* from, int64_t ld_from, float* to, int64_t ld_to) {
    F r[16], s[16];
    for (int i = 0; i < 16; ++i) r[i] = load(from + i * ld_from);
    for (int i = 0; i < 16; i += 2) {
      s[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
      s[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {  // then lane l of r[i + j] is column 4 l + j of rows i to i + 3
      r[i] = _mm512_shuffle_ps(s[i], s[i + 2], 0x44);
      r[i + 1] = _mm512_shuffle_ps(s[i], s[i + 2], 0xee);
      r[i + 2] = _mm512_shuffle_ps(s[i + 1], s[i + 3], 0x44);
      r[i + 3] = _mm512_shuffle_ps(s[i + 1], s[i + 3], 0xee);
    }
    for (int j = 0; j < 4; ++j) {
      const F low[2] = {_mm512_shuffle_f32x4(r[j], r[4 + j], 0x44), _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0x44)};
      const F high[2] = {_mm512_shuffle_f32x4(r[j], r[4 + j], 0xee), _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0xee)};
      store(to + j * ld_to, _mm512_shuffle_f32x4(low[0], low[1], 0x88));
      store(to + (4 + j) * ld_to, _mm512_shuffle_f32x4(low[0], low[1], 0xdd));
      store(to + (8 + j) * ld_to, _mm512_shuffle_f32x4(high[0], high[1], 0x88));
      store(to + (12 + j) * ld_to, _mm512_shuffle_f32x4(high[0], high[1], 0xdd));
    }
  }

  static F exp_of_minus(F x) {
    const F shift = set(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, and it takes part in the product
    const F n = sub(_mm512_fnmadd_ps(x, set(1.44269504f), shift), shift);
    const F r = _mm512_fnmsub_ps(n, set(0.693147181f), x);
    F p = fma(set(8.312529842e-03f), r, set(4.189012158e-02f));
    p = fma(p, r, set(1.666711444e-01f));
    p = fma(p, r, set(4.999923172e-01f));
    p = fma(fma(p, r, set(1.0f)), r, set(1.0f));
    return _mm512_scalef_ps(p, n);
  }
};

}  // namespace
