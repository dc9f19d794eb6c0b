// The forward pass: every part of the batch walks through all time steps alone, with no barrier.
#pragma once

#include "activations.h"
#include "direct.h"
#include "rows.h"
#include "workspace.h"

namespace {

using jlstm::Forward;
using jlstm::Workspace;

// The weights of one member, packed: panel 4 b + g holds gate g of units 16 b to 16 b + 15, [D + N][16], and the bias
// [16]. Zeros stand for units past N.
struct ForwardWeights {
  float* panels;
  float* bias;
  static int64_t panel_size(const Problem& p) { return (p.D + p.N) * kPanel; }
  static int64_t size(const Problem& p) {
    return Workspace::padded(kGates * blocks(p) * panel_size(p)) + Workspace::padded(kGates * units16(p));
  }
};

inline void pack_panel(const Problem& p, int64_t m, int64_t panel, const ForwardWeights& to) {
  const int64_t b = panel / kGates, g = panel % kGates, used = std::min(kPanel, p.N - b * kPanel);
  const int64_t column = g * p.N + b * kPanel;
  float* out = to.panels + panel * ForwardWeights::panel_size(p);
  auto row = [&](float* out, const float* from) {
    if (from && used == kPanel) return copy(out, from + column, kPanel);
    for (int64_t j = 0; j < kPanel; ++j) out[j] = j < used && from ? from[column + j] : 0.0f;
  };
  for (int64_t k = 0; k < p.D; ++k, out += kPanel) row(out, p.kernel + (m * p.D + k) * kGates * p.N);
  for (int64_t k = 0; k < p.N; ++k, out += kPanel) row(out, p.recurrent_kernel + (m * p.N + k) * kGates * p.N);
  row(to.bias + panel * kPanel, p.bias ? p.bias + m * kGates * p.N : nullptr);
}

// A block of rows on its way through time.
template <class S>
class ForwardRows {
 public:
  // Steps whose input products are taken as one: a matrix product in place of so many products with a vector.
  static constexpr int64_t kChunk = 32;
  // Rows by which what is saved is fetched before it is written.
  static constexpr int64_t kAhead = 2;

  ForwardRows(const Forward& p, const ForwardWeights& w, Rows rows, float* scratch)
      : p_(p), w_(w), first_(rows.m * p.B + rows.first), R_(rows.count), m_(weights_member(p, rows.m)),
        member_(rows.m), G_(gate_inputs(p)), direct_(direct(p)), hoist_(!direct_ && R_ < 4 && G_ == 1), stream_(streams(p)) {
    auto take = [&scratch](int64_t n) { return std::exchange(scratch, scratch + Workspace::padded(n)); };
    const int64_t steps = hoist_ ? kChunk : 1;
    lda_ = spread(p.D + p.N);
    ldz_ = direct_ ? kGates * p.N + kPanel : hoist_ ? kGates * units16(p) : kPanel;
    h_ = take(R_ * units16(p));
    c_ = take(R_ * units16(p));
    a_ = take(G_ * steps * R_ * lda_);
    z_ = take(direct_ ? R_ * ldz_ : hoist_ ? steps * R_ * ldz_ : kGates * R_ * kPanel);
  }
  static int64_t scratch_size(const Problem& p, int64_t rows) {
    const int64_t a = gate_inputs(p) * spread(p.D + p.N);
    const int64_t hoisted = direct(p) ? 0 : std::min<int64_t>(rows, 3) * kChunk * (a + kGates * units16(p));
    return rows * (2 * units16(p) + a + kGates * (direct(p) ? units16(p) + kPanel : kPanel)) + hoisted + 64;
  }

  void run() {
    for (int64_t r = 0; r < R_; ++r) {
      load_state(r, p_.h0 + (first_ + r) * p_.N, p_.c0 + (first_ + r) * p_.N);
    }
    const bool plain = is_plain(p_);
    for (int64_t step = 0; step < p_.T; ++step) {
      const int64_t t = at(p_, step);
      if (p_.reset) restart(t);
      if (hoist_ && step % kChunk == 0) input_products(step, std::min(kChunk, p_.T - step));
      for (int64_t g = 0; g < G_; ++g) {
        for (int64_t r = 0; r < R_; ++r) {
          float* a = a_ + (g * R_ + r) * lda_;
          if (!hoist_) gate_input_x(p_, first_ + r, t, g, a);
          gate_input_h(p_, first_ + r, g, h_ + r * units16(p_), hoist_ ? a : a + p_.D);
        }
      }
      if (direct_) gates_direct();
      for (int64_t b = 0; b < blocks(p_); ++b) {
        if (!direct_) gates(b, step);
        const float* z = direct_  ? z_ + b * kPanel
                         : hoist_ ? z_ + (step % kChunk * R_) * ldz_ + b * kGates * kPanel : z_;
        plain ? update<true>(b, t, z) : update<false>(b, t, z);
      }
    }
    if (stream_) S::fence();
    for (int64_t r = 0; r < R_; ++r) {
      copy(p_.h + (first_ + r) * p_.N, h_ + r * units16(p_), p_.N);
      copy(p_.c + (first_ + r) * p_.N, c_ + r * units16(p_), p_.N);
    }
  }

  // What is saved goes past the caches where they could not keep it.
  static bool streams(const Forward& p) {
    constexpr int64_t kCached = 4 << 20;
    const int64_t bytes = p.M * p.B * p.T * jlstm::saved_size(p.N) * static_cast<int64_t>(sizeof(float));
    return S::kStreams && p.saved && bytes > kCached && reinterpret_cast<uintptr_t>(p.saved) % 64 == 0;
  }

 private:
  void load_state(int64_t r, const float* h, const float* c) {
    const int64_t n = units16(p_);
    for (auto [to, from] : {std::pair{h_ + r * n, h}, {c_ + r * n, c}}) {
      copy_or_zero(to, from, p_.N);
      std::fill(to + p_.N, to + n, 0.0f);
    }
  }

  void restart(int64_t t) {
    for (int64_t r = 0; r < R_; ++r) {
      const int64_t row = first_ + r;
      if (!restarts(p_, row, t)) continue;
      load_state(r, p_.reset_h ? p_.reset_h + row * p_.N : nullptr, p_.reset_c ? p_.reset_c + row * p_.N : nullptr);
    }
  }

  // z[steps, rows, 4N] = x @ kernel + bias, for a few steps at once.
  void input_products(int64_t step, int64_t steps) {
    for (int64_t s = 0; s < steps; ++s)
      for (int64_t r = 0; r < R_; ++r) gate_input_x(p_, first_ + r, at(p_, step + s), 0, a_ + (s * R_ + r) * lda_);
    product<S>(steps * R_, p_.D, a_, lda_, w_.panels, ForwardWeights::panel_size(p_), kGates * blocks(p_),
               {w_.bias, 0, kPanel}, z_, ldz_, kPanel);
  }

  // z[rows, 4N]: all pre-activations.
  void gates_direct() {
    for (int64_t r = 0; r < R_; ++r) {
      copy_or_zero(z_ + r * ldz_, p_.bias ? p_.bias + m_ * kGates * p_.N : nullptr, kGates * p_.N);
      std::fill_n(z_ + r * ldz_ + kGates * p_.N, kPanel, 0.0f);
    }
    const int64_t n = kGates * p_.N;
    product_direct<S>(R_, p_.D, a_, lda_, p_.kernel + m_ * p_.D * n, n, z_, ldz_);
    product_direct<S>(R_, p_.N, a_ + p_.D, lda_, p_.recurrent_kernel + m_ * p_.N * n, n, z_, ldz_);
  }

  // The four gates' pre-activations of 16 units, for all rows.
  void gates(int64_t b, int64_t step) {
    const int64_t size = ForwardWeights::panel_size(p_);
    const float* w = w_.panels + b * kGates * size;
    const Start bias{w_.bias + b * kGates * kPanel, 0, kPanel};
    if (hoist_) {
      float* z = z_ + step % kChunk * R_ * ldz_ + b * kGates * kPanel;
      product<S>(R_, p_.N, a_, lda_, w + p_.D * kPanel, size, kGates, {z, ldz_, kPanel}, z, ldz_, kPanel);
    } else if (G_ == 1) {
      product<S>(R_, p_.D + p_.N, a_, lda_, w, size, kGates, bias, z_, kPanel, R_ * kPanel);
    } else {
      for (int64_t g = 0; g < kGates; ++g)
        product<S>(R_, p_.D + p_.N, a_ + g * R_ * lda_, lda_, w + g * size, size, 1, {bias.p + g * kPanel, 0, 0},
                   z_ + g * R_ * kPanel, kPanel, 0);
    }
  }

  // c' and h' of 16 units, for all rows.
  template <bool Plain>
  JLSTM_OWN_FUNCTION void update(int64_t b, int64_t t, const float* z) {
    using F = typename S::F;
    const int64_t z_gate = direct_ ? p_.N : hoist_ ? kPanel : R_ * kPanel, u = b * kPanel, used = std::min(kPanel, p_.N - u);
    for (int64_t r = 0; r < R_; ++r, z += ldz_) {
      const int64_t row = first_ + r;
      float* h = h_ + r * units16(p_) + u;
      float* c = c_ + r * units16(p_) + u;
      float* saved = !p_.saved ? nullptr
                               : p_.saved + ((member_ * p_.T + t) * p_.B + row - member_ * p_.B) * 5 * units16(p_) + 5 * u;
      if (saved && !stream_ && r + kAhead < R_)
        for (int64_t n = 0; n < 5; ++n) S::prefetch(saved + kAhead * 5 * units16(p_) + n * kPanel);
      float* y = p_.y ? p_.y + (row * p_.T + t) * p_.N + u : nullptr;
      const bool keep = masked(p_, row, t);
      for (int64_t v = 0; v < kPanel; v += S::kWidth) {
        F i = S::load(z + v), f = S::load(z + z_gate + v), g = S::load(z + 2 * z_gate + v),
          o = S::load(z + 3 * z_gate + v), c_new = S::load(c + v), h_new;
        if constexpr (Plain) {
          i = sigmoid<S>(i), f = sigmoid<S>(f), g = tanh<S>(g), o = sigmoid<S>(o);
          c_new = S::fma(f, c_new, S::mul(i, g));
          h_new = S::mul(o, tanh<S>(c_new));
        } else {
          if (p_.peephole) {
            i = S::fma(peephole(0, u + v), c_new, i);
            f = S::fma(peephole(1, u + v), c_new, f);
          }
          i = activate<S>(p_.recurrent, i), f = activate<S>(p_.recurrent, f), g = activate<S>(p_.activation, g);
          if (p_.coupled == Coupled::kInput) i = S::sub(S::set(1.0f), f);
          if (p_.coupled == Coupled::kForget) f = S::sub(S::set(1.0f), i);
          c_new = S::fma(i, g, p_.forget_gate ? S::mul(f, c_new) : c_new);
          if (p_.peephole) o = S::fma(peephole(2, u + v), c_new, o);
          o = activate<S>(p_.recurrent, o);
          h_new = S::mul(o, activate<S>(p_.output, c_new));
        }
        if (!keep) {
          S::store(c + v, c_new);
          S::store(h + v, h_new);
        }
        if (y) store_part<S>(y, v, used, S::load(h + v));  // a call of memcpy cost a fifth of this function
        if (saved) {
          const F to_save[] = {i, f, g, o, S::load(c + v)};
          for (int n = 0; n < 5; ++n)
            stream_ ? S::stream(saved + n * kPanel + v, to_save[n]) : S::store(saved + n * kPanel + v, to_save[n]);
        }
      }
    }
  }

  typename S::F peephole(int64_t gate, int64_t unit) const {
    return load_part<S>(p_.peephole + (m_ * 3 + gate) * p_.N, unit, p_.N);
  }

  const Forward& p_;
  const ForwardWeights w_;
  const int64_t first_, R_, m_, member_, G_;
  const bool direct_, hoist_, stream_;
  int64_t lda_, ldz_;
  float *h_, *c_, *a_, *z_;
};

template <class S>
void forward(const Forward& p, const Threads& threads) {
  if (p.M == 0) return;
  const Parts parts(p, threads.count);
  const int64_t members = p.shared ? 1 : p.M, panels = kGates * blocks(p);
  const int64_t most_rows = std::min(kMostRows, (p.B + parts.per_member - 1) / parts.per_member);
  const int64_t scratch = ForwardRows<S>::scratch_size(p, most_rows);
  const int64_t weights_size = direct(p) ? 0 : ForwardWeights::size(p);
  Workspace space(members * weights_size + parts.count() * Workspace::padded(scratch));
  float* packed = space.take(members * weights_size);
  float* rest = space.take(parts.count() * Workspace::padded(scratch));
  auto weights = [&](int64_t m) {
    float* panels_of = packed + m * weights_size;
    return ForwardWeights{panels_of, panels_of + Workspace::padded(panels * ForwardWeights::panel_size(p))};
  };
  if (p.saved) jlstm::prefer_huge_pages(p.saved, sizeof(float) * p.M * p.T * p.B * jlstm::saved_size(p.N));
  if (p.y) jlstm::prefer_huge_pages(p.y, sizeof(float) * p.M * p.T * p.B * p.N);

  // Fresh pages are cleared by the system at their first touch, through the caches: before the weights are in them.
  constexpr int64_t kPage = (2 << 20) / sizeof(float);
  for (auto [to, size] : {std::pair{p.saved, p.M * p.T * p.B * jlstm::saved_size(p.N)}, {p.y, p.M * p.T * p.B * p.N}})
    if (to && size > 4 * kPage) run_parts(threads, parts, size / kPage, [&, to = to](int64_t i) { to[i * kPage] = 0.0f; });
  run_parts(threads, parts, weights_size ? members * panels : 0, [&](int64_t i) {
    pack_panel(p, i / panels, i % panels, weights(i / panels));
  });
  run_parts(threads, parts, parts.count(), [&](int64_t i) {
    const Rows rows = parts.rows(i, p.B);
    for_blocks(rows, [&](Rows block) {
      ForwardRows<S>(p, weights(weights_member(p, rows.m)), block, rest + i * Workspace::padded(scratch)).run();
    });
  });
}

}  // namespace
