// What check.cc holds the kernels against: cases with arrays of exactly their size, and plain loops in double precision.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "lstm.h"

namespace {

using jlstm::Act;
using jlstm::Activation;
using jlstm::Coupled;
using jlstm::Problem;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// --- arrays ---------------------------------------------------------------------------------------------------------

// A heap block of exactly n entries, so that AddressSanitizer sees the first byte past its end.
template <class T>
struct Array {
  struct Delete {
    size_t alignment = 1;
    void operator()(T* p) const { ::operator delete[](p, std::align_val_t{alignment}); }
  };
  std::unique_ptr<T[], Delete> p;
  int64_t n = 0;

  Array() = default;
  explicit Array(int64_t n, size_t alignment = alignof(std::max_align_t))
      : p(static_cast<T*>(::operator new[](static_cast<size_t>(n) * sizeof(T), std::align_val_t{alignment})), {alignment}),
        n(n) {}
  Array(const Array& o) : Array(o.n) { std::copy_n(o.p.get(), n, p.get()); }
  Array& operator=(Array&&) = default;
  Array(Array&&) = default;
  T* get() const { return n ? p.get() : nullptr; }
  T& operator[](int64_t i) const { return p[static_cast<size_t>(i)]; }
};
using Floats = Array<float>;
using Doubles = std::vector<double>;

Floats unwritten(int64_t n, size_t alignment = alignof(std::max_align_t)) {
  Floats a(n, alignment);
  std::fill_n(a.p.get(), n, kNaN);
  return a;
}

// --- cases ----------------------------------------------------------------------------------------------------------

struct Options {
  bool bias = true, peephole = false, mask = false, reset = false, reset_state = false;
  bool input_mask = false, recurrent_mask = false;
  bool y = true, dy = true, dx = true;  // wanted, given, wanted
};

using Random = std::mt19937;
int64_t below(Random& random, int64_t n) { return static_cast<int64_t>(random() % static_cast<uint64_t>(n)); }
bool chance(Random& random, double p) { return static_cast<double>(random()) < p * 4294967296.0; }

Floats drawn(Random& random, int64_t n, float scale) {
  Floats a(n);
  for (int64_t i = 0; i < n; ++i) a[i] = scale * (static_cast<float>(random()) / 2147483648.0f - 1.0f);
  return a;
}

// A problem and the arrays that it points to.
struct Case {
  Problem p{};
  Options o;
  Floats kernel, recurrent_kernel, bias, peephole, h0, c0, x, reset_h, reset_c, input_mask, recurrent_mask, dh, dc, dy;
  Array<uint8_t> mask, reset;

  Case(const Problem& problem, const Options& options, Random& random) : p(problem), o(options) {
    const int64_t M = p.M, B = p.B, T = p.T, D = p.D, N = p.N, W = p.shared ? 1 : M;
    const float scale = 1.0f / std::sqrt(static_cast<float>(D + N));
    kernel = drawn(random, W * D * 4 * N, scale);
    recurrent_kernel = drawn(random, W * N * 4 * N, scale);
    if (o.bias) bias = drawn(random, W * 4 * N, 0.5f);
    if (o.peephole) peephole = drawn(random, W * 3 * N, 0.3f);
    h0 = drawn(random, M * B * N, 0.5f), c0 = drawn(random, M * B * N, 0.5f);
    x = drawn(random, M * B * T * D, 1.5f);
    if (o.mask) mask = Array<uint8_t>(M * B * T);
    for (int64_t i = 0; i < mask.n; ++i) {
      mask[i] = chance(random, 0.6);
      if (!mask[i]) std::fill_n(x.get() + i * D, D, kNaN);
    }
    if (o.reset) reset = Array<uint8_t>(M * B * T);
    for (int64_t i = 0; i < reset.n; ++i) reset[i] = chance(random, 0.2);
    if (o.reset_state) reset_h = drawn(random, M * B * N, 0.5f), reset_c = drawn(random, M * B * N, 0.5f);
    auto dropout = [&](int64_t n) {
      Floats a(n);
      for (int64_t i = 0; i < n; ++i) a[i] = chance(random, 0.7) ? 1 / 0.7f : 0.0f;
      return a;
    };
    if (o.input_mask) input_mask = dropout(M * B * 4 * D);
    if (o.recurrent_mask) recurrent_mask = dropout(M * B * 4 * N);
    dh = drawn(random, M * B * N, 1), dc = drawn(random, M * B * N, 1);
    if (o.dy) dy = drawn(random, M * B * T * N, 1);
    point();
  }
  Case(const Case&) = delete;

  void point() {
    p.kernel = kernel.get(), p.recurrent_kernel = recurrent_kernel.get(), p.bias = bias.get();
    p.peephole = peephole.get(), p.h0 = h0.get(), p.c0 = c0.get(), p.x = x.get();
    p.mask = mask.get(), p.reset = reset.get(), p.reset_h = reset_h.get(), p.reset_c = reset_c.get();
    p.input_mask = input_mask.get(), p.recurrent_mask = recurrent_mask.get();
  }

  std::string text() const {
    std::string s = "M=" + std::to_string(p.M) + " B=" + std::to_string(p.B) + " T=" + std::to_string(p.T) +
                    " D=" + std::to_string(p.D) + " N=" + std::to_string(p.N);
    auto add = [&s](bool on, const std::string& name) { s += on ? " " + name : ""; };
    add(p.shared, "shared"), add(p.reverse, "reverse"), add(!o.bias, "no-bias"), add(o.peephole, "peephole");
    add(o.mask, "mask"), add(o.reset, "reset"), add(o.reset_state, "reset-state"), add(o.input_mask, "input-mask");
    add(o.recurrent_mask, "recurrent-mask"), add(!o.y, "no-y"), add(!o.dy, "no-dy"), add(!o.dx, "no-dx");
    add(p.coupled == Coupled::kInput, "coupled=input"), add(p.coupled == Coupled::kForget, "coupled=forget");
    add(!p.forget_gate, "no-forget-gate");
    for (const Activation& a : {p.activation, p.recurrent, p.output}) s += " act" + std::to_string(int(a.kind));
    return s;
  }
};

// --- the reference: one unit at a time, in double -------------------------------------------------------------------

double activate(const Activation& a, double x) {
  switch (a.kind) {
    case Act::kTanh: return std::tanh(x);
    case Act::kSigmoid: return 1 / (1 + std::exp(-x));
    case Act::kLinear: return x;
    case Act::kRelu: return std::max(x, 0.0);
    case Act::kHardTanh: return std::min(std::max(x, -1.0), 1.0);
    case Act::kSoftsign: return x / (1 + std::fabs(x));
    case Act::kHardSigmoid: return std::min(std::max(a.alpha * x + a.beta, 0.0), 1.0);
  }
  std::abort();
}

// The derivative, as a function of x.
double slope(const Activation& a, double x) {
  switch (a.kind) {
    case Act::kTanh: return 1 - std::tanh(x) * std::tanh(x);
    case Act::kSigmoid: return std::exp(-x) / ((1 + std::exp(-x)) * (1 + std::exp(-x)));
    case Act::kLinear: return 1;
    case Act::kRelu: return x > 0;
    case Act::kHardTanh: return std::fabs(x) < 1;
    case Act::kSoftsign: return 1 / ((1 + std::fabs(x)) * (1 + std::fabs(x)));
    case Act::kHardSigmoid: return a.alpha * x + a.beta > 0 && a.alpha * x + a.beta < 1 ? a.alpha : 0;
  }
  std::abort();
}

struct Reference {
  Doubles h, c, y;
  Doubles dkernel, drecurrent_kernel, dbias, dpeephole, dh0, dc0, dx, dreset_h, dreset_c;
};

// What one unit computed at one step.
struct Unit {
  double z[4], i, f, g, o, c, c_old;
};

// The case with some of its arrays in double, for finite differences to move.
struct Moved {
  Doubles kernel, recurrent_kernel, bias, peephole, h0, c0, x, reset_h, reset_c;

  explicit Moved(const Case& k) {
    auto copy = [](const Floats& from, Doubles& to) {
      to.assign(from.get(), from.get() + from.n);  // a null range is empty
    };
    copy(k.kernel, kernel), copy(k.recurrent_kernel, recurrent_kernel), copy(k.bias, bias), copy(k.peephole, peephole);
    copy(k.h0, h0), copy(k.c0, c0), copy(k.x, x), copy(k.reset_h, reset_h), copy(k.reset_c, reset_c);
  }
};

Reference reference(const Case& k, const Moved& v) {
  const Problem& p = k.p;
  const int64_t M = p.M, B = p.B, T = p.T, D = p.D, N = p.N, G = 4 * N;
  Reference r;
  r.h.resize(M * B * N), r.c.resize(M * B * N), r.y.resize(M * B * T * N);
  r.dkernel.resize(M * D * G), r.drecurrent_kernel.resize(M * N * G), r.dbias.resize(M * G);
  r.dpeephole.resize(k.o.peephole ? M * 3 * N : 0), r.dh0.resize(M * B * N), r.dc0.resize(M * B * N);
  r.dx.resize(M * B * T * D);
  r.dreset_h.resize(v.reset_h.size()), r.dreset_c.resize(v.reset_c.size());

  std::vector<Unit> units(T * N);
  Doubles h_before(T * N), h(N), c(N), h_new(N), c_new(N), dz(G);
  for (int64_t row = 0; row < M * B; ++row) {
    const int64_t m = row / B, w = p.shared ? 0 : m;
    const double* kernel = v.kernel.data() + w * D * G;
    const double* recurrent = v.recurrent_kernel.data() + w * N * G;
    auto peephole = [&](int64_t gate, int64_t n) {
      return v.peephole.empty() ? 0.0 : v.peephole[static_cast<size_t>((w * 3 + gate) * N + n)];
    };
    auto input_mask = [&](int64_t g, int64_t d) { return p.input_mask ? p.input_mask[(row * 4 + g) * D + d] : 1.0; };
    auto recurrent_mask = [&](int64_t g, int64_t n) {
      return p.recurrent_mask ? p.recurrent_mask[(row * 4 + g) * N + n] : 1.0;
    };
    auto valid = [&](int64_t t) { return !p.mask || p.mask[row * T + t]; };
    auto restarts = [&](int64_t t) { return p.reset && p.reset[row * T + t]; };

    std::copy_n(v.h0.data() + row * N, N, h.data());
    std::copy_n(v.c0.data() + row * N, N, c.data());
    for (int64_t s = 0; s < T; ++s) {
      const int64_t t = p.reverse ? T - 1 - s : s;
      if (restarts(t)) {
        for (int64_t n = 0; n < N; ++n) {
          h[n] = v.reset_h.empty() ? 0 : v.reset_h[row * N + n];
          c[n] = v.reset_c.empty() ? 0 : v.reset_c[row * N + n];
        }
      }
      std::copy_n(h.data(), N, h_before.data() + s * N);
      for (int64_t n = 0; n < N && valid(t); ++n) {
        Unit& u = units[s * N + n];
        for (int64_t g = 0; g < 4; ++g) {
          double z = v.bias.empty() ? 0 : v.bias[w * G + g * N + n];
          for (int64_t d = 0; d < D; ++d)
            z += input_mask(g, d) * v.x[(row * T + t) * D + d] * kernel[d * G + g * N + n];
          for (int64_t j = 0; j < N; ++j) z += recurrent_mask(g, j) * h[j] * recurrent[j * G + g * N + n];
          u.z[g] = z;
        }
        u.c_old = c[n];
        u.z[0] += peephole(0, n) * c[n], u.z[1] += peephole(1, n) * c[n];
        u.i = activate(p.recurrent, u.z[0]), u.f = activate(p.recurrent, u.z[1]), u.g = activate(p.activation, u.z[2]);
        if (p.coupled == Coupled::kInput) u.i = 1 - u.f;
        if (p.coupled == Coupled::kForget) u.f = 1 - u.i;
        if (!p.forget_gate) u.f = 1;
        c_new[n] = u.c = u.f * c[n] + u.i * u.g;
        u.z[3] += peephole(2, n) * u.c;
        u.o = activate(p.recurrent, u.z[3]);
        h_new[n] = u.o * activate(p.output, u.c);
      }
      if (valid(t)) h = h_new, c = c_new;
      std::copy_n(h.data(), N, r.y.data() + (row * T + t) * N);
    }
    std::copy_n(h.data(), N, r.h.data() + row * N);
    std::copy_n(c.data(), N, r.c.data() + row * N);

    Doubles dh(k.dh.get() + row * N, k.dh.get() + row * N + N), dc(k.dc.get() + row * N, k.dc.get() + row * N + N);
    for (int64_t s = T - 1; s >= 0; --s) {
      const int64_t t = p.reverse ? T - 1 - s : s;
      if (k.o.dy)
        for (int64_t n = 0; n < N; ++n) dh[n] += k.dy[(row * T + t) * N + n];
      if (valid(t)) {
        for (int64_t n = 0; n < N; ++n) {
          const Unit& u = units[s * N + n];
          dz[3 * N + n] = dh[n] * activate(p.output, u.c) * slope(p.recurrent, u.z[3]);
          double d = dc[n] + dh[n] * u.o * slope(p.output, u.c) + dz[3 * N + n] * peephole(2, n);
          double di = d * u.g, df = p.forget_gate ? d * u.c_old : 0;
          if (p.coupled == Coupled::kInput) df -= di, di = 0;
          if (p.coupled == Coupled::kForget) di -= df, df = 0;
          dz[n] = di * slope(p.recurrent, u.z[0]);
          dz[N + n] = df * slope(p.recurrent, u.z[1]);
          dz[2 * N + n] = d * u.i * slope(p.activation, u.z[2]);
          dc[n] = d * u.f + dz[n] * peephole(0, n) + dz[N + n] * peephole(1, n);
          dh[n] = 0;
          if (k.o.peephole) {
            r.dpeephole[(m * 3 + 0) * N + n] += dz[n] * u.c_old;
            r.dpeephole[(m * 3 + 1) * N + n] += dz[N + n] * u.c_old;
            r.dpeephole[(m * 3 + 2) * N + n] += dz[3 * N + n] * u.c;
          }
        }
        for (int64_t n = 0; n < G; ++n) {
          const int64_t g = n / N;
          r.dbias[m * G + n] += dz[n];
          for (int64_t d = 0; d < D; ++d) {
            const double x = v.x[(row * T + t) * D + d] * input_mask(g, d);
            r.dkernel[(m * D + d) * G + n] += x * dz[n];
            r.dx[(row * T + t) * D + d] += input_mask(g, d) * kernel[d * G + n] * dz[n];
          }
          for (int64_t j = 0; j < N; ++j) {
            r.drecurrent_kernel[(m * N + j) * G + n] += h_before[s * N + j] * recurrent_mask(g, j) * dz[n];
            dh[j] += recurrent_mask(g, j) * recurrent[j * G + n] * dz[n];
          }
        }
      }
      if (restarts(t)) {
        for (int64_t n = 0; n < N; ++n) {
          if (!r.dreset_h.empty()) r.dreset_h[row * N + n] += dh[n];
          if (!r.dreset_c.empty()) r.dreset_c[row * N + n] += dc[n];
          dh[n] = dc[n] = 0;
        }
      }
    }
    std::copy_n(dh.data(), N, r.dh0.data() + row * N);
    std::copy_n(dc.data(), N, r.dc0.data() + row * N);
  }
  return r;
}

}  // namespace
