// The CPU kernels of one instruction set: compiled with -DOPS_ISA=plain|avx2|avx512|avx512bf16 -DOPS_BYTES=16|32|64.
// Nothing here may call an inline function of the standard library: the linker could share its AVX copy.

#include "cpu_kernels.h"
#include "cpu_math.h"

namespace ops::OPS_ISA {
namespace {

constexpr int64_t piece = 4096;  // elements summed in float before the sum moves to a double

// --- pointwise ---------------------------------------------------------------------------------------------

// Calls step(element, count) down `count` elements, a register at a time.
template <class T, class Step>
OPS_INLINE void each_register(int64_t count, Step step) {
  int64_t i = 0;
  for (; i + lanes<T> <= count; i += lanes<T>) step(i, lanes<T>);
  if (i < count) step(i, count - i);
}

template <class T, class F>
void pointwise(const T* x, T* y, int64_t count) {
  each_register<T>(count, [=](int64_t i, int64_t n) { store_up_to(y + i, activated<T, F>(load_up_to(x + i, n)), n); });
}

template <class T>
void mish_backward(const T* grad, const T* x, T* grad_x, int64_t count) {
  each_register<T>(count, [=](int64_t i, int64_t n) {
    store_up_to(grad_x + i, load_up_to(grad + i, n) * slope_of<T, Mish>(load_up_to(x + i, n)), n);
  });
}

template <class T>
void mish_double_backward(const T* v, const T* grad, const T* x, T* grad_grad, T* grad_x, int64_t count) {
  each_register<T>(count, [=](int64_t i, int64_t n) {
    const auto vv = load_up_to(v + i, n), gg = load_up_to(grad + i, n), xx = load_up_to(x + i, n);
    store_up_to(grad_grad + i, vv * slope_of<T, Mish>(xx), n);
    store_up_to(grad_x + i, vv * gg * Mish::curvature(xx), n);
  });
}

// --- sums over a channel -----------------------------------------------------------------------------------

template <class V>
struct Pair {
  V first, second;
};

template <class V>
OPS_INLINE double across(V v) {
  double total = 0;
  for (uint64_t i = 0; i < sizeof(V) / sizeof(v[0]); ++i) total += v[i];
  return total;
}

// Sums of terms(offset, count) over `count` consecutive elements of one channel.
template <class T, class Terms>
Pair<double> sum_plane(int64_t count, Terms terms) {
  using V = vector_t<T>;
  constexpr int chains = 4;  // independent additions hide their latency
  Pair<double> total{};
  for (int64_t begin = 0; begin < count; begin += piece) {
    const int64_t end = begin + piece < count ? begin + piece : count;
    V first[chains] = {}, second[chains] = {};
    int64_t i = begin;
    for (; i + chains * lanes<T> <= end; i += chains * lanes<T>)
#pragma GCC unroll 4
      for (int k = 0; k < chains; ++k) {
        const Pair<V> term = terms(i + k * lanes<T>, lanes<T>);
        first[k] += term.first;
        second[k] += term.second;
      }
    for (; i < end; i += lanes<T>) {
      const Pair<V> term = terms(i, end - i < lanes<T> ? end - i : lanes<T>);
      first[0] += term.first;
      second[0] += term.second;
    }
    total.first += across((first[0] + first[1]) + (first[2] + first[3]));
    total.second += across((second[0] + second[1]) + (second[2] + second[3]));
  }
  return total;
}

// Sums of terms(row, lane group) down `width` lane groups that start at `channel`; float for at most 64 rows.
template <class T, int width, class Terms>
void sum_columns(int64_t channel, int64_t count, int64_t begin, int64_t end, Sums out, Terms terms) {
  using V = vector_t<T>;
  double total1[width * lanes<T>] = {}, total2[width * lanes<T>] = {};
  for (int64_t from = begin; from < end; from += 64) {
    const int64_t to = from + 64 < end ? from + 64 : end;
    V first[width] = {}, second[width] = {};
    for (int64_t row = from; row < to; ++row)
#pragma GCC unroll 4
      for (int k = 0; k < width; ++k) {
        const Pair<V> term = terms(row, k);
        first[k] += term.first;
        second[k] += term.second;
      }
    for (int k = 0; k < width; ++k)
      for (int64_t j = 0; j < lanes<T>; ++j) {
        total1[k * lanes<T> + j] += first[k][j];
        total2[k * lanes<T> + j] += second[k][j];
      }
  }
  for (int64_t j = 0; j < count; ++j) {
    out.first[channel + j] = total1[j];
    out.second[channel + j] = total2[j];
  }
}

// --- statistics --------------------------------------------------------------------------------------------

// Two passes over a piece that stays in the cache; what the rounded mean missed corrects both results.
struct Moments {
  double count = 0, mean = 0, squares = 0;

  void add(double n, double near_mean, double deviation, double squared) {
    const double m = near_mean + deviation / n, s = squared - deviation * deviation / n;
    const double delta = m - mean, all = count + n;
    mean += delta * n / all;
    squares += s + delta * delta * count * n / all;
    count = all;
  }
};

template <class T>
Moments moments_piece(const T* x, int64_t count, Moments sofar) {
  using V = vector_t<T>;
  const double sum = sum_plane<T>(count, [&](int64_t i, int64_t n) { return Pair<V>{load_up_to(x + i, n), V{}}; }).first;
  const acc_t<T> mean = sum / count;
  const auto deviations = sum_plane<T>(count, [&](int64_t i, int64_t n) {
    V padded = load_up_to(x + i, n);
    for (int64_t k = n; k < lanes<T>; ++k) padded[k] = mean;
    const V d = padded - mean;
    return Pair<V>{d, d * d};
  });
  sofar.add(count, mean, deviations.first, deviations.second);
  return sofar;
}

template <class T>
void moments_planes(const T* x, Extent extent, int64_t begin, int64_t end, Sums out) {
  for (int64_t c = begin; c < end; ++c) {
    Moments moments;
    for (int64_t n = 0; n < extent.outer; ++n) {
      const T* plane = x + (n * extent.channels + c) * extent.inner;
      for (int64_t i = 0; i < extent.inner; i += piece)
        moments = moments_piece(plane + i, extent.inner - i < piece ? extent.inner - i : piece, moments);
    }
    out.first[c] = moments.mean;
    out.second[c] = moments.squares;
  }
}

template <class T, int width>
void moments_columns(const T* x, int64_t channels, int64_t channel, int64_t count, int64_t begin, int64_t end,
                     Sums out) {
  using V = vector_t<T>;
  const double rows = end - begin;
  sum_columns<T, width>(channel, count, begin, end, out, [&](int64_t row, int k) {
    const int64_t j = k * lanes<T>;
    return Pair<V>{load_up_to(x + row * channels + channel + j, count - j), V{}};
  });
  acc_t<T> mean[width * lanes<T>] = {};
  for (int64_t j = 0; j < count; ++j) mean[j] = out.first[channel + j] / rows;
  sum_columns<T, width>(channel, count, begin, end, out, [&](int64_t row, int k) {
    const int64_t j = k * lanes<T>;
    const V d = load_up_to(x + row * channels + channel + j, count - j) - load(mean + j);
    return Pair<V>{d, d * d};
  });
  for (int64_t j = 0; j < count; ++j) {
    Moments moments;
    moments.add(rows, mean[j], out.first[channel + j], out.second[channel + j]);
    out.first[channel + j] = moments.mean;
    out.second[channel + j] = moments.squares;
  }
}

template <class T>
void moments_rows(const T* x, Extent extent, int64_t begin, int64_t end, Sums out) {
  int64_t c = 0;
  for (; c + 4 * lanes<T> <= extent.channels; c += 4 * lanes<T>)
    moments_columns<T, 4>(x, extent.channels, c, 4 * lanes<T>, begin, end, out);
  for (; c < extent.channels; c += lanes<T>) {
    const int64_t rest = extent.channels - c;
    moments_columns<T, 1>(x, extent.channels, c, rest < lanes<T> ? rest : lanes<T>, begin, end, out);
  }
}

// --- batch norm and activation -----------------------------------------------------------------------------

// A channel's numbers, in vectors: the same lane for a plane, one channel a lane for rows.
template <class V>
struct Channel {
  V mean, scale, bias;

  V z(V centred) const { return centred * scale + bias; }
};

// A plane's channel in every lane, or `count` channels from `c` on in a lane each.
template <class T, bool planes>
OPS_INLINE vector_t<T> channel_values(const void* values, int64_t c, int64_t count) {
  const auto from = static_cast<const acc_t<T>*>(values) + c;
  if constexpr (planes)
    return vector_t<T>{} + *from;
  else
    return load_up_to(from, count);
}

template <class T, bool planes>
OPS_INLINE Channel<vector_t<T>> channel_group(Affine affine, int64_t c, int64_t count) {
  return {channel_values<T, planes>(affine.mean, c, count), channel_values<T, planes>(affine.scale, c, count),
          channel_values<T, planes>(affine.bias, c, count)};
}

template <class T, class F, class V>
OPS_INLINE Pair<V> reduction_terms(V grad, V x, const Channel<V>& channel) {
  const V centred = x - channel.mean;
  const V dz = grad * slope_of<T, F>(channel.z(centred));
  return {dz, dz * centred};
}

template <class T, class F>
void reduce_planes(const T* grad, const T* x, Affine affine, Extent extent, int64_t begin, int64_t end, Sums out) {
  for (int64_t c = begin; c < end; ++c) {
    const auto channel = channel_group<T, true>(affine, c, 1);
    double first = 0, second = 0;
    for (int64_t n = 0; n < extent.outer; ++n) {
      const int64_t at = (n * extent.channels + c) * extent.inner;
      const auto sums = sum_plane<T>(extent.inner, [&](int64_t i, int64_t count) {  // padding: grad 0
        return reduction_terms<T, F>(load_up_to(grad + at + i, count), load_up_to(x + at + i, count), channel);
      });
      first += sums.first;
      second += sums.second;
    }
    out.first[c] = first;
    out.second[c] = second;
  }
}

template <class T, class F, int width>
void reduce_columns(const T* grad, const T* x, Affine affine, int64_t channels, int64_t c, int64_t count,
                    int64_t begin, int64_t end, Sums out) {
  Channel<vector_t<T>> channel[width];
  for (int k = 0; k < width; ++k) channel[k] = channel_group<T, false>(affine, c + k * lanes<T>, count - k * lanes<T>);
  sum_columns<T, width>(c, count, begin, end, out, [&](int64_t row, int k) {
    const int64_t j = k * lanes<T>, at = row * channels + c + j;
    return reduction_terms<T, F>(load_up_to(grad + at, count - j), load_up_to(x + at, count - j), channel[k]);
  });
}

template <class T, class F>
void reduce_rows(const T* grad, const T* x, Affine affine, Extent extent, int64_t begin, int64_t end, Sums out) {
  int64_t c = 0;
  for (; c + 2 * lanes<T> <= extent.channels; c += 2 * lanes<T>)
    reduce_columns<T, F, 2>(grad, x, affine, extent.channels, c, 2 * lanes<T>, begin, end, out);
  for (; c < extent.channels; c += lanes<T>) {
    const int64_t rest = extent.channels - c;
    reduce_columns<T, F, 1>(grad, x, affine, extent.channels, c, rest < lanes<T> ? rest : lanes<T>, begin, end, out);
  }
}

// Calls step(element, count, channel group) down the rows [begin, end), a register at a time.
template <class T, bool planes, class Group, class Step>
void each_group(Extent extent, int64_t begin, int64_t end, Group group, Step step) {
  const int64_t length = planes ? extent.inner : extent.channels;
  for (int64_t row = begin; row < end; ++row) {
    auto channels = group(planes ? row % extent.channels : 0, lanes<T>);
    int64_t i = 0;
    for (; i + lanes<T> <= length; i += lanes<T>) {
      if constexpr (!planes) channels = group(i, lanes<T>);
      step(row * length + i, lanes<T>, channels);
    }
    if (i == length) continue;
    if constexpr (!planes) channels = group(i, length - i);
    step(row * length + i, length - i, channels);
  }
}

template <class T, class F, bool planes>
void apply(const T* x, Affine affine, Extent extent, T* y, int64_t begin, int64_t end) {
  const auto group = [&](int64_t c, int64_t count) { return channel_group<T, planes>(affine, c, count); };
  each_group<T, planes>(extent, begin, end, group, [&](int64_t i, int64_t count, const auto& channel) {
    const auto centred = load_up_to(x + i, count) - channel.mean;
    store_up_to(y + i, activated<T, F>(channel.z(centred)), count);
  });
}

template <class T, class F, bool planes>
void bias_act(const T* x, const void* bias, Extent extent, T* y, int64_t begin, int64_t end) {
  const auto group = [&](int64_t c, int64_t count) { return channel_values<T, planes>(bias, c, count); };
  each_group<T, planes>(extent, begin, end, group, [&](int64_t i, int64_t count, const auto& shift) {
    store_up_to(y + i, activated<T, F>(load_up_to(x + i, count) + shift), count);
  });
}

template <class T>
struct BackwardGroup {
  Channel<vector_t<T>> affine;
  vector_t<T> shift, tilt;
};

template <class T, class F, bool planes>
void apply_backward(const T* grad, const T* x, Affine affine, const void* shift, const void* tilt, Extent extent,
                    T* grad_x, int64_t begin, int64_t end) {
  const auto group = [&](int64_t c, int64_t count) {
    return BackwardGroup<T>{channel_group<T, planes>(affine, c, count), channel_values<T, planes>(shift, c, count),
                            channel_values<T, planes>(tilt, c, count)};
  };
  each_group<T, planes>(extent, begin, end, group, [&](int64_t i, int64_t count, const BackwardGroup<T>& channel) {
    const auto centred = load_up_to(x + i, count) - channel.affine.mean;
    const auto dz = load_up_to(grad + i, count) * slope_of<T, F>(channel.affine.z(centred));
    store_up_to(grad_x + i, channel.affine.scale * (dz - channel.shift - centred * channel.tilt), count);
  });
}

// --- from runtime types to templates -----------------------------------------------------------------------

template <class T>
struct Type {
  using type = T;
};

template <class Call>
void for_dtype(Dtype dtype, Call call) {
  switch (dtype) {
    case Dtype::float32: return call(Type<float>{});
    case Dtype::float64: return call(Type<double>{});
    case Dtype::bfloat16: return call(Type<BFloat16>{});
    case Dtype::float16: return call(Type<Float16>{});
  }
}

template <class Call>
void for_activation(Dtype dtype, Activation activation, Call call) {
  for_dtype(dtype, [&](auto type) { with_activation(activation, [&](auto f) { call(type, f); }); });
}

#define OPS_IN(p) static_cast<const T*>(p)
#define OPS_OUT(p) static_cast<T*>(p)
#define OPS_T using T = typename decltype(type)::type

constexpr CpuKernels table = {
    OPS_NAME,
    [](Dtype dtype, Activation activation, const void* x, void* y, int64_t count) {
      for_activation(dtype, activation, [&](auto type, auto f) {
        OPS_T;
        pointwise<T, decltype(f)>(OPS_IN(x), OPS_OUT(y), count);
      });
    },
    [](Dtype dtype, const void* grad, const void* x, void* grad_x, int64_t count) {
      for_dtype(dtype, [&](auto type) { OPS_T; mish_backward<T>(OPS_IN(grad), OPS_IN(x), OPS_OUT(grad_x), count); });
    },
    [](Dtype dtype, const void* v, const void* grad, const void* x, void* grad_grad, void* grad_x, int64_t count) {
      for_dtype(dtype, [&](auto type) {
        OPS_T;
        mish_double_backward<T>(OPS_IN(v), OPS_IN(grad), OPS_IN(x), OPS_OUT(grad_grad), OPS_OUT(grad_x), count);
      });
    },
    [](Dtype dtype, const void* x, Extent extent, int64_t begin, int64_t end, Sums out) {
      for_dtype(dtype, [&](auto type) { OPS_T; moments_planes<T>(OPS_IN(x), extent, begin, end, out); });
    },
    [](Dtype dtype, const void* x, Extent extent, int64_t begin, int64_t end, Sums out) {
      for_dtype(dtype, [&](auto type) { OPS_T; moments_rows<T>(OPS_IN(x), extent, begin, end, out); });
    },
    [](Dtype dtype, Activation activation, const void* grad, const void* x, Affine affine, Extent extent,
       int64_t begin, int64_t end, Sums out) {
      for_activation(dtype, activation, [&](auto type, auto f) {
        OPS_T;
        reduce_planes<T, decltype(f)>(OPS_IN(grad), OPS_IN(x), affine, extent, begin, end, out);
      });
    },
    [](Dtype dtype, Activation activation, const void* grad, const void* x, Affine affine, Extent extent,
       int64_t begin, int64_t end, Sums out) {
      for_activation(dtype, activation, [&](auto type, auto f) {
        OPS_T;
        reduce_rows<T, decltype(f)>(OPS_IN(grad), OPS_IN(x), affine, extent, begin, end, out);
      });
    },
    [](Dtype dtype, Activation activation, const void* x, Affine affine, Extent extent, void* y, int64_t begin,
       int64_t end) {
      for_activation(dtype, activation, [&](auto type, auto f) {
        OPS_T;
        (extent.inner > 1 ? apply<T, decltype(f), true> : apply<T, decltype(f), false>)(OPS_IN(x), affine, extent,
                                                                                        OPS_OUT(y), begin, end);
      });
    },
    [](Dtype dtype, Activation activation, const void* x, const void* bias, Extent extent, void* y, int64_t begin,
       int64_t end) {
      for_activation(dtype, activation, [&](auto type, auto f) {
        OPS_T;
        (extent.inner > 1 ? bias_act<T, decltype(f), true> : bias_act<T, decltype(f), false>)(OPS_IN(x), bias, extent,
                                                                                              OPS_OUT(y), begin, end);
      });
    },
    [](Dtype dtype, Activation activation, const void* grad, const void* x, Affine affine, const void* shift,
       const void* tilt, Extent extent, void* grad_x, int64_t begin, int64_t end) {
      for_activation(dtype, activation, [&](auto type, auto f) {
        OPS_T;
        (extent.inner > 1 ? apply_backward<T, decltype(f), true> : apply_backward<T, decltype(f), false>)(
            OPS_IN(grad), OPS_IN(x), affine, shift, tilt, extent, OPS_OUT(grad_x), begin, end);
      });
    },
};

}  // namespace

const CpuKernels* kernels() { return &table; }

}  // namespace ops::OPS_ISA
