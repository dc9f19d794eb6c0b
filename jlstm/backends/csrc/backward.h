// The backward pass: the parts of the forward pass, backwards through time; gradients of weights from chunks of steps.
#pragma once

#include "activations.h"
#include "direct.h"
#include "rows.h"
#include "workspace.h"

namespace {

using jlstm::Backward;
using jlstm::Workspace;

constexpr float kZeros[kPanel] = {};

// The weights of one member, transposed and packed: panels of 16 units (of 16 inputs) of [4 gates x N][16].
struct BackwardWeights {
  float *recurrent, *kernel;
  static int64_t panel_size(const Problem& p) { return kGates * units16(p) * kPanel; }
  static int64_t kernel_panels(const Backward& p) { return p.dx ? round_up(p.D, kPanel) / kPanel : 0; }
  static int64_t size(const Backward& p) { return (blocks(p) + kernel_panels(p)) * panel_size(p); }
};

// One panel: to[g N16 + n][j] = from[j][g N + n] for the 16 rows j from `first` on, of which there are `rows`.
template <class S>
void pack_transposed(const Problem& p, const float* from, int64_t first, int64_t rows, float* to) {
  const int64_t N = p.N, used = std::min(kPanel, rows - first);
  for (int64_t g = 0; g < kGates; ++g) {
    int64_t n = 0;
    if (used == kPanel) {
      for (; n + S::kWidth <= N; n += S::kWidth, to += S::kWidth * kPanel)
        for (int64_t j = 0; j < kPanel; j += S::kWidth)
          S::transpose(from + (first + j) * kGates * N + g * N + n, kGates * N, to + j, kPanel);
    }
    for (; n < units16(p); ++n, to += kPanel) {
      const float* column = from + first * kGates * N + g * N + n;
      for (int64_t j = 0; j < kPanel; ++j) to[j] = j < used && n < N ? column[j * kGates * N] : 0.0f;
    }
  }
}

// The gradients of the weights from one part of the batch: of the peepholes [3][N], and panels of 16 columns (gate by
// gate) of [D + N + 1][16], the last row for the bias. A direct call writes the latter where they belong.
struct PartGradients {
  float *peephole, *panels;
  PartGradients(const Problem& p, float* part) : peephole(part), panels(part + peephole_size(p)) {}
  static int64_t panel_size(const Problem& p) { return (p.D + p.N + 1) * kPanel; }
  static int64_t panels_size(const Problem& p) { return direct(p) ? 0 : kGates * blocks(p) * panel_size(p); }
  static int64_t peephole_size(const Problem& p) { return p.peephole ? 3 * units16(p) : 0; }
  static int64_t size(const Problem& p) { return Workspace::padded(peephole_size(p) + panels_size(p)); }
};

template <class S>
class BackwardRows {
 public:
  // `add`: the gradients of weights already hold those of another block of rows.
  BackwardRows(const Backward& p, const BackwardWeights& w, const PartGradients& d, Rows rows, bool add, float* scratch)
      : p_(p), w_(w), d_(d), first_(rows.m * p.B + rows.first), member_(rows.m), R_(rows.count),
        m_(weights_member(p, rows.m)), G_(gate_inputs(p)), N16_(units16(p)), lda_(spread(p.D + p.N + 1)),
        ldz_(spread(kGates * units16(p))), steps_(chunk_steps(p, rows.count)), direct_(direct(p)), add_(add) {
    auto take = [&scratch](int64_t n) { return std::exchange(scratch, scratch + Workspace::padded(n)); };
    dh_ = take(R_ * N16_);
    dc_ = take(R_ * N16_);
    dz_ = take(steps_ * R_ * ldz_);
    a_ = take(G_ * steps_ * R_ * lda_);
    product_ = take(std::max(R_ * N16_, steps_ * R_ * round_up(p.D, kPanel)));
    dx_ = take(p.dx ? steps_ * R_ * round_up(p.D, kPanel) : 0);
  }
  static int64_t scratch_size(const Backward& p, int64_t rows) {
    const int64_t n = std::max(rows, kMostChunk), d16 = round_up(p.D, kPanel);
    return rows * 3 * units16(p) + n * (spread(kGates * units16(p)) + gate_inputs(p) * spread(p.D + p.N + 1)) +
           2 * n * d16 + 6 * 16;
  }

  void run() {
    load(dh_, p_.dh);
    load(dc_, p_.dc);
    const bool plain = is_plain(p_);
    for (int64_t step = p_.T - 1, s = 0; step >= 0; --step) {
      for (int64_t r = 0; r < R_; ++r) {
        plain ? gradients<true>(r, step, dz_ + (s * R_ + r) * ldz_) : gradients<false>(r, step, dz_ + (s * R_ + r) * ldz_);
        gate_inputs_of(r, step, s * R_ + r);
      }
      through_recurrent_kernel(dz_ + s * R_ * ldz_);
      if (p_.reset) restart(at(p_, step));
      if (++s == steps_ || step == 0) {
        weight_gradients(s * R_);
        if (p_.dx) input_gradients(step, s);
        s = 0;
      }
    }
    store(p_.dh0, dh_);
    store(p_.dc0, dc_);
  }

 private:
  // Rows of a chunk: its gate gradients are to stay in L2 while all weights' gradients are added up from them; those are
  // read and written once a chunk, which for the widest layers asks for a longer one (at N = 256, 64 rows are 15 % faster
  // than 256; at N = 512 more than 128 cost again).
  static constexpr int64_t kMostChunk = 128;
  static int64_t chunk_steps(const Problem& p, int64_t rows) {
    const int64_t wanted = p.N >= 512 ? kMostChunk : 64;
    return std::min(p.T, std::max<int64_t>(1, wanted / rows));
  }

  void load(float* to, const float* from) {
    for (int64_t r = 0; r < R_; ++r) {
      copy(to + r * N16_, from + (first_ + r) * p_.N, p_.N);
      std::fill(to + r * N16_ + p_.N, to + (r + 1) * N16_, 0.0f);
    }
  }
  void store(float* to, const float* from) {
    for (int64_t r = 0; r < R_; ++r) copy(to + (first_ + r) * p_.N, from + r * N16_, p_.N);
  }

  const float* saved(int64_t row, int64_t t) const {
    return p_.saved + ((member_ * p_.T + t) * p_.B + row - member_ * p_.B) * jlstm::saved_size(p_.N);
  }

  // From the gradient of the state after a step, and of its output, to that of the gates' pre-activations; dc becomes
  // that of the cell before the step, dh what the recurrent product is to be added to.
  template <bool Plain>
  JLSTM_OWN_FUNCTION void gradients(int64_t r, int64_t step, float* dz) {
    using F = typename S::F;
    const int64_t row = first_ + r, t = at(p_, step), N = p_.N;
    const float* now = saved(row, t);
    const float* dy = p_.dy ? p_.dy + (row * p_.T + t) * N : nullptr;
    float* dh = dh_ + r * N16_;
    float* dc = dc_ + r * N16_;
    if (masked(p_, row, t)) {
      if (dy)
        for (int64_t n = 0; n < N; ++n) dh[n] += dy[n];
      std::fill(dz, dz + kGates * N16_, 0.0f);
      return;
    }
    const float* dense = restarts(p_, row, t) ? (p_.reset_c ? p_.reset_c + row * N : nullptr) : p_.c0 + row * N;
    const float* before = restarts(p_, row, t) || step == 0 ? nullptr : saved(row, at(p_, step - 1));
    // The next row's step before this one: its cells are read next, its gates at the next step.
    const bool more = step > 0 && r + 1 < R_;
    const float* next_saved = more ? saved(row + 1, at(p_, step - 1)) : kZeros;
    const float* next_dy = more && dy ? p_.dy + ((row + 1) * p_.T + at(p_, step - 1)) * N : kZeros;
    const F one = S::set(1.0f);
    for (int64_t u = 0; u < N16_; u += S::kWidth) {
      if (more && u % kPanel == 0) {
        for (int64_t n = 0; n < 5; ++n) S::prefetch(next_saved + 5 * u + n * kPanel);
        S::prefetch(next_dy + u);
      }
      const float* gates = now + u / kPanel * 5 * kPanel + u % kPanel;
      const F i = S::load(gates), f = S::load(gates + kPanel), g = S::load(gates + 2 * kPanel),
              o = S::load(gates + 3 * kPanel), c = S::load(gates + 4 * kPanel);
      const F c_old = before  ? S::load(before + u / kPanel * 5 * kPanel + u % kPanel + 4 * kPanel)
                      : dense ? load_part<S>(dense, u, N)
                              : S::zero();
      F dh_u = S::load(dh + u), dc_u = S::load(dc + u);
      if (dy) dh_u = S::add(dh_u, load_part<S>(dy, u, N));
      F dzi, dzf, dzg, dzo;
      if constexpr (Plain) {
        const F th = tanh<S>(c), dh_o = S::mul(dh_u, o);
        dzo = S::mul(S::mul(dh_o, S::sub(one, o)), th);
        dc_u = S::add(dc_u, S::mul(dh_o, S::sub(one, S::mul(th, th))));
        const F dc_i = S::mul(dc_u, i), dc_f = S::mul(dc_u, f);
        dzg = S::mul(dc_i, S::sub(one, S::mul(g, g)));
        dzi = S::mul(S::mul(dc_i, S::sub(one, i)), g);
        dzf = S::mul(S::mul(dc_f, S::sub(one, f)), c_old);
        dc_u = dc_f;
      } else {
        const F th = activate<S>(p_.output, c);
        dzo = times_slope<S>(p_.recurrent, o, S::mul(dh_u, th));
        dc_u = S::add(dc_u, times_slope<S>(p_.output, th, S::mul(dh_u, o)));
        if (p_.peephole) dc_u = S::fma(dzo, peephole(2, u), dc_u);
        F di = S::mul(dc_u, g), df = p_.forget_gate ? S::mul(dc_u, c_old) : S::zero();
        if (p_.coupled == Coupled::kInput) df = S::sub(df, di), di = S::zero();
        if (p_.coupled == Coupled::kForget) di = S::sub(di, df), df = S::zero();
        dzi = times_slope<S>(p_.recurrent, i, di);
        dzf = times_slope<S>(p_.recurrent, f, df);
        dzg = times_slope<S>(p_.activation, g, S::mul(dc_u, i));
        if (p_.forget_gate) dc_u = S::mul(dc_u, f);
        if (p_.peephole) {
          dc_u = S::fma(dzi, peephole(0, u), S::fma(dzf, peephole(1, u), dc_u));
          add_to(d_.peephole + u, S::mul(dzi, c_old));
          add_to(d_.peephole + N16_ + u, S::mul(dzf, c_old));
          add_to(d_.peephole + 2 * N16_ + u, S::mul(dzo, c));
        }
      }
      S::store(dz + u, dzi);
      S::store(dz + N16_ + u, dzf);
      S::store(dz + 2 * N16_ + u, dzg);
      S::store(dz + 3 * N16_ + u, dzo);
      S::store(dc + u, dc_u);
      S::store(dh + u, S::zero());
    }
    // Units past N: where x or h is infinite theirs are NaN (0 times infinity), and would spoil the others' sums.
    if (N < N16_)
      for (int64_t g = 0; g < kGates; ++g) std::fill(dz + g * N16_ + N, dz + (g + 1) * N16_, 0.0f);
  }

  // What the gates read at this step, for the weights' gradients; the bias reads 1.
  void gate_inputs_of(int64_t r, int64_t step, int64_t n) {
    const int64_t row = first_ + r, t = at(p_, step);
    const float* h = restarts(p_, row, t) ? (p_.reset_h ? p_.reset_h + row * p_.N : nullptr)
                     : step == 0          ? p_.h0 + row * p_.N
                                          : p_.y + (row * p_.T + at(p_, step - 1)) * p_.N;
    for (int64_t g = 0; g < G_; ++g) {
      float* a = a_ + (g * steps_ * R_ + n) * lda_;
      gate_input_x(p_, row, t, g, a);
      gate_input_h(p_, row, g, h, a + p_.D);
      a[p_.D + p_.N] = 1.0f;
    }
  }

  // dh += dz @ transpose of the recurrent kernel
  void through_recurrent_kernel(const float* dz) {
    const int64_t panel = BackwardWeights::panel_size(p_);
    if (direct_) {
      const float* w = p_.recurrent_kernel + m_ * p_.N * kGates * p_.N;
      return product_direct_transposed<S>(R_, p_.N, p_.N, dz, ldz_, w, true, dh_, N16_);
    }
    if (!p_.recurrent_mask) {
      product<S>(R_, kGates * N16_, dz, ldz_, w_.recurrent, panel, blocks(p_), {dh_, N16_, kPanel}, dh_, N16_, kPanel);
      return;
    }
    for (int64_t g = 0; g < kGates; ++g) {
      product<S>(R_, N16_, dz + g * N16_, ldz_, w_.recurrent + g * N16_ * kPanel, panel, blocks(p_), {kZeros, 0, 0},
                 product_, N16_, kPanel);
      for (int64_t r = 0; r < R_; ++r) {
        const float* mask = p_.recurrent_mask + ((first_ + r) * kGates + g) * p_.N;
        for (int64_t n = 0; n < p_.N; ++n) dh_[r * N16_ + n] += mask[n] * product_[r * N16_ + n];
      }
    }
  }

  void restart(int64_t t) {
    for (int64_t r = 0; r < R_; ++r) {
      const int64_t row = first_ + r;
      if (!restarts(p_, row, t)) continue;
      for (auto [d, to] : {std::pair{dh_ + r * N16_, p_.dreset_h}, {dc_ + r * N16_, p_.dreset_c}}) {
        if (to)
          for (int64_t n = 0; n < p_.N; ++n) to[row * p_.N + n] += d[n];
        std::fill(d, d + N16_, 0.0f);
      }
    }
  }

  void weight_gradients(int64_t n) {
    if (direct_) {
      const int64_t row = kGates * p_.N;
      outer_direct<S>(n, p_.D, p_.N, a_, lda_, dz_, ldz_, p_.dkernel + member_ * p_.D * row);
      outer_direct<S>(n, p_.N, p_.N, a_ + p_.D, lda_, dz_, ldz_, p_.drecurrent_kernel + member_ * p_.N * row);
      outer_direct<S>(n, 1, p_.N, a_ + p_.D + p_.N, lda_, dz_, ldz_, p_.dbias + member_ * row);
      return;
    }
    const int64_t panel = PartGradients::panel_size(p_);
    for (int64_t g = 0; g < kGates; ++g) {
      product_transposed<S>(n, p_.D + p_.N + 1, a_ + (G_ == 1 ? 0 : g) * steps_ * R_ * lda_, lda_, dz_ + g * N16_, ldz_,
                            blocks(p_), add_, d_.panels + g * blocks(p_) * panel, panel);
    }
    add_ = true;
  }

  // dx of the steps [step, step + steps), the last of which is the first of the chunk
  void input_gradients(int64_t step, int64_t steps) {
    const int64_t D16 = round_up(p_.D, kPanel), n = steps * R_, panel = BackwardWeights::panel_size(p_);
    const int64_t panels = BackwardWeights::kernel_panels(p_);
    if (direct_) {
      product_direct_transposed<S>(n, p_.D, p_.N, dz_, ldz_, p_.kernel + m_ * p_.D * kGates * p_.N, false, dx_, D16);
    } else if (!p_.input_mask) {
      product<S>(n, kGates * N16_, dz_, ldz_, w_.kernel, panel, panels, {kZeros, 0, 0}, dx_, D16, kPanel);
    } else {
      std::fill(dx_, dx_ + n * D16, 0.0f);
      for (int64_t g = 0; g < kGates; ++g) {
        product<S>(n, N16_, dz_ + g * N16_, ldz_, w_.kernel + g * N16_ * kPanel, panel, panels, {kZeros, 0, 0},
                   product_, D16, kPanel);
        for (int64_t i = 0; i < n; ++i) {
          const float* mask = p_.input_mask + ((first_ + i % R_) * kGates + g) * p_.D;
          for (int64_t d = 0; d < p_.D; ++d) dx_[i * D16 + d] += mask[d] * product_[i * D16 + d];
        }
      }
    }
    for (int64_t s = 0; s < steps; ++s) {
      for (int64_t r = 0; r < R_; ++r) {
        const int64_t row = first_ + r, t = at(p_, step + steps - 1 - s);
        copy_or_zero(p_.dx + (row * p_.T + t) * p_.D, masked(p_, row, t) ? nullptr : dx_ + (s * R_ + r) * D16, p_.D);
      }
    }
  }

  typename S::F peephole(int64_t gate, int64_t unit) const {
    return load_part<S>(p_.peephole + (m_ * 3 + gate) * p_.N, unit, p_.N);
  }
  static void add_to(float* p, typename S::F a) { S::store(p, S::add(S::load(p), a)); }

  const Backward& p_;
  const BackwardWeights w_;
  const PartGradients d_;
  const int64_t first_, member_, R_, m_, G_, N16_, lda_, ldz_, steps_;
  const bool direct_;
  bool add_;
  float *dh_, *dc_, *dz_, *a_, *product_, *dx_;
};

// The gradients of one panel of weights: the parts' sums, added up in the order of the parts.
inline void add_parts(const Backward& p, const Parts& parts, int64_t m, int64_t panel, const float* first, int64_t part_size) {
  const int64_t g = panel / blocks(p), b = panel % blocks(p), size = PartGradients::panel_size(p);
  const int64_t used = std::min(kPanel, p.N - b * kPanel), width = kGates * p.N, column = g * p.N + b * kPanel;
  const float* from = first + m * parts.per_member * part_size + PartGradients::peephole_size(p) + panel * size;
  for (int64_t k = 0; k <= p.D + p.N; ++k, from += kPanel) {
    float sum[kPanel];
    copy(sum, from, kPanel);
    for (int64_t i = 1; i < parts.per_member; ++i)
      for (int64_t j = 0; j < kPanel; ++j) sum[j] += from[i * part_size + j];
    float* to = k < p.D         ? p.dkernel + (m * p.D + k) * width
                : k < p.D + p.N ? p.drecurrent_kernel + (m * p.N + k - p.D) * width
                                : p.dbias + m * width;
    copy(to + column, sum, used);
  }
}

inline void add_peephole_parts(const Backward& p, const Parts& parts, int64_t m, const float* first, int64_t part_size) {
  const float* from = first + m * parts.per_member * part_size;
  for (int64_t g = 0; g < 3; ++g) {
    for (int64_t n = 0; n < p.N; ++n) {
      float sum = 0;
      for (int64_t i = 0; i < parts.per_member; ++i) sum += from[i * part_size + g * units16(p) + n];
      p.dpeephole[(m * 3 + g) * p.N + n] = sum;
    }
  }
}

template <class S>
void backward(const Backward& p, const Threads& threads) {
  if (p.M == 0) return;
  const Parts parts(p, threads.count);
  const int64_t members = p.shared ? 1 : p.M, panel = BackwardWeights::panel_size(p);
  const int64_t panels = blocks(p) + BackwardWeights::kernel_panels(p);
  const int64_t most_rows = std::min(kMostRows, (p.B + parts.per_member - 1) / parts.per_member);
  const int64_t scratch = Workspace::padded(BackwardRows<S>::scratch_size(p, most_rows));
  const int64_t part_size = PartGradients::size(p);
  const int64_t weights_size = direct(p) ? 0 : BackwardWeights::size(p);
  Workspace space(members * weights_size + parts.count() * (part_size + scratch));
  float* packed = space.take(members * weights_size);
  float* gradients = space.take(parts.count() * part_size);
  float* rest = space.take(parts.count() * scratch);
  auto weights = [&](int64_t m) {
    float* recurrent = packed + m * weights_size;
    return BackwardWeights{recurrent, recurrent + blocks(p) * panel};
  };
  if (p.dx) jlstm::prefer_huge_pages(p.dx, sizeof(float) * p.M * p.B * p.T * p.D);

  run_parts(threads, parts, weights_size ? members * panels : 0, [&](int64_t i) {
    const int64_t m = i / panels, n = i % panels, of_kernel = n - blocks(p), row = kGates * p.N;
    if (of_kernel < 0) {
      pack_transposed<S>(p, p.recurrent_kernel + m * p.N * row, n * kPanel, p.N, weights(m).recurrent + n * panel);
    } else {
      pack_transposed<S>(p, p.kernel + m * p.D * row, of_kernel * kPanel, p.D, weights(m).kernel + of_kernel * panel);
    }
  });
  run_parts(threads, parts, parts.count(), [&](int64_t i) {
    const Rows rows = parts.rows(i, p.B);
    const PartGradients d(p, gradients + i * part_size);
    if (p.T == 0 || p.B == 0) std::fill_n(d.panels, PartGradients::panels_size(p), 0.0f);
    if (p.peephole) std::fill(d.peephole, d.peephole + 3 * units16(p), 0.0f);
    for (float* reset : {p.dreset_h, p.dreset_c})
      if (reset) std::fill_n(reset + (rows.m * p.B + rows.first) * p.N, rows.count * p.N, 0.0f);
    for_blocks(rows, [&](Rows block) {
      const bool add = block.first != rows.first;
      BackwardRows<S>(p, weights(weights_member(p, rows.m)), d, block, add, rest + i * scratch).run();
    });
  });
  run_parts(threads, parts, direct(p) ? 0 : p.M * kGates * blocks(p), [&](int64_t i) {
    add_parts(p, parts, i / (kGates * blocks(p)), i % (kGates * blocks(p)), gradients, part_size);
  });
  if (p.dpeephole)
    for (int64_t m = 0; m < p.M; ++m) add_peephole_parts(p, parts, m, gradients, part_size);
}

}  // namespace
