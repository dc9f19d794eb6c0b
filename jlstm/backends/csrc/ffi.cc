// The kernel behind XLA's foreign function interface: buffers to pointers, XLA's thread pool to Threads.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <utility>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "lstm.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using jlstm::Activation;
using jlstm::Backward;
using jlstm::Forward;
using jlstm::Problem;
using jlstm::Threads;

// How this thread rounds and treats denormals, which the threads that help it shall do likewise.
#if defined(__x86_64__)
using FloatMode = unsigned;
FloatMode float_mode() { return _mm_getcsr() & 0xffc0; }
FloatMode set_float_mode(FloatMode mode) {
  const FloatMode before = float_mode();
  if (mode != before) _mm_setcsr((_mm_getcsr() & ~0xffc0u) | mode);
  return before;
}
void pause() { _mm_pause(); }
#else
using FloatMode = int;
FloatMode float_mode() { return 0; }
FloatMode set_float_mode(FloatMode mode) { return mode; }
void pause() {}
#endif

// One call of Threads::run. Whoever is free takes the next piece, the caller too, so that a pool that is busy or does
// not come delays nobody: the caller waits only for pieces that a thread is working on.
struct Job {
  const std::function<void(int64_t)>* work;  // lives as long as the caller waits
  const int64_t count;
  const FloatMode mode;
  std::atomic<int64_t> next{0}, done{0};
  std::mutex mutex;
  std::condition_variable finished;

  Job(const std::function<void(int64_t)>& work, int64_t count) : work(&work), count(count), mode(float_mode()) {}

  void help() {
    const FloatMode before = set_float_mode(mode);
    for (int64_t i; (i = next.fetch_add(1)) < count;) {
      (*work)(i);
      if (done.fetch_add(1) + 1 == count) {
        std::lock_guard<std::mutex> lock(mutex);
        finished.notify_one();
      }
    }
    set_float_mode(before);
  }
  void wait() {
    for (int spin = 0; spin < 2000 && done.load() < count; ++spin) pause();  // some 20 us: less than a sleep costs
    if (done.load() == count) return;
    std::unique_lock<std::mutex> lock(mutex);
    finished.wait(lock, [this] { return done.load() == count; });
  }
};

// Not more threads than processors that this thread may run on: an affinity set after XLA made its pool counts too.
int allowed_processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
#endif
  return 1 << 16;  // unknown: the pool's size decides; also where there are more than a cpu_set_t can tell
}

Threads threads_of(ffi::ThreadPool& pool) {
  const int64_t count = std::max<int64_t>(1, std::min<int64_t>(pool.num_threads(), allowed_processors()));
  return {static_cast<int>(count), [&pool, count](int64_t pieces, const std::function<void(int64_t)>& work) {
            auto job = std::make_shared<Job>(work, pieces);
            for (int64_t i = 1; i < std::min(count, pieces); ++i) pool.Schedule([job] { job->help(); });
            job->help();
            job->wait();
          }};
}

// The numbers of a buffer, or null where it is empty: an option that is off.
template <class T>
T* numbers_of(const ffi::AnyBuffer& b, ffi::DataType type) {
  if (b.element_type() != type) throw std::invalid_argument("jlstm: an operand of another dtype than the kernel's");
  return b.element_count() ? static_cast<T*>(b.untyped_data()) : nullptr;
}

// The operands in turn.
class Operands {
 public:
  explicit Operands(ffi::RemainingArgs args) : args_(args) {}
  ffi::AnyBuffer next() { return args_.get<ffi::AnyBuffer>(n_++).value(); }
  const float* floats() { return numbers_of<const float>(next(), ffi::F32); }
  const uint8_t* bools() { return numbers_of<const uint8_t>(next(), ffi::PRED); }

 private:
  ffi::RemainingArgs args_;
  size_t n_ = 0;
};

class Results {
 public:
  explicit Results(ffi::RemainingRets rets) : rets_(rets) {}
  float* floats() { return numbers_of<float>(*rets_.get<ffi::AnyBuffer>(n_++).value(), ffi::F32); }

 private:
  ffi::RemainingRets rets_;
  size_t n_ = 0;
};

// The 13 operands that both passes begin with, and what `options` says, in the order in which cpu.py writes it.
void read_problem(Operands& in, ffi::Span<const int64_t> options, ffi::Span<const float> numbers, Problem& p) {
  const ffi::AnyBuffer kernel = in.next();
  p.kernel = numbers_of<const float>(kernel, ffi::F32);
  p.recurrent_kernel = in.floats();
  p.bias = in.floats();
  p.peephole = in.floats();
  p.h0 = in.floats();
  p.c0 = in.floats();
  const ffi::AnyBuffer x = in.next();
  p.x = numbers_of<const float>(x, ffi::F32);
  p.mask = in.bools();
  p.reset = in.bools();
  p.reset_h = in.floats();
  p.reset_c = in.floats();
  p.input_mask = in.floats();
  p.recurrent_mask = in.floats();

  p.M = x.dimensions()[0], p.B = x.dimensions()[1], p.T = x.dimensions()[2], p.D = x.dimensions()[3];
  p.N = kernel.dimensions()[2] / 4;
  p.shared = kernel.dimensions()[0] == 1;
  auto activation = [&](int n) {
    return Activation{static_cast<jlstm::Act>(options[n]), numbers[2 * n], numbers[2 * n + 1]};
  };
  p.activation = activation(0);
  p.recurrent = activation(1);
  p.output = activation(2);
  p.reverse = options[3] != 0;
  p.coupled = static_cast<jlstm::Coupled>(options[4]);
  p.forget_gate = options[5] != 0;
}

template <class Fn>
ffi::Error run(Fn&& kernel) {
  try {
    kernel();
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "jlstm: no memory for the packed weights and the scratch space");
  } catch (const std::invalid_argument& error) {
    return ffi::Error(ffi::ErrorCode::kInvalidArgument, error.what());
  }
  return ffi::Error::Success();
}

ffi::Error forward(ffi::ThreadPool pool, ffi::Span<const int64_t> options, ffi::Span<const float> numbers,
                   ffi::RemainingArgs args, ffi::RemainingRets rets) {
  return run([&] {
    Operands in(args);
    Results out(rets);
    Forward p{};
    read_problem(in, options, numbers, p);
    p.h = out.floats();
    p.c = out.floats();
    p.y = out.floats();
    p.saved = out.floats();
    jlstm::kernels()->forward(p, threads_of(pool));
  });
}

ffi::Error backward(ffi::ThreadPool pool, ffi::Span<const int64_t> options, ffi::Span<const float> numbers,
                    ffi::RemainingArgs args, ffi::RemainingRets rets) {
  return run([&] {
    Operands in(args);
    Results out(rets);
    Backward p{};
    read_problem(in, options, numbers, p);
    p.y = in.floats();
    p.saved = in.floats();
    p.dh = in.floats();
    p.dc = in.floats();
    p.dy = in.floats();
    p.dkernel = out.floats();
    p.drecurrent_kernel = out.floats();
    p.dbias = out.floats();
    p.dpeephole = out.floats();
    p.dh0 = out.floats();
    p.dc0 = out.floats();
    p.dx = out.floats();
    p.dreset_h = out.floats();
    p.dreset_c = out.floats();
    jlstm::kernels()->backward(p, threads_of(pool));
  });
}

auto binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Attr<ffi::Span<const int64_t>>("options")
      .Attr<ffi::Span<const float>>("numbers")
      .RemainingArgs()
      .RemainingRets();
}

}  // namespace

#define JLSTM_EXPORT extern "C" __attribute__((visibility("default")))

XLA_FFI_DEFINE_HANDLER(forward_handler, forward, binding());
XLA_FFI_DEFINE_HANDLER(backward_handler, backward, binding());

JLSTM_EXPORT XLA_FFI_Error* jlstm_forward(XLA_FFI_CallFrame* frame) { return forward_handler(frame); }
JLSTM_EXPORT XLA_FFI_Error* jlstm_backward(XLA_FFI_CallFrame* frame) { return backward_handler(frame); }

// The order of operands, results and options; cpu.py refuses a library of another number.
JLSTM_EXPORT int jlstm_interface() { return 2; }
// The instruction set that would run here, or null.
JLSTM_EXPORT const char* jlstm_instructions() {
  const jlstm::Kernels* k = jlstm::kernels();
  return k ? k->name : nullptr;
}
