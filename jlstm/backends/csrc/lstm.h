// The problem that the kernel solves, as plain pointers and sizes: no XLA and no instruction set in here.
//
// Axes as everywhere in jlstm: M members (parameter sets), B batch, T time, D input width, N units. Gates along 4N in
// the order i, f, g, o. All arrays are dense, row-major float32; a null pointer is an option that is off.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace jlstm {

// What an activation is computed by; its derivative is a function of its output for each of them.
enum class Act : int64_t { kTanh, kSigmoid, kLinear, kRelu, kHardTanh, kSoftsign, kHardSigmoid };

struct Activation {
  Act kind;
  float alpha = 0, beta = 0;  // of kHardSigmoid: clip(alpha x + beta, 0, 1)
};

enum class Coupled : int64_t { kNone, kInput, kForget };  // kInput: i = 1 - f; kForget: f = 1 - i

struct Problem {
  int64_t M, B, T, D, N;
  bool shared;   // the parameter arrays have one member for all M
  bool reverse;  // from the last time step to the first
  Activation activation{Act::kTanh}, recurrent{Act::kSigmoid}, output{Act::kTanh};
  Coupled coupled = Coupled::kNone;
  bool forget_gate = true;

  const float* kernel;            // [M, D, 4N]
  const float* recurrent_kernel;  // [M, N, 4N]
  const float* bias;              // [M, 4N] or null
  const float* peephole;          // [M, 3, N] in the order i, f, o, or null
  const float* h0;                // [M, B, N]
  const float* c0;                // [M, B, N]
  const float* x;                 // [M, B, T, D]
  const uint8_t* mask;            // [M, B, T] or null; 0 keeps the state
  const uint8_t* reset;           // [M, B, T] or null; 1 starts the step from reset_h, reset_c (zeros where null)
  const float* reset_h;           // [M, B, N] or null
  const float* reset_c;
  const float* input_mask;      // [M, B, 4, D] or null: dropout of what each gate reads of x
  const float* recurrent_mask;  // [M, B, 4, N] or null: of what each gate reads of h
};

struct Forward : Problem {
  float* h;      // [M, B, N]
  float* c;      // [M, B, N]
  float* y;      // [M, B, T, N] or null: h after each step
  float* saved;  // [M, T, B, saved_size(N)] or null: i, f, g, o, c of each step, for the backward pass
};

struct Backward : Problem {
  const float* y;      // as the forward pass left them
  const float* saved;
  const float* dh;  // [M, B, N]: gradient of the last state
  const float* dc;  // [M, B, N]
  const float* dy;  // [M, B, T, N] or null

  float* dkernel;            // [M, D, 4N]: with shared parameters too, one a member
  float* drecurrent_kernel;  // [M, N, 4N]
  float* dbias;              // [M, 4N]
  float* dpeephole;          // [M, 3, N] or null
  float* dh0;                // [M, B, N]
  float* dc0;                // [M, B, N]
  float* dx;                 // [M, B, T, D] or null
  float* dreset_h;           // [M, B, N] or null
  float* dreset_c;           // [M, B, N] or null
};

constexpr int64_t kPanel = 16;  // columns of a packed panel of weights: two AVX vectors, four of NEON, one of AVX-512

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Floats that the forward pass saves for one time step of one row: [N / 16, (i, f, g, o, c), 16].
constexpr int64_t saved_size(int64_t N) { return 5 * round_up(N, kPanel); }

// Something that runs work(0) to work(count - 1), on several threads or one, and returns when all are done.
struct Threads {
  int count;
  std::function<void(int64_t count, const std::function<void(int64_t)>& work)> run;
};

using ForwardFn = void(const Forward&, const Threads&);
using BackwardFn = void(const Backward&, const Threads&);

// The kernels of one instruction set, which avx2() and avx512() give where this build has them and the processor can
// run them, and otherwise null.
struct Kernels {
  const char* name;
  ForwardFn* forward;
  BackwardFn* backward;
};
const Kernels* avx2();
const Kernels* avx512();

// The best for this processor, or null.
inline const Kernels* kernels() {
  const Kernels* widest = avx512();
  return widest ? widest : avx2();
}

}  // namespace jlstm
