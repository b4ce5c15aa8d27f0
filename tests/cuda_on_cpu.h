// CUDA's threads on one CPU thread: what models/ops/csrc/cuda_ops.cu needs to be compiled as plain C++, for tests on
// machines without a GPU (tests/emulated_cuda.py changes the text where a header cannot).
//
// The threads of a block are fibers that run one after the other from one __syncthreads to the next, every other block
// from the last to the first: what is read before it was written, or overwritten before it was read, shows in the
// results. A barrier that only some threads reach ends the program. A kernel whose first thread meets no barrier has
// none, and its threads are plain calls.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __shared__ static
#define __launch_bounds__(...)
#include <cuda_runtime.h>

using std::min;

namespace emulated {

inline uint3 thread, block;
inline dim3 block_size, grid_size;

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(1 << 16);
  bool done = false;
};

inline std::vector<Fiber> fibers(1024);
inline ucontext_t scheduler;
inline Fiber* running = nullptr;
inline const std::function<void()>* body = nullptr;
inline bool launched = false;

[[noreturn]] inline void fail(const char* reason) {
  std::fprintf(stderr, "emulated CUDA: %s\n", reason);
  std::abort();
}

inline void enter() {
  (*body)();
  running->done = true;
  swapcontext(&running->context, &scheduler);
}

inline void barrier() {
  if (running == nullptr) fail("a barrier that not all threads of the block reach");
  swapcontext(&running->context, &scheduler);
}

inline void be_thread(unsigned i) { thread = {i % block_size.x, i / block_size.x, 0}; }

// Lets each thread of the block run to its next barrier or its end; returns how many ended.
inline unsigned advance(unsigned count, bool backwards) {
  unsigned ended = 0;
  for (unsigned k = 0; k < count; ++k) {
    const unsigned i = backwards ? count - 1 - k : k;
    be_thread(i);
    running = &fibers[i];
    swapcontext(&scheduler, &running->context);
    ended += running->done;
  }
  return ended;
}

inline void prepare(Fiber& fiber) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.data();
  fiber.context.uc_stack.ss_size = fiber.stack.size();
  fiber.context.uc_link = nullptr;
  fiber.done = false;
  makecontext(&fiber.context, enter, 0);
}

inline void run_plainly(unsigned first) {
  running = nullptr;
  for (unsigned i = first; i < block_size.x * block_size.y; ++i) {
    be_thread(i);
    (*body)();
  }
}

inline void run_block(bool backwards) {
  const unsigned count = block_size.x * block_size.y;
  for (unsigned i = 0; i < count; ++i) prepare(fibers[i]);
  unsigned ended = 0;
  while (ended == 0) ended = advance(count, backwards);
  if (ended < count) fail("a barrier that not all threads of the block reach");
}

// Lets the first thread of the block run; whether it met a barrier, where it then waits for ever.
inline bool meets_a_barrier() {
  prepare(fibers[0]);
  return advance(1, false) == 0;
}

inline void run(dim3 grid, dim3 size, const std::function<void()>& work) {
  const uint64_t count = uint64_t{size.x} * size.y * size.z;
  if (grid.x == 0 || grid.y == 0 || grid.z != 1 || size.z != 1) fail("an empty launch, or one with a third dimension");
  if (count == 0 || count > fibers.size()) fail("a block of 0, or of more than 1024 threads");
  if (grid.x > 0x7fffffffu || grid.y > 65535u) fail("a grid larger than CUDA takes");
  if (launched) fail("a launch that was not checked");
  launched = true;
  body = &work;
  block_size = size;
  grid_size = grid;
  static bool backwards = false;
  block = {0, 0, 0};
  const bool barriers = meets_a_barrier();
  unsigned done = barriers ? 0 : 1;  // threads of the first block
  for (block.y = 0; block.y < grid.y; ++block.y)
    for (block.x = 0; block.x < grid.x; ++block.x, backwards = !backwards, done = 0)
      if (barriers)
        run_block(backwards);
      else
        run_plainly(done);
}

inline void check_launch() {
  if (!launched) fail("a check without a launch");
  launched = false;
}

// kernel<<<grid, block, 0, stream>>>(...)
template <class... Parameters>
auto on_cpu(void (*kernel)(Parameters...), dim3 grid, dim3 size, int, cudaStream_t) {
  return [=](auto... arguments) { run(grid, size, [&] { kernel(static_cast<Parameters>(arguments)...); }); };
}

inline float flushed(double x) {
  const float rounded = static_cast<float>(x);
  return std::abs(rounded) < 0x1p-126f ? std::copysign(0.0f, rounded) : rounded;
}

// A result off by up to one unit of the last place, as if at random: expf and 1 / x under --use_fast_math end in these
// instructions, and CUDA promises no less for them.
inline float approximate(double exact, float argument) {
  uint32_t bits;
  std::memcpy(&bits, &argument, sizeof(bits));
  const double share = static_cast<int32_t>(bits * 2654435769u) * 0x1p-31;
  const bool normal = std::isfinite(exact) && exact != 0;
  return flushed(normal ? exact + share * std::ldexp(1.0, std::ilogb(exact) - 23) : exact);
}

inline void ptx(const char* name, float& to, float from) {
  const auto is = [&](const char* other) { return std::strcmp(name, other) == 0; };
  if (is("min.NaN.f32"))
    to = std::isnan(to) || std::isnan(from) ? NAN : std::fmin(to, from);
  else if (is("max.NaN.f32"))
    to = std::isnan(to) || std::isnan(from) ? NAN : std::fmax(to, from);
  else if (is("ex2.approx.ftz.f32"))
    to = approximate(std::exp2(static_cast<double>(flushed(from))), from);
  else if (is("rcp.approx.ftz.f32"))
    to = approximate(1 / static_cast<double>(flushed(from)), from);
  else
    fail(name);
}

}  // namespace emulated

using emulated::on_cpu;
using emulated::ptx;

#define threadIdx emulated::thread
#define blockIdx emulated::block
#define blockDim emulated::block_size
#define gridDim emulated::grid_size
#define __syncthreads emulated::barrier
