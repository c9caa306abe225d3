// What an mLSTM block computes between its up-projection and its cell, forward and backward (ops/qkv/gates.py):
//
//   a = silu(conv(u));   q = Q a,  k = K a,  v = V u  (block-diagonal);   pre = W_if [q; k; v] + b_if
//
// Forward, a task is a stretch of steps of one row of the batch: eight steps pass the convolution, and while they are in
// cache the rest is done with them.
//
// Backward, nothing but sums over steps crosses channels (of a block), so a task is a strip of channels and some rows of the
// batch, walked from the last step to the first as in conv.h; a is computed again. Two products are all that the gates need:
// with M_a = sum_t dpre_t a_t^T and M_u = sum_t dpre_t u_t^T, and W_if = [W_q W_k W_v],
//
//   dW_q = M_a Q^T  and dQ = sum_t dq_t a_t^T + the blocks of W_q^T M_a  (so for k; for v with u), and
//   da_t = Q^T dq_t + K^T dk_t + (W_q Q + W_k K)^T dpre_t,  where the bracket does not depend on t.
//
// Sums are kept a task and added up in a fixed order, so results do not depend on the number of threads.
#include <initializer_list>
#include <type_traits>

#include "conv.h"

namespace oxl {
namespace {

constexpr int STRIP = 128;         // channels of a task of the backward pass
constexpr int MAX_SHARES = 8;      // into so many parts it splits the batch
constexpr int64_t SUM_STEPS = 64;  // steps whose weight gradients are added up before they join the total
constexpr int64_t STRETCH = 64;    // steps of a task of the forward pass, about

static OXL_INLINE vec permute(vec x, ivec from) {
#if defined(__clang__)
  vec y;
  for (int j = 0; j < W; j++) y[j] = x[from[j]];
  return y;
#else
  return __builtin_shuffle(x, from);
#endif
}

// Every lane gets number i of its block of S.
template <int S>
static OXL_INLINE vec spread(vec x, int i) {
  ivec from;
  for (int j = 0; j < W; j++) from[j] = j / S * S + i;
  return permute(x, from);
}

struct Inputs {
  Conv conv;  // of u
  View a, q, k, v;
  float* pre;  // [B, T, G]
  bool silu;
  int S, G, D, padded;                // padded: D rounded up to whole vectors
  const float *weight[3], *gate, *gate_bias;  // Q, K, V [D / S, S, S] (out, in); W_if [G, 3 D]; b_if [G]
};

// The weights as the kernels read them, rows of `padded` numbers.
struct Packed {
  float* to[3];    // [S]: row i, number n S + o is weight[n, o, i], which input i of a block sends to output o
  float* back[3];  // [S]: row o, number n S + i is weight[n, o, i]
  float* gate;     // [G, 3]
  float *on_a, *on_u;  // [G]: W_q Q + W_k K and W_v V

  static size_t size(const Inputs& n) { return (size_t)n.padded * (6 * n.S + 5 * n.G) + 64; }

  Packed(const Inputs& n, Scratch& scratch, bool backward) {
    const int S = n.S;
    const size_t row = n.padded;
    for (int part = 0; part < 3; part++) {
      to[part] = scratch.take(S * row);
      memset(to[part], 0, sizeof(float) * S * row);
      for (int d = 0; d < n.D; d++)  // d = n S + o
        for (int i = 0; i < S; i++) to[part][i * row + d] = n.weight[part][(int64_t)d * S + i];
    }
    gate = scratch.take(n.G * 3 * row);
    memset(gate, 0, sizeof(float) * n.G * 3 * row);
    for (int g = 0; g < 3 * n.G; g++) memcpy(gate + g * row, n.gate + (int64_t)g * n.D, sizeof(float) * n.D);
    if (!backward) return;
    for (int part = 0; part < 3; part++) {
      back[part] = scratch.take(S * row);
      memset(back[part], 0, sizeof(float) * S * row);
      for (int d = 0; d < n.D; d += S)
        for (int o = 0; o < S; o++)
          for (int i = 0; i < S; i++) back[part][o * row + d + i] = n.weight[part][((int64_t)d + o) * S + i];
    }
    on_a = scratch.take(n.G * row);
    on_u = scratch.take(n.G * row);
  }

  template <int S>
  void combine(const Inputs& n) {
    for (int g = 0; g < n.G; g++)
      for (int d = 0; d < n.padded; d += W) {
        const float* from = gate + (size_t)g * 3 * n.padded + d;
        const vec q = load(from), k = load(from + n.padded), v = load(from + 2 * n.padded);
        vec a = splat(0.f), u = splat(0.f);
#pragma GCC unroll 8
        for (int o = 0; o < S; o++) {
          const size_t at = (size_t)o * n.padded + d;
          a += load(back[0] + at) * spread<S>(q, o) + load(back[1] + at) * spread<S>(k, o);
          u += load(back[2] + at) * spread<S>(v, o);
        }
        store(on_a + (size_t)g * n.padded + d, a);
        store(on_u + (size_t)g * n.padded + d, u);
      }
  }
};

#if defined(__AVX512F__)
constexpr int GATES = 4;  // that are computed at once
#else
constexpr int GATES = 2;
#endif
constexpr int STEPS = 4;  // that share what is loaded of the weights

template <class E>
struct Rows {
  const E* u[GROUP];
  E *a[GROUP], *q[GROUP], *k[GROUP], *v[GROUP];
  float* pre[GROUP];
};

// q, k, v of R steps; a copy without rounding, [R, 3, padded], is left for the gates.
template <class E, int S, int R>
void project(const Inputs& n, const Packed& w, const Rows<E>& rows, int first, float* copy) {
  for (int d = 0; d < n.D; d += W) {
    const int left = n.D - d;
    vec Q[S], K[S], V[S];
#pragma GCC unroll 8
    for (int i = 0; i < S; i++) {
      const size_t at = (size_t)i * n.padded + d;
      Q[i] = load(w.to[0] + at), K[i] = load(w.to[1] + at), V[i] = load(w.to[2] + at);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      const vec a = get(rows.a[first + r] + d, left), u = get(rows.u[first + r] + d, left);
      vec q = splat(0.f), k = q, v = q;
#pragma GCC unroll 8
      for (int i = 0; i < S; i++) {
        const vec one = spread<S>(a, i);
        q += Q[i] * one, k += K[i] * one;
        v += V[i] * spread<S>(u, i);
      }
      put(rows.q[first + r] + d, q, left), put(rows.k[first + r] + d, k, left), put(rows.v[first + r] + d, v, left);
      float* keep = copy + (size_t)r * 3 * n.padded + d;
      store(keep, q), store(keep + n.padded, k), store(keep + 2 * n.padded, v);
    }
  }
}

template <int C, int R, class E>
void gates(const Inputs& n, const Packed& w, const Rows<E>& rows, int first, int gate, const float* qkv) {
  vec sum[C][R] = {};
  const int64_t row = 3 * (int64_t)n.padded;
  const float* weight = w.gate + gate * row;
  for (int64_t d = 0; d < row; d += W) {
    vec x[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) x[r] = load(qkv + r * row + d);
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) {
      const vec one = load(weight + c * row + d);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) sum[c][r] += one * x[r];
    }
  }
#pragma GCC unroll 4
  for (int c = 0; c < C; c++)
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) rows.pre[first + r][gate + c] = n.gate_bias[gate + c] + fold(sum[c][r]);
}

template <class E, int S, int R>
void project_and_gate(const Inputs& n, const Packed& w, const Rows<E>& rows, int first, float* copy) {
  project<E, S, R>(n, w, rows, first, copy);
  int gate = 0;
  for (; gate + GATES <= n.G; gate += GATES) gates<GATES, R>(n, w, rows, first, gate, copy);
  for (; gate < n.G; gate++) gates<1, R>(n, w, rows, first, gate, copy);
}

template <class E, int TAPS, int S>
void forward(const Inputs& n, const Packed& w, const View& last, int64_t b, int stretch, int stretches) {
  const Conv& c = n.conv;
  const Plan plan(c.T, c.width, c.flags(c.reset, b), c.flags(c.mask, b));
  if (stretch == 0) c.keep<E>(plan, last, b, 0, n.D);
  const Range steps = share(c.T, stretches, stretch), mine = share(plan.count, stretches, stretch);
  for (const View* x : {&n.a, &n.q, &n.k, &n.v}) clear_padding<E>(*x, c.flags(c.mask, b), b, steps.begin, steps.end, 0, n.D);
  for (int64_t t = steps.begin; c.mask && t < steps.end; t++)
    if (!c.mask[b * c.T + t]) memcpy(n.pre + (b * c.T + t) * n.G, n.gate_bias, sizeof(float) * n.G);

  Scratch scratch((size_t)STEPS * 3 * n.padded);
  float* copy = scratch.take((size_t)STEPS * 3 * n.padded);
  Rows<E> rows;
  const auto use = [&](int i, int d, int left, vec pre) {
    put(rows.a[i] + d, n.silu ? pre * vgate(pre).open : pre, left);
  };
  for (int64_t j = mine.begin; j < mine.end;) {
    const bool group = TAPS && j + GROUP <= mine.end && plan.full(j, j + GROUP);
    const int count = group ? GROUP : 1;
    for (int i = 0; i < count; i++) {
      const int64_t t = plan.step(j + i);
      rows.u[i] = c.input<E>(plan, b, j + i);
      rows.a[i] = static_cast<E*>(n.a.data) + n.a.at(b, t, 0);
      rows.q[i] = static_cast<E*>(n.q.data) + n.q.at(b, t, 0);
      rows.k[i] = static_cast<E*>(n.k.data) + n.k.at(b, t, 0);
      rows.v[i] = static_cast<E*>(n.v.data) + n.v.at(b, t, 0);
      rows.pre[i] = n.pre + (b * c.T + t) * n.G;
    }
    if constexpr (TAPS > 0)
      if (group) conv_group<E, TAPS>(c, plan, b, j, 0, n.D, use);
    if (!group) conv_step<E>(c, plan, b, j, 0, n.D, use);
    if (group)
      for (int i = 0; i < GROUP; i += STEPS) project_and_gate<E, S, STEPS>(n, w, rows, i, copy);
    else
      project_and_gate<E, S, 1>(n, w, rows, 0, copy);
    j += count;
  }
}

struct Gradients {
  View da, dq, dk, dv, dlast, du, dstate;
  const float* dpre;
};

// Numbers of a strip for up to eight steps.
typedef float Tile[GROUP][STRIP];

// Adds dpre * weight to the tile's gradients `dx`, and dpre * x to `sums`, for C gates.
template <int C, class X>
OXL_INLINE void gates_backward(const float* const* dpre, int steps, int gate, const float* weight, int64_t stride, int d,
                               float* sums, float (*dx)[STRIP], const X& x) {
  vec w[C], m[C];
#pragma GCC unroll 8
  for (int c = 0; c < C; c++) w[c] = load(weight + (gate + c) * stride), m[c] = load(sums + (gate + c) * STRIP);
  for (int r = 0; r < steps; r++) {
    const vec in = x(r);
    vec g = load(dx[r] + d);
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) {
      const vec p = splat(dpre[r][gate + c]);
      g += p * w[c];
      m[c] += p * in;
    }
    store(dx[r] + d, g);
  }
#pragma GCC unroll 8
  for (int c = 0; c < C; c++) store(sums + (gate + c) * STRIP, m[c]);
}

#if defined(__AVX512F__)
constexpr int GATES_BACK = 8;
#else
constexpr int GATES_BACK = 4;
#endif

template <class X>
OXL_INLINE void all_gates_backward(const float* const* dpre, int steps, int G, const float* weight, int64_t stride, int d,
                                   float* sums, float (*dx)[STRIP], const X& x) {
  int gate = 0;
  for (; gate + GATES_BACK <= G; gate += GATES_BACK)
    gates_backward<GATES_BACK>(dpre, steps, gate, weight, stride, d, sums, dx, x);
  for (; gate + 2 <= G; gate += 2) gates_backward<2>(dpre, steps, gate, weight, stride, d, sums, dx, x);
  for (; gate < G; gate++) gates_backward<1>(dpre, steps, gate, weight, stride, d, sums, dx, x);
}

// The same for y = weight x: dx += weight^T dy, and dy x^T is added to `sums`.
template <int S, class E, class X>
OXL_INLINE void blocks_backward(const E* const* dy, int steps, const float* back, int64_t stride, int d, int channel, int left,
                                float* sums, float (*dx)[STRIP], const X& x) {
  vec w[S], m[S];
#pragma GCC unroll 8
  for (int i = 0; i < S; i++) w[i] = load(back + i * stride), m[i] = load(sums + i * STRIP);
  for (int r = 0; r < steps; r++) {
    const vec in = x(r), out = get(dy[r] + channel, left);
    vec g = load(dx[r] + d);
#pragma GCC unroll 8
    for (int i = 0; i < S; i++) {
      m[i] += out * spread<S>(in, i);
      g += w[i] * spread<S>(out, i);
    }
    store(dx[r] + d, g);
  }
#pragma GCC unroll 8
  for (int i = 0; i < S; i++) store(sums + i * STRIP, m[i]);
}

// Rows of the sums that a task keeps: of Q, K, V [S each], M_a, M_u [G each], the taps and their bias [width + 1].
struct Layout {
  int S, G, width;
  int part(int p) const { return p * S; }
  int on_a() const { return 3 * S; }
  int on_u() const { return 3 * S + G; }
  int taps() const { return 3 * S + 2 * G; }
  int rows() const { return 3 * S + 2 * G + width + 1; }
};

template <class E, int TAPS, int S>
void backward(const Inputs& n, const Packed& w, const Gradients& grad, Range batch, int from, int until, float* result) {
  const Conv& c = n.conv;
  const Layout at{S, n.G, c.width};
  const size_t size = (size_t)STRIP * at.rows(), tile = (size_t)GROUP * STRIP;
  Scratch scratch(2 * size + (size_t)STRIP * c.width + 4 * tile);
  float *recent = scratch.take(size), *total = scratch.take(size), *pending = scratch.take((size_t)STRIP * c.width);
  auto a = reinterpret_cast<float(*)[STRIP]>(scratch.take(tile)), slope = reinterpret_cast<float(*)[STRIP]>(scratch.take(tile));
  auto da = reinterpret_cast<float(*)[STRIP]>(scratch.take(tile)), du = reinterpret_cast<float(*)[STRIP]>(scratch.take(tile));
  memset(recent, 0, sizeof(float) * size);
  memset(total, 0, sizeof(float) * size);
  const ConvSums sums{pending, recent + at.taps() * STRIP, STRIP};
  int64_t unsettled = 0;
  for (int64_t b = batch.begin; b < batch.end; b++) {
    const Plan plan(c.T, c.width, c.flags(c.reset, b), c.flags(c.mask, b));
    clear_padding<E>(grad.du, c.flags(c.mask, b), b, 0, c.T, from, until);
    pending_from_last<E>(c, plan, sums, grad.dlast, b, from, until);
    for (int64_t j = plan.count; j > 0;) {
      const bool group = TAPS && plan.full(j - GROUP, j);
      const int steps = group ? GROUP : 1;
      j -= steps;
      const E *u[GROUP], *da_in[GROUP], *out[3][GROUP];
      E* to[GROUP];
      const float* dpre[GROUP];
      for (int i = 0; i < steps; i++) {
        const int64_t t = plan.step(j + i);
        u[i] = c.input<E>(plan, b, j + i);
        da_in[i] = static_cast<const E*>(grad.da.data) + grad.da.at(b, t, 0);
        out[0][i] = static_cast<const E*>(grad.dq.data) + grad.dq.at(b, t, 0);
        out[1][i] = static_cast<const E*>(grad.dk.data) + grad.dk.at(b, t, 0);
        out[2][i] = static_cast<const E*>(grad.dv.data) + grad.dv.at(b, t, 0);
        to[i] = static_cast<E*>(grad.du.data) + grad.du.at(b, t, 0);
        dpre[i] = grad.dpre + (b * c.T + t) * n.G;
      }
      for (int i = 0; i < GROUP && i < j; i++) {  // the rows that come next are far away: the processor would not guess them
        const int64_t t = plan.step(j - 1 - i);
        for (const View* x : {&c.x, &grad.da, &grad.dq, &grad.dk, &grad.dv, &grad.du}) {
          const E* row = static_cast<const E*>(x->data) + x->at(b, t, 0);
          for (int d = from; d < until; d += 64 / sizeof(E)) __builtin_prefetch(row + d);
        }
      }
      const auto again = [&](int i, int d, int, vec pre) {
        const Gate s = vgate(pre);
        store(a[i] + d - from, n.silu ? pre * s.open : pre);
        store(slope[i] + d - from, n.silu ? silu_slope(pre, s) : splat(1.f));
      };
      if constexpr (TAPS > 0)
        if (group) conv_group<E, TAPS>(c, plan, b, j, from, until, again);
      if (!group) conv_step<E>(c, plan, b, j, from, until, again);

      for (int channel = from; channel < until; channel += W) {
        const int d = channel - from, left = until - channel;
        for (int i = 0; i < steps; i++) {
          store(da[i] + d, get(da_in[i] + channel, left));
          store(du[i] + d, splat(0.f));
        }
        const auto in_a = [&](int i) { return load(a[i] + d); };
        const auto in_u = [&](int i) { return get(u[i] + channel, left); };
        float* sum = recent + d;
        all_gates_backward(dpre, steps, n.G, w.on_a + channel, n.padded, d, sum + at.on_a() * STRIP, da, in_a);
        all_gates_backward(dpre, steps, n.G, w.on_u + channel, n.padded, d, sum + at.on_u() * STRIP, du, in_u);
        for (int p = 0; p < 2; p++)
          blocks_backward<S>(out[p], steps, w.back[p] + channel, n.padded, d, channel, left, sum + at.part(p) * STRIP, da, in_a);
        blocks_backward<S>(out[2], steps, w.back[2] + channel, n.padded, d, channel, left, sum + at.part(2) * STRIP, du, in_u);
      }

      const auto dpre_of = [&](int i, int d, int, auto) { return load(da[i] + d - from) * load(slope[i] + d - from); };
      const auto use = [&](int i, int d, int left, vec x) { put(to[i] + d, x + load(du[i] + d - from), left); };
      if constexpr (TAPS > 0)
        if (group) conv_group_backward<E, TAPS>(c, plan, sums, b, j, from, until, dpre_of, use);
      if (!group) conv_step_backward<E>(c, plan, sums, b, j, from, until, dpre_of, use);
      unsettled += steps;
      if (unsettled >= SUM_STEPS) {
        for (size_t i = 0; i < size; i++) total[i] += recent[i], recent[i] = 0;
        unsettled = 0;
      }
    }
    pending_to_state<E>(c, sums, grad.dstate, b, from, until);
  }
  for (int k = 0; k < at.rows(); k++)
    for (int d = from; d < until; d++) {
      const int i = k * STRIP + d - from;
      result[(size_t)k * n.padded + d] = total[i] + recent[i];
    }
}

struct WeightGradients {
  float *weight[3], *gate, *taps;  // as the weights; taps [width + 1, D] with the bias behind them
};

// From the sums over all steps to the gradients of the weights (the formulas above).
template <int S>
void finish(const Inputs& n, const Packed& w, const float* sums, const WeightGradients& to) {
  const Layout at{S, n.G, n.conv.width};
  const size_t row = n.padded;
  for (int d = 0; d < n.padded; d += W) {
    const int left = n.D - d;
    for (int part = 0; part < 3; part++) {
      const float* M = sums + (part < 2 ? at.on_a() : at.on_u()) * row + d;
      vec blocks[S];
#pragma GCC unroll 8
      for (int i = 0; i < S; i++) blocks[i] = load(sums + (at.part(part) + i) * row + d);
      for (int g = 0; g < n.G; g++) {
        const vec gate = load(w.gate + ((size_t)g * 3 + part) * row + d), m = load(M + g * row);
        vec dgate = splat(0.f);
#pragma GCC unroll 8
        for (int i = 0; i < S; i++) {
          const vec one = spread<S>(m, i);
          dgate += load(w.to[part] + i * row + d) * one;
          blocks[i] += gate * one;
        }
        put(to.gate + ((size_t)g * 3 + part) * n.D + d, dgate, left);
      }
      for (int i = 0; i < S; i++)
        for (int j = 0; j < W && j < left; j++) to.weight[part][((int64_t)d + j) * S + i] = blocks[i][j];
    }
  }
  for (int k = 0; k <= n.conv.width; k++)
    memcpy(to.taps + (int64_t)k * n.D, sums + (at.taps() + k) * row, sizeof(float) * n.D);
}

template <class E, int TAPS, int S>
void forward_all(const Inputs& n, const View& last, int threads) {
  Scratch scratch(Packed::size(n));
  const Packed w(n, scratch, false);
  const int64_t T = n.conv.T, B = n.conv.B;
  const int stretches = T > STRETCH ? static_cast<int>((T + STRETCH - 1) / STRETCH) : 1;
  const int64_t tasks = B * stretches;
  on_threads(threads < tasks ? threads : static_cast<int>(tasks), [&](int thread, int running) {
    const Range mine = share(tasks, running, thread);
    for (int64_t i = mine.begin; i < mine.end; i++)
      forward<E, TAPS, S>(n, w, last, i / stretches, static_cast<int>(i % stretches), stretches);
  });
}

template <class E, int TAPS, int S>
void backward_all(const Inputs& n, const Gradients& grad, const WeightGradients& to, int threads) {
  const int64_t B = n.conv.B;
  const int shares = B < 1 ? 1 : B < MAX_SHARES ? static_cast<int>(B) : MAX_SHARES;
  const size_t size = (size_t)Layout{S, n.G, n.conv.width}.rows() * n.padded;
  Scratch scratch(Packed::size(n) + shares * (size + 16));
  Packed w(n, scratch, true);
  w.combine<S>(n);
  float* sums = scratch.take(shares * size);
  memset(sums, 0, sizeof(float) * shares * size);
  const int strips = (n.D + STRIP - 1) / STRIP, tasks = shares * strips;
  on_threads(threads < tasks ? threads : tasks, [&](int thread, int running) {
    const Range mine = share(tasks, running, thread);
    for (int64_t i = mine.begin; i < mine.end; i++) {
      const int part = static_cast<int>(i / strips), from = static_cast<int>(i % strips) * STRIP;
      const int until = from + STRIP < n.D ? from + STRIP : n.D;
      backward<E, TAPS, S>(n, w, grad, share(B, shares, part), from, until, sums + part * size);
    }
  });
  for (int part = 1; part < shares; part++)
    for (size_t i = 0; i < size; i++) sums[i] += sums[part * size + i];
  finish<S>(n, w, sums, to);
}

// Calls body<E, TAPS, S>() for the element type, width and block size that n has.
template <class Body>
void dispatch(const Inputs& n, const Body& body) {
  const auto sized = [&](auto element, auto taps) {
    using E = decltype(element);
    constexpr int TAPS = decltype(taps)::value;
    if (n.S == 4) return body.template operator()<E, TAPS, 4>();
    if (n.S == 2) return body.template operator()<E, TAPS, 2>();
    if constexpr (W >= 8)
      if (n.S == 8) return body.template operator()<E, TAPS, 8>();
  };
  const auto wide = [&](auto element) {
    n.conv.width == 4 ? sized(element, std::integral_constant<int, 4>()) : sized(element, std::integral_constant<int, 0>());
  };
  n.conv.x.bf16 ? wide(uint16_t()) : wide(float());
}

struct Forward {
  const Inputs& n;
  const View& last;
  int threads;
  template <class E, int TAPS, int S>
  void operator()() const { forward_all<E, TAPS, S>(n, last, threads); }
};

struct Backward {
  const Inputs& n;
  const Gradients& grad;
  const WeightGradients& to;
  int threads;
  template <class E, int TAPS, int S>
  void operator()() const { backward_all<E, TAPS, S>(n, grad, to, threads); }
};

}  // namespace
}  // namespace oxl

// u, a, q, k, v [B, T, D]; state, last [B, width - 1, D]; taps [width, D], oldest first; tap_bias [D], reset, mask [B, T] or
// null; Q, K, V [D / S, S, S] (block, out, in), S 2, 4 or 8 and no wider than a vector; gate [G, 3 D], gate_bias [G];
// pre [B, T, G] contiguous.
OXL_EXPORT void openxlstm_qkv_gates_forward(
    const oxl::View* u, const oxl::View* state, const float* taps, const float* tap_bias, const uint8_t* reset,
    const uint8_t* mask, const float* Q, const float* K, const float* V, const float* gate, const float* gate_bias,
    const oxl::View* a, const oxl::View* q, const oxl::View* k, const oxl::View* v, float* pre, const oxl::View* last,
    int64_t B, int64_t T, int D, int width, int S, int G, int silu, int threads) {
  using namespace oxl;
  const Inputs n{{*u, *state, taps, tap_bias, reset, mask, B, T, D, width}, *a, *q, *k, *v, pre, silu != 0, S, G, D,
                 round_up(D), {Q, K, V}, gate, gate_bias};
  dispatch(n, Forward{n, *last, threads});
}

OXL_EXPORT void openxlstm_qkv_gates_backward(
    const oxl::View* u, const oxl::View* state, const float* taps, const float* tap_bias, const uint8_t* reset,
    const uint8_t* mask, const float* Q, const float* K, const float* V, const float* gate, const oxl::View* da,
    const oxl::View* dq, const oxl::View* dk, const oxl::View* dv, const float* dpre, const oxl::View* dlast,
    const oxl::View* du, const oxl::View* dstate, float* dQ, float* dK, float* dV, float* dgate, float* dtaps, int64_t B,
    int64_t T, int D, int width, int S, int G, int silu, int threads) {
  using namespace oxl;
  const Inputs n{{*u, *state, taps, tap_bias, reset, mask, B, T, D, width}, {}, {}, {}, {}, nullptr, silu != 0, S, G, D,
                 round_up(D), {Q, K, V}, gate, nullptr};
  const Gradients grad{*da, *dq, *dk, *dv, *dlast, *du, *dstate, dpre};
  dispatch(n, Backward{n, grad, {{dQ, dK, dV}, dgate, dtaps}, threads});
}
