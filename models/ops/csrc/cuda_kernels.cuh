// CUDA kernels: elementwise; sums down the channels in two levels; batch norm with its activation in one pass.
//
// Every sum has a fixed order, so results repeat bit for bit on one kind of GPU: a thread adds in float, a block
// joins its threads in shared memory in double, and a last kernel joins the blocks.
#pragma once

#include "cuda_math.cuh"
#include "extent.h"

#include "activation.h"

namespace ops::OPS_ISA {

constexpr int threads = 256;
constexpr int packs_in_flight = 4;  // loads a thread starts before it needs the first

// --- elementwise ---------------------------------------------------------------------------------------------

struct MishForward {
  static constexpr int inputs = 1, outputs = 1;
  template <class T, class A>
  __device__ void apply(const A (&in)[1], A (&out)[1]) const {
    out[0] = activated<T, Mish>(in[0]);
  }
};

struct MishBackward {
  static constexpr int inputs = 2, outputs = 1;
  template <class T, class A>
  __device__ void apply(const A (&in)[2], A (&out)[1]) const {
    out[0] = in[0] * Mish::slope(in[1]);
  }
};

struct MishDoubleBackward {
  static constexpr int inputs = 3, outputs = 2;
  template <class T, class A>
  __device__ void apply(const A (&in)[3], A (&out)[2]) const {
    out[0] = in[0] * Mish::slope(in[2]);
    out[1] = in[0] * in[1] * Mish::curvature(in[2]);
  }
};

template <class T, class F>
struct Streams {
  const T* in[F::inputs];
  T* out[F::outputs];
};

template <int width, class T, class F>
OPS_DEVICE void transform(const Streams<T, F>& streams, const Pack<T, width> (&in)[F::inputs], int64_t at) {
  acc_t<T> out[F::outputs][width];
#pragma unroll
  for (int k = 0; k < width; ++k) {
    acc_t<T> arguments[F::inputs], results[F::outputs];
#pragma unroll
    for (int j = 0; j < F::inputs; ++j) arguments[j] = widen(in[j].element[k]);
    F{}.template apply<T>(arguments, results);
#pragma unroll
    for (int j = 0; j < F::outputs; ++j) out[j][k] = results[j];
  }
#pragma unroll
  for (int j = 0; j < F::outputs; ++j) store(streams.out[j] + at, out[j]);
}

// Elements [0, head) and those after the last whole pack go one by one; the packs between are aligned.
template <int width, class T, class F>
__global__ void __launch_bounds__(threads) elementwise(Streams<T, F> streams, int64_t head, int64_t count) {
  const int64_t packs = (count - head) / width, stride = static_cast<int64_t>(gridDim.x) * threads;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  for (int64_t p = first; p < packs; p += packs_in_flight * stride) {
    Pack<T, width> in[packs_in_flight][F::inputs];
#pragma unroll
    for (int u = 0; u < packs_in_flight; ++u)
      if (p + u * stride < packs)
#pragma unroll
        for (int j = 0; j < F::inputs; ++j)
          in[u][j] = load_pack<width>(streams.in[j] + head + (p + u * stride) * width);
#pragma unroll
    for (int u = 0; u < packs_in_flight; ++u)
      if (p + u * stride < packs) transform(streams, in[u], head + (p + u * stride) * width);
  }
  const int64_t singles = count - packs * width;
  for (int64_t i = first; i < singles; i += stride) {
    const int64_t at = i < head ? i : i + packs * width;
    Pack<T, 1> in[F::inputs];
#pragma unroll
    for (int j = 0; j < F::inputs; ++j) in[j] = load_pack<1>(streams.in[j] + at);
    transform(streams, in, at);
  }
}

// --- sums ----------------------------------------------------------------------------------------------------

// A part's count, mean and sum of squared deviations, joined by Chan, Golub and LeVeque's rule.
struct Moments {
  double count, mean, squares;

  __device__ static Moments zero() { return {0, 0, 0}; }
  __device__ void join(const Moments& other) {
    const double all = count + other.count;
    if (other.count == 0) return;
    const double delta = other.mean - mean;
    mean += delta * other.count / all;
    squares += other.squares + delta * delta * count * other.count / all;
    count = all;
  }
};

struct TwoSums {
  double first, second;

  __device__ static TwoSums zero() { return {0, 0}; }
  __device__ void join(const TwoSums& other) {
    first += other.first;
    second += other.second;
  }
};

// Joins the threads of a block that share threadIdx.x; thread y = 0 returns the whole.
template <class Total>
__device__ Total join_down(Total mine) {
  __shared__ Total shared[threads];
  const int x = threadIdx.x, y = threadIdx.y, wide = blockDim.x;
  __syncthreads();
  shared[y * wide + x] = mine;
  for (int half = blockDim.y / 2; half > 0; half /= 2) {
    __syncthreads();
    if (y < half) {
      mine.join(shared[(y + half) * wide + x]);
      shared[y * wide + x] = mine;
    }
  }
  return mine;
}

// One thread's moments of one channel, about the first value it saw: that value is in the sample, so what
// cancels later is at most the thread's count times what remains.
template <class T>
struct MomentTerms {
  using A = acc_t<T>;
  using Total = Moments;
  const T* x;

  struct Lane {
    A origin = 0, first = 0, second = 0;
  };
  __device__ Lane begin(int64_t) const { return {}; }
  template <int width>
  __device__ void add(Lane (&lanes)[width], int64_t at, bool is_first) const {
    A v[width];
    load(x + at, v);
#pragma unroll
    for (int k = 0; k < width; ++k) {
      if (is_first) lanes[k].origin = v[k];
      const A d = v[k] - lanes[k].origin;
      lanes[k].first += d;
      lanes[k].second += d * d;
    }
  }
  __device__ Moments end(const Lane& lane, int64_t count) const {
    if (count == 0) return Moments::zero();
    const double n = count, first = lane.first, rest = lane.second - first * first / n;
    return {n, lane.origin + first / n, rest < 0 ? 0.0 : rest};  // NaN stays
  }
};

// A channel's numbers as a thread keeps them.
template <class A>
struct Channel {
  A mean, scale, bias;
};

// Pointers to them; weight and bias may be null.
template <class A>
struct Affine {
  const A *mean, *invstd, *weight, *bias;

  __device__ Channel<A> at(int64_t c) const {
    return {mean[c], weight ? invstd[c] * weight[c] : invstd[c], bias ? bias[c] : A(0)};
  }
};

// sum(dz) and sum(dz (x - mean)), dz = grad f'(z).
template <class T, class F>
struct GradientTerms {
  using A = acc_t<T>;
  using Total = TwoSums;
  const T *grad, *x;
  Affine<A> affine;

  struct Lane {
    Channel<A> channel;
    A first = 0, second = 0;
  };
  __device__ Lane begin(int64_t c) const { return {affine.at(c)}; }
  template <int width>
  __device__ void add(Lane (&lanes)[width], int64_t at, bool) const {
    A g[width], v[width];
    load(grad + at, g);
    load(x + at, v);
#pragma unroll
    for (int k = 0; k < width; ++k) {
      const auto& [mean, scale, bias] = lanes[k].channel;
      const A centred = v[k] - mean, dz = g[k] * F::slope(centred * scale + bias);
      lanes[k].first += dz;
      lanes[k].second += dz * centred;
    }
  }
  __device__ TwoSums end(const Lane& lane, int64_t) const { return {lane.first, lane.second}; }
};

// channels_last: a thread owns `width` channels and walks down rows; partial is [chunk][channel].
template <int width, class Terms>
__global__ void __launch_bounds__(threads)
    reduce_rows(Terms terms, Extent extent, int64_t rows_per_chunk, typename Terms::Total* partial) {
  const int64_t c = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * width;
  const int64_t begin = blockIdx.y * rows_per_chunk, end = min(begin + rows_per_chunk, extent.outer);
  const bool mine = c < extent.channels;
  typename Terms::Lane lanes[width];
#pragma unroll
  for (int k = 0; k < width; ++k) lanes[k] = terms.begin(mine ? c + k : 0);
  int64_t count = 0;
  if (mine)
#pragma unroll 4
    for (int64_t row = begin + threadIdx.y; row < end; row += blockDim.y, ++count)
      terms.template add<width>(lanes, row * extent.channels + c, count == 0);
#pragma unroll
  for (int k = 0; k < width; ++k) {
    const auto total = join_down(terms.end(lanes[k], count));
    if (mine && threadIdx.y == 0) partial[blockIdx.y * extent.channels + c + k] = total;
  }
}

// contiguous: a block owns a channel and a share of the packs of its planes; blockDim is (1, threads).
template <int width, class Terms>
__global__ void __launch_bounds__(threads)
    reduce_planes(Terms terms, Extent extent, int64_t packs_per_chunk, typename Terms::Total* partial) {
  const int64_t c = blockIdx.x, packs = extent.inner / width;
  const int64_t begin = blockIdx.y * packs_per_chunk, end = min(begin + packs_per_chunk, extent.outer * packs);
  typename Terms::Lane lanes[width];
#pragma unroll
  for (int k = 0; k < width; ++k) lanes[k] = terms.begin(c);
  int64_t count = 0, at = begin + threadIdx.y;
  int64_t plane = at / packs, pack = at % packs;  // stepped on without further divisions
  const int64_t planes_a_step = threads / packs, packs_a_step = threads % packs;
#pragma unroll 4
  for (; at < end; at += threads, ++count) {
    terms.template add<width>(lanes, (plane * extent.channels + c) * extent.inner + pack * width, count == 0);
    plane += planes_a_step;
    pack += packs_a_step;
    if (pack >= packs) {
      pack -= packs;
      ++plane;
    }
  }
  auto mine = terms.end(lanes[0], count);
#pragma unroll
  for (int k = 1; k < width; ++k) mine.join(terms.end(lanes[k], count));
  const auto total = join_down(mine);
  if (threadIdx.y == 0) partial[blockIdx.y * extent.channels + c] = total;
}

// Joins the chunks of a channel, in order; blockDim is (32, 8), thread (x, 0) gets the total.
template <class Total>
OPS_DEVICE Total join_chunks(const Total* partial, int64_t chunks, int64_t channels, int64_t c) {
  Total mine = Total::zero();
  if (c < channels)
    for (int64_t k = threadIdx.y; k < chunks; k += blockDim.y) mine.join(partial[k * channels + c]);
  return join_down(mine);
}

template <class A>
__global__ void __launch_bounds__(threads)
    finish_moments(const Moments* partial, int64_t chunks, int64_t channels, double momentum, double eps, A* mean,
                   A* invstd, A* running_mean, A* running_var) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const Moments total = join_chunks(partial, chunks, channels, c);
  if (c >= channels || threadIdx.y > 0) return;
  mean[c] = total.mean;
  invstd[c] = 1 / sqrt(total.squares / total.count + eps);
  if (running_mean) running_mean[c] = (1 - momentum) * running_mean[c] + momentum * total.mean;
  if (running_var)  // the unbiased estimate, as everywhere in torch
    running_var[c] = (1 - momentum) * running_var[c] + momentum * total.squares / (total.count - 1);
}

template <class A>
__global__ void __launch_bounds__(threads) finish_gradients(const TwoSums* partial, int64_t chunks, int64_t channels,
                                                            const A* invstd, A* grad_weight, A* grad_bias) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const TwoSums total = join_chunks(partial, chunks, channels, c);
  if (c >= channels || threadIdx.y > 0) return;
  grad_weight[c] = total.second * invstd[c];
  grad_bias[c] = total.first;
}

// --- normalise and activate ----------------------------------------------------------------------------------

// y = f(z), or f(x + bias) where there are no statistics.
template <class T, class F>
struct Apply {
  using A = acc_t<T>;
  const T* x;
  T* y;
  Affine<A> affine;

  using Group = Channel<A>;
  __device__ Group group(int64_t c) const {
    return affine.mean ? affine.at(c) : Channel<A>{0, 1, affine.bias ? affine.bias[c] : A(0)};
  }
  template <int width>
  __device__ void operator()(int64_t at, const Group (&group)[width]) const {
    A v[width];
    load(x + at, v);
#pragma unroll
    for (int k = 0; k < width; ++k) v[k] = activated<T, F>((v[k] - group[k].mean) * group[k].scale + group[k].bias);
    store(y + at, v);
  }
};

// grad_x = scale (dz - sum(dz) / M - (x - mean) invstd dgamma / M); share is 1 / M, or 0 for fixed statistics.
template <class T, class F>
struct ApplyBackward {
  using A = acc_t<T>;
  const T *grad, *x;
  T* grad_x;
  Affine<A> affine;
  const A *grad_weight, *grad_bias;
  double share;

  struct Group {
    Channel<A> channel;
    A shift, tilt;
  };
  __device__ Group group(int64_t c) const {
    return {affine.at(c), static_cast<A>(grad_bias[c] * share), static_cast<A>(grad_weight[c] * affine.invstd[c] * share)};
  }
  template <int width>
  __device__ void operator()(int64_t at, const Group (&group)[width]) const {
    A g[width], v[width];
    load(grad + at, g);
    load(x + at, v);
#pragma unroll
    for (int k = 0; k < width; ++k) {
      const auto& [mean, scale, bias] = group[k].channel;
      const A centred = v[k] - mean, dz = g[k] * F::slope(centred * scale + bias);
      v[k] = scale * (dz - group[k].shift - centred * group[k].tilt);
    }
    store(grad_x + at, v);
  }
};

// channels_last: as reduce_rows.
template <int width, class Body>
__global__ void __launch_bounds__(threads) over_rows(Body body, Extent extent, int64_t rows_per_chunk) {
  const int64_t c = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * width;
  if (c >= extent.channels) return;
  const int64_t begin = blockIdx.y * rows_per_chunk, end = min(begin + rows_per_chunk, extent.outer);
  typename Body::Group group[width];
#pragma unroll
  for (int k = 0; k < width; ++k) group[k] = body.group(c + k);
#pragma unroll 4
  for (int64_t row = begin + threadIdx.y; row < end; row += blockDim.y)
    body.template operator()<width>(row * extent.channels + c, group);
}

// contiguous: blockDim (x, y) handles y planes at a time, x packs of each.
template <int width, class Body>
__global__ void __launch_bounds__(threads) over_planes(Body body, Extent extent) {
  const int64_t planes = extent.outer * extent.channels;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.y;
  for (int64_t plane = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; plane < planes; plane += stride) {
    typename Body::Group group[width];
    group[0] = body.group(plane % extent.channels);
#pragma unroll
    for (int k = 1; k < width; ++k) group[k] = group[0];
#pragma unroll 4
    for (int64_t pack = blockIdx.y * blockDim.x + threadIdx.x; pack < extent.inner / width; pack += gridDim.y * blockDim.x)
      body.template operator()<width>(plane * extent.inner + pack * width, group);
  }
}

}  // namespace ops::OPS_ISA
