// A program that checks the kernels alone, without XLA or Python, for sanitizers to watch:
//
//   g++ -std=c++17 -O1 -g -fsanitize=address,undefined avx2.cc avx512.cc check.cc -pthread && ./a.out [number of cases]
//
// Over generated sizes and options it compares both passes with plain loops in double precision, whose gradients are
// themselves checked against finite differences. Every array is a heap block of exactly its size, outputs and scratch
// memory hold NaN beforehand, and what is not valid of x is NaN. The bits must not depend on which thread does what.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "check_reference.h"
#include "lstm.h"
#include "workspace.h"

namespace {

using jlstm::Backward;
using jlstm::Forward;
using jlstm::Threads;

// float32 against double, relative to the largest entry of an array: sums of some hundred terms, over some forty steps.
constexpr double kTolerance = 2e-5;
// Central differences of step 1e-5 in double: 1e-10 from the step, 1e-11 from rounding, and an order for curvature.
constexpr double kDifferences = 1e-7;

// --- running the kernel ---------------------------------------------------------------------------------------------

struct Results {
  Floats h, c, y, saved;
  Floats dkernel, drecurrent_kernel, dbias, dpeephole, dh0, dc0, dx, dreset_h, dreset_c;

  std::vector<std::pair<const char*, const Floats*>> all() const {
    return {{"h", &h}, {"c", &c}, {"y", &y}, {"dkernel", &dkernel}, {"drecurrent_kernel", &drecurrent_kernel},
            {"dbias", &dbias}, {"dpeephole", &dpeephole}, {"dh0", &dh0}, {"dc0", &dc0}, {"dx", &dx},
            {"dreset_h", &dreset_h}, {"dreset_c", &dreset_c}};
  }
};

// Scratch memory that a call takes over from another then holds NaN, of whatever size it asks for.
void spoil_scratch() {
  std::vector<std::unique_ptr<jlstm::Workspace>> blocks;
  for (size_t floats = size_t{1} << 10; floats <= size_t{1} << 20; floats *= 4) {
    blocks.push_back(std::make_unique<jlstm::Workspace>(floats));
    std::fill_n(blocks.back()->take(0), floats, kNaN);
  }
}

const jlstm::Kernels* under_test;

Results run(const Case& k, const Threads& threads) {
  const Problem& p = k.p;
  const int64_t M = p.M, B = p.B, T = p.T, D = p.D, N = p.N;
  Results r;
  Forward f{};
  static_cast<Problem&>(f) = p;
  r.h = unwritten(M * B * N), r.c = unwritten(M * B * N);
  f.h = r.h.get(), f.c = r.c.get();
  if (k.o.y) {  // as in training
    r.y = unwritten(M * B * T * N), r.saved = unwritten(M * T * B * jlstm::saved_size(N), 64);  // as XLA's
    f.y = r.y.get(), f.saved = r.saved.get();
  }
  under_test->forward(f, threads);
  if (!k.o.y) return r;

  Backward b{};
  static_cast<Problem&>(b) = p;
  r.dkernel = unwritten(M * D * 4 * N), r.drecurrent_kernel = unwritten(M * N * 4 * N), r.dbias = unwritten(M * 4 * N);
  if (k.o.peephole) r.dpeephole = unwritten(M * 3 * N);
  r.dh0 = unwritten(M * B * N), r.dc0 = unwritten(M * B * N);
  if (k.o.dx) r.dx = unwritten(M * B * T * D);
  if (k.o.reset_state) r.dreset_h = unwritten(M * B * N), r.dreset_c = unwritten(M * B * N);
  b.y = r.y.get(), b.saved = r.saved.get(), b.dh = k.dh.get(), b.dc = k.dc.get(), b.dy = k.dy.get();
  b.dkernel = r.dkernel.get(), b.drecurrent_kernel = r.drecurrent_kernel.get(), b.dbias = r.dbias.get();
  b.dpeephole = r.dpeephole.get(), b.dh0 = r.dh0.get(), b.dc0 = r.dc0.get(), b.dx = r.dx.get();
  b.dreset_h = r.dreset_h.get(), b.dreset_c = r.dreset_c.get();
  under_test->backward(b, threads);
  return r;
}

// Each call starts its threads anew; whichever is free takes the next piece.
Threads concurrent(int count) {
  return {count, [count](int64_t pieces, const std::function<void(int64_t)>& work) {
            std::atomic<int64_t> next{0};
            auto help = [&] {
              for (int64_t i; (i = next.fetch_add(1)) < pieces;) work(i);
            };
            std::vector<std::thread> others;
            for (int64_t i = 1; i < std::min<int64_t>(count, pieces); ++i) others.emplace_back(help);
            help();
            for (std::thread& t : others) t.join();
          }};
}

// The pieces one after the other, from the last to the first: another order than threads take.
Threads backwards(int count) {
  return {count, [](int64_t pieces, const std::function<void(int64_t)>& work) {
            for (int64_t i = pieces - 1; i >= 0; --i) work(i);
          }};
}

// --- verdicts -------------------------------------------------------------------------------------------------------

int failures = 0;

void fail(const Case& k, int threads, const std::string& what) {
  if (++failures <= 20) std::printf("FAILED: %s; threads=%d: %s\n", what.c_str(), threads, k.text().c_str());
}

void compare(const Case& k, int threads, const char* name, const Floats& got, const Doubles& expected) {
  if (!got.get()) return;  // not wanted
  double largest = 1e-3, worst = 0;
  for (int64_t i = 0; i < got.n; ++i) {
    const double e = expected[static_cast<size_t>(i)], error = std::fabs(got[i] - e);
    largest = std::max(largest, std::fabs(e));
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  }
  if (!(worst <= kTolerance * largest)) {
    fail(k, threads, std::string(name) + " is off by " + std::to_string(worst / largest) + " of its largest entry");
  }
}

void same_bits(const Case& k, int threads, const Results& a, const Results& b, const char* when) {
  const auto of_a = a.all(), of_b = b.all();
  for (size_t i = 0; i < of_a.size(); ++i) {
    const Floats &u = *of_a[i].second, &v = *of_b[i].second;
    if (u.n && v.n && std::memcmp(u.get(), v.get(), sizeof(float) * static_cast<size_t>(u.n)))
      fail(k, threads, std::string(of_a[i].first) + " has other bits " + when);
  }
}

void check(const Case& k, int threads) {
  spoil_scratch();
  const Results r = run(k, concurrent(threads));
  const Reference e = reference(k, Moved(k));
  const Doubles* expected[] = {&e.h, &e.c, &e.y, &e.dkernel, &e.drecurrent_kernel, &e.dbias, &e.dpeephole,
                               &e.dh0, &e.dc0, &e.dx, &e.dreset_h, &e.dreset_c};
  const auto all = r.all();
  for (size_t i = 0; i < all.size(); ++i) compare(k, threads, all[i].first, *all[i].second, *expected[i]);
  same_bits(k, threads, r, run(k, concurrent(threads)), "when repeated");
  same_bits(k, threads, r, run(k, backwards(threads)), "when the pieces come in another order");
}

// The gradients of the reference against differences of its own loss dh·h + dc·c + dy·y.
void check_reference(const Case& k) {
  auto loss = [&k](const Moved& v) {
    const Reference r = reference(k, v);
    double sum = 0;
    for (size_t i = 0; i < r.h.size(); ++i)
      sum += k.dh[static_cast<int64_t>(i)] * r.h[i] + k.dc[static_cast<int64_t>(i)] * r.c[i];
    for (size_t i = 0; k.o.dy && i < r.y.size(); ++i) sum += k.dy[static_cast<int64_t>(i)] * r.y[i];
    return sum;
  };
  Moved v(k);
  const Reference r = reference(k, v);
  auto of = [&](const char* name, Doubles& values, const Doubles& gradient, int64_t members) {
    const size_t n = values.size();  // with shared parameters the gradients of the members add up
    for (size_t i = 0; i < n; i += std::max<size_t>(1, n / 7)) {
      if (std::isnan(values[i])) continue;  // padding
      double got = 0;
      for (int64_t m = 0; m < members; ++m) got += gradient[static_cast<size_t>(m) * n + i];
      const double step = 1e-5, before = values[i];
      values[i] = before + step;
      const double above = loss(v);
      values[i] = before - step;
      const double difference = (above - loss(v)) / (2 * step);
      values[i] = before;
      if (!(std::fabs(difference - got) <= kDifferences * std::max(1.0, std::fabs(got))))
        fail(k, 0, std::string("the reference's gradient of ") + name + " is not its difference quotient");
    }
  };
  const int64_t members = k.p.shared ? k.p.M : 1;
  of("kernel", v.kernel, r.dkernel, members), of("recurrent_kernel", v.recurrent_kernel, r.drecurrent_kernel, members);
  of("bias", v.bias, r.dbias, members), of("peephole", v.peephole, r.dpeephole, members);
  of("h0", v.h0, r.dh0, 1), of("c0", v.c0, r.dc0, 1), of("x", v.x, r.dx, 1);
  of("reset_h", v.reset_h, r.dreset_h, 1), of("reset_c", v.reset_c, r.dreset_c, 1);
}

// --- what is checked ------------------------------------------------------------------------------------------------

template <size_t n>
int64_t one_of(Random& random, const int64_t (&values)[n]) {
  return values[below(random, n)];
}

Activation any_activation(Random& random) {
  const Act kind = static_cast<Act>(below(random, 7));
  return kind == Act::kHardSigmoid ? Activation{kind, 0.3f, 0.4f} : Activation{kind};
}

bool unbounded(const Activation& a) { return a.kind == Act::kLinear || a.kind == Act::kRelu; }

Options any_options(Random& random, bool reverse) {
  Options o;
  o.bias = chance(random, 0.7), o.mask = chance(random, 0.4), o.reset = !reverse && chance(random, 0.4);
  o.reset_state = o.reset && chance(random, 0.6);
  o.input_mask = chance(random, 0.2), o.recurrent_mask = chance(random, 0.2);
  o.peephole = chance(random, 0.3);
  o.y = chance(random, 0.85), o.dy = chance(random, 0.8), o.dx = chance(random, 0.8);
  return o;
}

// Half of the cases are the plain cell, which has code of its own.
void any_cell(Random& random, Problem& p, Options& o) {
  p.reverse = chance(random, 0.3);
  o = any_options(random, p.reverse);
  if (chance(random, 0.5)) {
    o.peephole = false;
    return;
  }
  p.activation = any_activation(random), p.recurrent = any_activation(random), p.output = any_activation(random);
  p.forget_gate = chance(random, 0.8);
  if (p.forget_gate && chance(random, 0.4)) p.coupled = chance(random, 0.5) ? Coupled::kInput : Coupled::kForget;
  // gates without bounds grow as a power of a power of the number of steps
  if (unbounded(p.recurrent) || (unbounded(p.activation) && unbounded(p.output))) p.T = std::min<int64_t>(p.T, 4);
}

Problem any_size(Random& random) {
  static const int64_t members[] = {1, 1, 1, 2, 3, 5};
  static const int64_t rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 19, 25, 40, 97};
  static const int64_t steps[] = {1, 2, 3, 5, 8, 31, 32, 33, 40};
  static const int64_t inputs[] = {1, 2, 3, 5, 6, 7, 8, 9, 15, 16, 17, 31, 33, 96};
  static const int64_t units[] = {1, 2, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 47, 64, 70};
  for (;;) {
    Problem p{};
    p.M = one_of(random, members), p.B = one_of(random, rows), p.T = one_of(random, steps);
    p.D = one_of(random, inputs), p.N = one_of(random, units);
    p.shared = p.M == 1 || chance(random, 0.3);
    if (p.M * p.B * p.T * p.N * (p.D + p.N) < 600000) return p;  // the reference takes 1 ns or so for each of them
  }
}

constexpr int kThreads[] = {1, 2, 3, 5};  // also more than there are processors

void generated(int count) {
  for (int seed = 0; seed < count; ++seed) {
    Random random(static_cast<uint32_t>(seed));
    Problem p = any_size(random);
    Options o;
    any_cell(random, p, o);
    check(Case(p, o, random), kThreads[seed % 4]);
  }
}

// Sizes at which the kernel takes another way: chunks of steps, sums in pieces, blocks of rows, row lengths of 128.
void particular() {
  struct Size {
    int64_t M, B, T, D, N;
  };
  const Size sizes[] = {
      {1, 1, 70, 3, 33},   // input products of 32 steps as one
      {1, 2, 33, 40, 24},  // likewise
      {1, 7, 2, 760, 12},  // sums of more than 768
      {1, 1, 3, 770, 9},
      {1, 200, 3, 2, 17},  // blocks of at most 96 rows
      {1, 97, 6, 5, 8},
      {1, 13, 4, 3, 208},  // sums of more than 768 in the backward pass
      {1, 5, 3, 2, 260},   // wide: longer chunks
      {1, 3, 90, 1, 16},   // several chunks of steps
      {1, 5, 60, 7, 9},
      {1, 4, 5, 96, 32},  // D + N = 128
      {1, 4, 5, 128, 32},
      {5, 5, 9, 3, 20},
      {8, 3, 11, 2, 32},
      {1, 1, 1, 5, 33},    // weights as they lie
      {2, 4, 2, 7, 19},
      {1, 8, 1, 21, 48},
      {3, 1, 5, 2, 16},
      {1, 64, 80, 2, 96},  // what is saved goes past the caches, its pages are touched first
  };
  uint32_t seed = 1000;
  for (const Size& s : sizes) {
    for (int way = 0; way < 3; ++way) {
      Random random(seed++);
      Problem p{};
      p.M = s.M, p.B = s.B, p.T = s.T, p.D = s.D, p.N = s.N, p.shared = s.M == 1;
      Options o;
      o.mask = way > 0, o.reset = o.reset_state = way == 1, p.reverse = way == 2;
      o.input_mask = o.recurrent_mask = way == 2;
      check(Case(p, o, random), kThreads[seed % 4]);
    }
  }
}

// No row, or no step: the state passes, gradients of weights are zeros.
void nothing() {
  Random random(1);
  for (int way = 0; way < 6; ++way) {
    Problem p{};
    p.M = 2, p.B = way % 2 ? 0 : 3, p.T = way % 2 ? 4 : 0, p.D = 3, p.N = 5, p.shared = way % 3 == 0;
    Options o;
    o.peephole = o.mask = o.reset = o.reset_state = way >= 2;
    o.input_mask = o.recurrent_mask = way >= 4;
    check(Case(p, o, random), 1 + way % 3);
  }
}

// Calls at the same time share nothing but the list of free scratch memory.
void at_once() {
  Random random(7);
  Problem p{};
  p.M = 2, p.B = 13, p.T = 12, p.D = 5, p.N = 33;
  Options o;
  o.mask = o.reset = true;
  const Case k(p, o, random);
  const Results expected = run(k, concurrent(2));
  std::vector<Results> got(4);
  std::vector<std::thread> callers;
  for (Results& r : got) {
    callers.emplace_back([&] {
      for (int i = 0; i < 5; ++i) r = run(k, concurrent(2));
    });
  }
  for (std::thread& t : callers) t.join();
  for (const Results& r : got) same_bits(k, 2, r, expected, "when others compute at the same time");
}

void references() {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    Random random(2000 + seed);
    Problem p{};
    p.M = 1 + below(random, 2), p.B = 2, p.T = 4, p.D = 2, p.N = 3, p.shared = chance(random, 0.5);
    Options o;
    any_cell(random, p, o);
    check_reference(Case(p, o, random));
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int count = argc > 1 ? std::atoi(argv[1]) : 300;
  references();
  for (const jlstm::Kernels* kernels : {jlstm::avx2(), jlstm::avx512()}) {
    if (!kernels) continue;
    under_test = kernels;
    particular();
    nothing();
    at_once();
    generated(count);
    std::printf("%s: %d generated cases, %d failures\n", kernels->name, count, failures);
  }
  if (!under_test) std::printf("skipped: no kernel for this processor\n");
  return failures ? 1 : 0;
}
