// LayerNorm inside each head with what surrounds it in a block, forward and backward (ops/headnorm/norm.py):
//
//   y = (norm(h) * weight + bias + skip * a) * act(z),  act = silu or sigmoid;  bias, skip * a and act(z) may be missing
//
// One pass over the inputs; mean and deviation are computed again in the backward pass, from numbers that are in cache by
// then. Sums over rows are kept for blocks of rows whose number depends on the sizes alone, and added up in order: results do
// not depend on the number of threads.
#include <initializer_list>

#include "rows.h"

namespace oxl {
namespace {

enum Activation { NONE = 0, SILU = 1, SIGMOID = 2 };

struct HeadNorm {
  View h, a, z, y;  // h by head; a, z, y are rows over all heads. In the backward pass y is dy
  const float *weight, *bias, *skip;  // [H, V]; bias, skip may be null
  int64_t T, rows;  // rows = B * T
  int H, V, activation;
  float eps;

};

// What is read and written of one head in ROWS rows at once: weights are loaded and sums stored once for all of them, and
// their chains of dependent additions overlap.
constexpr int ROWS = 4;

template <class E, int R>
struct Place {
  E *h[R], *row[4][R];  // of the tensor [B, T, H, V], and of up to four of [B, T, H * V]

  Place(const HeadNorm& n, int64_t first, int head, const View& by_head, std::initializer_list<const View*> rows) {
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      const int64_t b = (first + r) / n.T, t = (first + r) % n.T;
      h[r] = static_cast<E*>(by_head.data) + by_head.at(b, t, head);
      int i = 0;
      for (const View* x : rows) row[i++][r] = static_cast<E*>(x->data) + x->at(b, t, 0) + (int64_t)head * n.V;
    }
  }
};

template <class E, int R>
struct Moments {
  float mean[R], scale[R];  // scale = 1 / sqrt(variance + eps)

  OXL_INLINE Moments(E* const (&h)[R], int V, float eps) {
    vec sums[R] = {}, squares[R] = {};
    for (int d = 0; d < V; d += W)
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) sums[r] += get(h[r] + d, V - d);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) mean[r] = fold(sums[r]) / V;
    int d = 0;
    for (; d + W <= V; d += W)
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        const vec off = load(h[r] + d) - mean[r];
        squares[r] += off * off;
      }
    if (d < V)
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        const vec off = inside(load_part(h[r] + d, V - d) - mean[r], V - d);
        squares[r] += off * off;
      }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) scale[r] = 1.f / std::sqrt(fold(squares[r]) / V + eps);
  }
};

template <class E, int ACT, int R>
void forward(const HeadNorm& n, int64_t first) {
  for (int head = 0; head < n.H; head++) {
    const Place<E, R> at(n, first, head, n.h, {&n.a, &n.z, &n.y});
    const Moments<E, R> m(at.h, n.V, n.eps);
    const int64_t channel = (int64_t)head * n.V;
    for (int d = 0; d < n.V; d += W) {
      const int left = n.V - d;
      const vec weight = get(n.weight + channel + d, left);
      const vec bias = n.bias ? get(n.bias + channel + d, left) : splat(0.f);
      const vec skip = n.skip ? get(n.skip + channel + d, left) : splat(0.f);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        vec x = (get(at.h[r] + d, left) - m.mean[r]) * m.scale[r] * weight + bias;
        if (n.skip) x += skip * get(at.row[0][r] + d, left);
        if (ACT) {
          const vec z = get(at.row[1][r] + d, left);
          x *= ACT == SILU ? z * vgate(z).open : vgate(z).open;
        }
        put(at.row[2][r] + d, x, left);
      }
    }
  }
}

struct HeadNormGradients {
  View h, a, z;
};

// sums: [3, H * V], gradients of weight, bias and skip, to which those of these rows are added. memory: 2 R round_up(V).
template <class E, int ACT, int R>
void backward(const HeadNorm& n, const HeadNormGradients& grad, int64_t first, float* sums, float* memory) {
  const int64_t width = (int64_t)n.H * n.V;
  const int padded = round_up(n.V);
  for (int head = 0; head < n.H; head++) {
    const Place<E, R> at(n, first, head, n.h, {&n.a, &n.z, &n.y}), to(n, first, head, grad.h, {&grad.a, &grad.z});
    const Moments<E, R> m(at.h, n.V, n.eps);
    const int64_t channel = (int64_t)head * n.V;
    float *dweight = sums + channel, *dbias = dweight + width, *dskip = dbias + width;
    vec sum[R] = {}, product[R] = {};  // of what reaches the normalised numbers, alone and times them
    for (int d = 0; d < n.V; d += W) {
      const int left = n.V - d;
      const vec weight = get(n.weight + channel + d, left);
      const vec bias = n.bias ? get(n.bias + channel + d, left) : splat(0.f);
      const vec skip = n.skip ? get(n.skip + channel + d, left) : splat(0.f);
      vec dw = get(dweight + d, left), db = get(dbias + d, left), ds = get(dskip + d, left);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        const vec x = inside((get(at.h[r] + d, left) - m.mean[r]) * m.scale[r], left);
        const vec a = n.skip ? get(at.row[0][r] + d, left) : splat(0.f);
        vec g = get(at.row[2][r] + d, left);
        if (ACT) {
          const vec z = get(at.row[1][r] + d, left);
          const Gate s = vgate(z);
          const vec value = x * weight + bias + skip * a;
          put(to.row[1][r] + d, g * value * (ACT == SILU ? silu_slope(z, s) : s.open * s.closed), left);
          g *= ACT == SILU ? z * s.open : s.open;
        }
        dw += g * x;
        db += g;
        if (n.skip) {
          ds += g * a;
          put(to.row[0][r] + d, g * skip, left);
        }
        g *= weight;
        sum[r] += g;
        product[r] += g * x;
        store(memory + (2 * r) * padded + d, x);
        store(memory + (2 * r + 1) * padded + d, g);
      }
      put(dweight + d, dw, left);
      put(dbias + d, db, left);
      put(dskip + d, ds, left);
    }
    float mean[R], slope[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) mean[r] = fold(sum[r]) / n.V, slope[r] = fold(product[r]) / n.V;
    for (int d = 0; d < n.V; d += W)
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        const vec x = load(memory + (2 * r) * padded + d), g = load(memory + (2 * r + 1) * padded + d);
        put(to.h[r] + d, (g - mean[r] - x * slope[r]) * m.scale[r], n.V - d);
      }
  }
}

template <class E, int ACT>
void forward_all(const HeadNorm& n, int threads) {
  on_threads(threads, [&](int thread, int running) {
    const Range mine = share(n.rows, running, thread);
    int64_t row = mine.begin;
    for (; row + ROWS <= mine.end; row += ROWS) forward<E, ACT, ROWS>(n, row);
    for (; row < mine.end; row++) forward<E, ACT, 1>(n, row);
  });
}

constexpr int64_t MAX_BLOCKS = 64, ROWS_AT_LEAST = 64;

int64_t blocks_of(int64_t rows) {
  const int64_t blocks = (rows + ROWS_AT_LEAST - 1) / ROWS_AT_LEAST;
  return blocks < MAX_BLOCKS ? blocks : MAX_BLOCKS;
}

template <class E, int ACT>
void backward_all(const HeadNorm& n, const HeadNormGradients& grad, float* sums, int threads) {
  const int64_t width = 3 * (int64_t)n.H * n.V, blocks = blocks_of(n.rows);
  Scratch memory((size_t)(blocks * width));
  float* partial = memory.take(blocks * width);  // [blocks, 3, H * V]
  on_threads(threads, [&](int thread, int running) {
    Scratch scratch(2 * ROWS * (size_t)round_up(n.V, 16));
    float* own_memory = scratch.take(2 * ROWS * (size_t)round_up(n.V));
    const Range mine = share(blocks, running, thread);
    for (int64_t block = mine.begin; block < mine.end; block++) {
      float* own = partial + block * width;
      memset(own, 0, sizeof(float) * width);
      const Range part = share(n.rows, static_cast<int>(blocks), static_cast<int>(block));
      int64_t row = part.begin;
      for (; row + ROWS <= part.end; row += ROWS) backward<E, ACT, ROWS>(n, grad, row, own, own_memory);
      for (; row < part.end; row++) backward<E, ACT, 1>(n, grad, row, own, own_memory);
    }
  });
  for (int64_t i = 0; i < width; i++) sums[i] = 0;
  for (int64_t block = 0; block < blocks; block++)
    for (int64_t i = 0; i < width; i++) sums[i] += partial[block * width + i];
}

template <class E>
void forward_of(const HeadNorm& n, int threads) {
  switch (n.activation) {
    case SILU: return forward_all<E, SILU>(n, threads);
    case SIGMOID: return forward_all<E, SIGMOID>(n, threads);
    default: return forward_all<E, NONE>(n, threads);
  }
}

template <class E>
void backward_of(const HeadNorm& n, const HeadNormGradients& grad, float* sums, int threads) {
  switch (n.activation) {
    case SILU: return backward_all<E, SILU>(n, grad, sums, threads);
    case SIGMOID: return backward_all<E, SIGMOID>(n, grad, sums, threads);
    default: return backward_all<E, NONE>(n, grad, sums, threads);
  }
}

}  // namespace
}  // namespace oxl

// h [B, T, H, V]; a, z, y [B, T, H * V]; weight, bias, skip [H * V], of which bias and skip (then a too) may be null.
// activation: 0 none (z is not read), 1 silu, 2 sigmoid.
OXL_EXPORT void openxlstm_headnorm_forward(
    const oxl::View* h, const oxl::View* a, const oxl::View* z, const float* weight, const float* bias, const float* skip,
    const oxl::View* y, int64_t B, int64_t T, int H, int V, int activation, float eps, int threads) {
  using namespace oxl;
  const HeadNorm n{*h, *a, *z, *y, weight, bias, skip, T, B * T, H, V, activation, eps};
  h->bf16 ? forward_of<uint16_t>(n, threads) : forward_of<float>(n, threads);
}

// sums [3, H * V]: gradients of weight, bias and skip.
OXL_EXPORT void openxlstm_headnorm_backward(
    const oxl::View* h, const oxl::View* a, const oxl::View* z, const float* weight, const float* bias, const float* skip,
    const oxl::View* dy, const oxl::View* dh, const oxl::View* da, const oxl::View* dz, float* sums, int64_t B, int64_t T,
    int H, int V, int activation, float eps, int threads) {
  using namespace oxl;
  const HeadNorm n{*h, *a, *z, *dy, weight, bias, skip, T, B * T, H, V, activation, eps};
  const HeadNormGradients grad{*dh, *da, *dz};
  h->bf16 ? backward_of<uint16_t>(n, grad, sums, threads) : backward_of<float>(n, grad, sums, threads);
}
