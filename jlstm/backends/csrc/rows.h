// What the forward and the backward pass share: a range of rows of one member, its gate inputs, its time steps.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "lstm.h"
#include "product.h"

namespace {

using jlstm::Act;
using jlstm::Activation;
using jlstm::Coupled;
using jlstm::Problem;
using jlstm::Threads;

constexpr int64_t kGates = 4;
constexpr int64_t kMostRows = 96;  // of a block that walks through time together: what it reads and writes stays in L2

// Where dropout gives each gate its own inputs there are four arrays of gate inputs, otherwise one.
inline int64_t gate_inputs(const Problem& p) { return p.input_mask || p.recurrent_mask ? kGates : 1; }

// Whether a call is so short that its weights are used as they lie: to pack them is to read and write them once more.
inline bool direct(const Problem& p) {
  constexpr int64_t kRowSteps = 16, kWeights = 1 << 20;
  const int64_t n = p.B * p.T;
  return 0 < n && n <= kRowSteps && (p.D + p.N) * kGates * p.N <= kWeights && gate_inputs(p) == 1;
}

// Whether the cell is that of Keras's defaults, which has code of its own.
inline bool is_plain(const Problem& p) {
  return p.activation.kind == Act::kTanh && p.recurrent.kind == Act::kSigmoid && p.output.kind == Act::kTanh &&
         !p.peephole && p.forget_gate && p.coupled == Coupled::kNone;
}

// Rows [first, first + count) of member m.
struct Rows {
  int64_t m, first, count;
};

// The batch of each member, cut into equal parts for the threads. A part is a work item: what it sums is added up in
// the order of the parts, so the number of threads decides the bits and their timing does not.
struct Parts {
  int64_t members, per_member;

  Parts(const Problem& p, int threads) : members(p.M), per_member(1) {
    const double flops = 8.0 * p.B * p.T * p.N * (p.D + p.N);
    const double kWorthAThread = 1e6;  // about 20 us on one core; waking another one costs some 5 us
    const int64_t wanted = (threads + p.M - 1) / p.M;
    const int64_t most = std::max<int64_t>(1, static_cast<int64_t>(flops / kWorthAThread));
    per_member = direct(p) ? 1 : std::max<int64_t>(1, std::min({wanted, most, p.B}));
  }
  int64_t count() const { return members * per_member; }
  Rows rows(int64_t part, int64_t B) const {
    const int64_t n = part % per_member, first = B * n / per_member;
    return {part / per_member, first, B * (n + 1) / per_member - first};
  }
};

inline int64_t units16(const Problem& p) { return round_up(p.N, kPanel); }
inline int64_t blocks(const Problem& p) { return units16(p) / kPanel; }
inline int64_t weights_member(const Problem& p, int64_t m) { return p.shared ? 0 : m; }

inline int64_t at(const Problem& p, int64_t step) { return p.reverse ? p.T - 1 - step : step; }

inline bool masked(const Problem& p, int64_t row, int64_t t) { return p.mask && !p.mask[row * p.T + t]; }
inline bool restarts(const Problem& p, int64_t row, int64_t t) { return p.reset && p.reset[row * p.T + t]; }

inline void copy(float* to, const float* from, int64_t n) {
  if (n >= 8) {
    std::memcpy(to, from, sizeof(float) * n);
  } else {  // a call costs more than the copy
    for (int64_t i = 0; i < n; ++i) to[i] = from[i];
  }
}
inline void copy_or_zero(float* to, const float* from, int64_t n) {
  from ? copy(to, from, n) : static_cast<void>(std::memset(to, 0, sizeof(float) * n));
}

// What the gates read at one step: a[row] = x[row, t]; zeros where masked, so that padding reaches nothing; times the
// gate's dropout mask. `a` is the start of the row in the array of gate g.
inline void gate_input_x(const Problem& p, int64_t row, int64_t t, int64_t g, float* a) {
  copy_or_zero(a, masked(p, row, t) ? nullptr : p.x + (row * p.T + t) * p.D, p.D);
  if (p.input_mask)
    for (int64_t d = 0; d < p.D; ++d) a[d] *= p.input_mask[(row * kGates + g) * p.D + d];
}
inline void gate_input_h(const Problem& p, int64_t row, int64_t g, const float* h, float* a) {
  copy_or_zero(a, h, p.N);
  if (p.recurrent_mask)
    for (int64_t n = 0; n < p.N; ++n) a[n] *= p.recurrent_mask[(row * kGates + g) * p.N + n];
}

// Work on the threads where the problem was cut into parts for them, otherwise here.
template <class Fn>
void run_parts(const Threads& threads, const Parts& parts, int64_t count, Fn&& work) {
  if (parts.count() == 1 || count == 1) {
    for (int64_t i = 0; i < count; ++i) work(i);
  } else {
    threads.run(count, work);
  }
}

// A range of rows in blocks of equal size.
template <class Fn>
void for_blocks(Rows rows, Fn&& work) {
  const int64_t n = (rows.count + kMostRows - 1) / kMostRows;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t first = rows.count * i / n;
    work(Rows{rows.m, rows.first + first, rows.count * (i + 1) / n - first});
  }
}

// A vector from, or into, an array of n floats at i: zeros past its end, and nothing.
template <class S>
typename S::F load_part(const float* p, int64_t i, int64_t n) {
  return i + S::kWidth <= n ? S::load(p + i) : S::load_first(p + i, std::max<int64_t>(0, n - i));
}
template <class S>
void store_part(float* p, int64_t i, int64_t n, typename S::F a) {
  i + S::kWidth <= n ? S::store(p + i, a) : S::store_first(p + i, a, std::max<int64_t>(0, n - i));
}

}  // namespace
