// mLSTM in chunks of L steps, forward and exact backward. Symbols and equation numbers as in docs/math/mlstm.md.
//
// A memory is one head of one sequence. Its chunks are worked off in order by one thread, with everything a chunk needs in
// that thread's scratch; with fewer memories than threads the time axis is cut into segments (see `Segments`). Inputs are
// read where they are, row by row, into contiguous rows padded to whole vectors.
#include <algorithm>

#include "gemm.h"
#include "library.h"
#include "scratch.h"

namespace oxl {

constexpr double MASKED_LOG_GATE = -4e30;  // as in openxlstm.ops.numerics

// The arguments of both passes; the mirror in Python is `Problem` in openxlstm/ops/mlstm/cpu.py.
struct MLSTM {
  int32_t B, T, H, K, V, L;  // batch, steps, heads, width of a key, of a value, steps a chunk
  int32_t normalize, sigmoid_input, num_threads;
  float eps;
  View q, k, v, i_pre, f_pre;           // gates are float
  const uint8_t *reset, *mask;          // [B, T] or null
  const float *C0, *n0, *m0;            // the first state: [B, H, K, V], [B, H, K], [B, H]
  View h;                               // [B, T, H, V]
  float *C, *n, *m;                     // the last state
  float* states;                        // [B * H, chunks, state_size()]: state before each chunk; null: not kept
  double* m_in;                         // [B * H, chunks + 1]: stabiliser before each chunk, and after the last
  float* nq;                            // [B * H, T]: n q / sqrt(K); null: not kept
  View dh;                              // backward only, from here on
  const float *dC, *dn;                 // of the last state, or null
  View dq, dk, dv;
  float *di_pre, *df_pre;               // [B, T, H]
  float *dC0, *dn0;

  int Kp() const { return round_up(K); }
  int Vp() const { return round_up(V); }
  int Lp() const { return round_up(L); }
  int chunks() const { return (T + L - 1) / L; }
  int64_t memories() const { return (int64_t)B * H; }
  int64_t state_size() const { return (int64_t)K * Vp() + Kp(); }  // C with rows padded to Vp, then n
  float scale() const { return 1.f / std::sqrt((float)K); }
};

// ---- gates -------------------------------------------------------------------------------------------------------------

// All that follows from the gates of one chunk (14)-(19). Exponents are differences of sums that reach thousands when gates
// are closed, so the sums are double and are kept as two floats each, high + low: D_ts = exp(e_s - M_t) loses nothing.
struct Gates {
  float *e_high, *e_low;  // e_s = log i_s - b_s
  float *M_high, *M_low;  // M_t = m_t - b_t
  float *r, *w, *m;
  float* low;             // exp(-m), held below overflow (`inverse_scale` in openxlstm.ops.numerics)
  float* first;           // first step of the chunk that step t may see: where its document begins
  float *log_i, *log_f;   // temporaries
  float g;                // what is kept of the incoming memory
  bool reads;             // whether any step sees the incoming memory: not if it is empty, or emptied by the first step
  double m_out;

  explicit Gates(const MLSTM& p, Scratch& s) {
    for (float** x : {&e_high, &e_low, &M_high, &M_low, &r, &w, &m, &low, &first, &log_i, &log_f}) *x = s.take(p.Lp());
  }
  static size_t floats(const MLSTM& p) { return 11 * (size_t)(p.Lp() + 16); }

  void compute(const MLSTM& p, int b, int head, int t0, int L, double m_prev) {
    const float* i_pre = (const float*)p.i_pre.data + p.i_pre.at(b, t0, head);
    const float* f_pre = (const float*)p.f_pre.data + p.f_pre.at(b, t0, head);
    const uint8_t* reset = p.reset ? p.reset + (int64_t)b * p.T + t0 : nullptr;
    const uint8_t* mask = p.mask ? p.mask + (int64_t)b * p.T + t0 : nullptr;
    for (int t = 0; t < L; t++) {
      log_i[t] = i_pre[t * p.i_pre.time];
      log_f[t] = f_pre[t * p.f_pre.time];
    }
    const int Lp = round_up(L);
    for (int t = L; t < Lp; t++) log_i[t] = log_f[t] = 0;
    for (int t = 0; t < Lp; t += W) {
      store(log_f + t, vlog_sigmoid(load(log_f + t)));
      if (p.sigmoid_input) store(log_i + t, vlog_sigmoid(load(log_i + t)));
    }
    double sum_f = 0, M = m_prev;  // b_t, and the running maximum of m_prev and e
    int begin = -1;                // the last reset, if there was one
    for (int t = 0; t < L; t++) {
      const bool empty = reset && reset[t], padded = mask && !mask[t];
      if (empty) begin = t, M = MASKED_LOG_GATE;
      if (!empty && !padded) sum_f += log_f[t];  // nothing passes a reset, so its gate has no meaning
      const double e = (padded ? MASKED_LOG_GATE : (double)log_i[t]) - sum_f;
      M = std::max(M, e);
      m_out = std::max(sum_f + M, (double)EMPTY_M);
      split(e, e_high[t], e_low[t]);
      split(m_out - sum_f, M_high[t], M_low[t]);
      m[t] = (float)m_out;
      r[t] = begin < 0 ? (float)(m_prev - (m_out - sum_f)) : -INFINITY;
      first[t] = (float)std::max(begin, 0);
    }
    for (int s = 0; s < L; s++)
      w[s] = s < begin ? -INFINITY : (float)(((double)e_high[s] + (double)e_low[s]) + (sum_f - m_out));
    for (int t = L; t < Lp; t++) e_high[t] = e_low[t] = m[t] = 0, r[t] = w[t] = -INFINITY;
    for (int t = 0; t < Lp; t += W) {
      store(r + t, vexp(load(r + t)));
      store(w + t, vexp(load(w + t)));
      store(low + t, vexp(at_most(-load(m + t), splat(80.f))));
    }
    g = begin < 0 ? (float)std::exp(sum_f + m_prev - m_out) : 0.f;
    reads = false;
    for (int t = 0; t < L; t++) reads |= !(r[t] == 0.f);  // a NaN reads
  }

  // D_ts (16) of row t and the W columns from s on.
  OXL_INLINE vec weights(int t, int s) const {
    const vec x = (load(e_high + s) - M_high[t]) + (load(e_low + s) - M_low[t]);
    const vec column = iota() + (float)s;
    return select((column <= splat((float)t)) & (column >= splat(first[t])), vexp(x), splat(0.f));
  }

 private:
  static void split(double x, float& high, float& low) {
    high = (float)x;
    low = (float)(x - (double)high);
  }
};

// ---- rows in and out ---------------------------------------------------------------------------------------------------

template <class Number>
static OXL_INLINE void load_row(const Number* from, int width, float* to) {
  int d = 0;
  for (; d + W <= width; d += W) store(to + d, load(from + d));
  if (d < width) store(to + d, load_part(from + d, width - d));
}

// Steps t0 .. t0 + L of one memory as rows of `stride` floats; zeros where the step is padding and behind `width`.
static __attribute__((noinline)) void load_rows(const View& x, int b, int head, int t0, int L, int width, const uint8_t* mask, float* to, int stride) {
  for (int t = 0; t < L; t++) {
    float* row = to + (int64_t)t * stride;
    if (mask && !mask[t0 + t])
      memset(row, 0, sizeof(float) * stride);
    else if (x.bf16)
      load_row((const uint16_t*)x.data + x.at(b, t0 + t, head), width, row);
    else
      load_row((const float*)x.data + x.at(b, t0 + t, head), width, row);
  }
}

// The keys of a chunk, transposed [width, L] and as rows times `weight`, in one pass over them. float, whole vectors, no padding.
static __attribute__((noinline)) void load_keys(
    const float* k, int64_t time, int L, int width, const float* weight, float* transposed, int Lp, float* weighted) {
  for (int t = 0; t < L; t += W)
    for (int d = 0; d < width; d += W) {
      vec tile[W];
      for (int a = 0; a < W; a++) {
        tile[a] = t + a < L ? load(k + (t + a) * time + d) : splat(0.f);
        if (t + a < L) store(weighted + (int64_t)(t + a) * width + d, tile[a] * weight[t + a]);
      }
      transpose_tile(tile);
      for (int a = 0; a < W; a++) store(transposed + (int64_t)(d + a) * Lp + t, tile[a]);
    }
}

// The rows of the chunk that is next, asked for while this one is computed: their distance is a stride that the processor does
// not foresee, and waiting for them took a fifth of the time.
struct Ahead {
  const View* x[4];
  int width[4];
  int tensors, b, head, first, count;  // steps first .. first + count; count 0: there is no next chunk

  OXL_INLINE void fetch(int m, int rows) const {
    for (int t = m; t < std::min(m + rows, count); t++)
      for (int j = 0; j < tensors; j++) {
        const int size = x[j]->bf16 ? 2 : 4;
        const char* row = (const char*)x[j]->data + x[j]->at(b, first + t, head) * size;
        for (int byte = 0; byte < width[j] * size; byte += 64) __builtin_prefetch(row + byte, 0, 2);
      }
  }
};

// One row piece of V vectors, from `column` on, into a tensor [B, T, H, width]: what lies behind `width` is dropped.
template <int V, class Number>
static OXL_INLINE void store_vectors(Number* to, int left, const vec* row) {
  if (left >= V * W) {
#pragma GCC unroll 8
    for (int j = 0; j < V; j++) store(to + j * W, row[j]);
  } else {
    for (int j = 0; j * W < left; j++) store_part(to + j * W, row[j], std::min(W, left - j * W));
  }
}
template <int V>
static OXL_INLINE void store_row(const View& x, int64_t at, int column, int width, const vec* row) {
  if (x.bf16)
    store_vectors<V>((uint16_t*)x.data + at + column, width - column, row);
  else
    store_vectors<V>((float*)x.data + at + column, width - column, row);
}

static __attribute__((noinline)) void scale_rows(int L, int stride, const float* factor, float* x) {
  for (int t = 0; t < L; t++)
    for (int d = 0; d < stride; d += W) store(x + t * stride + d, load(x + t * stride + d) * factor[t]);
}

static OXL_INLINE float dot(int64_t size, const float* x, const float* y) {
  vec s = splat(0.f);
  for (int64_t d = 0; d < size; d += W) s += load(x + d) * load(y + d);
  return sum(s);
}

// ---- products of a chunk -----------------------------------------------------------------------------------------------

template <int R, int V>
static OXL_INLINE void clear(vec acc[R][V]) {
#pragma GCC unroll 8
  for (int i = 0; i < R; i++)
#pragma GCC unroll 8
    for (int j = 0; j < V; j++) acc[i][j] = splat(0.f);
}

// S = (Q K^T) * D (20), and the sums of its rows.
struct Scores {
  int K;
  Left Q;
  const float* Kt;
  const Gates& gates;
  float *S, *row_sum;
  int Lp;

  template <int R, int V>
  OXL_INLINE void operator()(int m, int n) const {
    vec acc[R][V];
    clear<R, V>(acc);
    accumulate<R, V>(acc, K, Q + m, Kt + n, Lp);
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) {
      vec total = splat(0.f);
#pragma GCC unroll 8
      for (int j = 0; j < V; j++) {
        const vec x = acc[i][j] * gates.weights(m + i, n + j * W);
        store(S + (int64_t)(m + i) * Lp + n + j * W, x);
        total += x;
      }
      row_sum[m + i] = (n ? row_sum[m + i] : 0.f) + sum(total);
    }
  }
};

// h = read (S V + r (Q C)) (21), (23), straight into the output.
struct ReadOut {
  const MLSTM& p;
  int K;                   // width of Q; 0: nothing is read from C
  Left Q;
  const float *C, *S, *Vm, *r, *read;
  int64_t h_at;
  const Ahead& ahead;

  template <int R, int V>
  OXL_INLINE void operator()(int m, int n) const {
    const int Vp = p.Vp(), Lp = p.Lp();
    if (n == 0) ahead.fetch(m, R);
    vec acc[R][V];
    clear<R, V>(acc);
    accumulate<R, V>(acc, K, Q + m, C + n, Vp);
#pragma GCC unroll 8
    for (int i = 0; i < R; i++)
#pragma GCC unroll 8
      for (int j = 0; j < V; j++) acc[i][j] *= r[m + i];
    accumulate<R, V>(acc, m + R, Left{S + (int64_t)m * Lp, Lp, 1}, Vm + n, Vp);
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) {
#pragma GCC unroll 8
      for (int j = 0; j < V; j++) acc[i][j] *= read[m + i];
      store_row<V>(p.h, h_at + (m + i) * p.h.time, n, p.V, acc[i]);
    }
  }
};

// to = g from + A^T X, [K, Vp]: the memory that leaves a chunk (24), or in the backward pass dC (31). A [L, Kp], X [L, Vp].
struct Update {
  int L, Kp, Vp;
  float g;
  const float *A, *X, *from;
  float* to;

  template <int R, int V>
  OXL_INLINE void operator()(int m, int n) const {
    vec acc[R][V];
    clear<R, V>(acc);
    const int64_t at = (int64_t)m * Vp + n;
    if (g != 0.f) {  // after a reset whatever was there is gone, NaN too
#pragma GCC unroll 8
      for (int i = 0; i < R; i++)
#pragma GCC unroll 8
        for (int j = 0; j < V; j++) acc[i][j] = g * load(from + at + (int64_t)i * Vp + j * W);
    }
    accumulate<R, V>(acc, L, Left{A + m, 1, Kp}, X + n, Vp);
#pragma GCC unroll 8
    for (int i = 0; i < R; i++)
#pragma GCC unroll 8
      for (int j = 0; j < V; j++) store(to + at + (int64_t)i * Vp + j * W, acc[i][j]);
  }
};

// to = g from + sum_t c_t A_t, [Kp]: the same for the normaliser (24), (32). c null: ones.
static __attribute__((noinline)) void update_n(int L, int Kp, float g, const float* A, const float* c, const float* from, float* to) {
  for (int d = 0; d < Kp; d += W) {
    vec s = g != 0.f ? g * load(from + d) : splat(0.f);
    for (int t = 0; t < L; t++) s += load(A + (int64_t)t * Kp + d) * (c ? c[t] : 1.f);
    store(to + d, s);
  }
}

// S as above; P * D with P = dnum V^T, the part of dS (27) that does not go through the normaliser; D; and sum_s S_ts P_ts.
struct ScoreGradients {
  int K, V_;
  const float *Q, *Kt, *dnum, *Vt;
  const Gates& gates;
  float *S, *dS, *D, *row_dot;
  int Kp, Vp, Lp;

  template <int R, int V>
  OXL_INLINE void operator()(int m, int n) const {
    vec acc[R][V];
    clear<R, V>(acc);
    accumulate<R, V>(acc, K, Left{Q + (int64_t)m * Kp, Kp, 1}, Kt + n, Lp);
#pragma GCC unroll 8
    for (int i = 0; i < R; i++)
#pragma GCC unroll 8
      for (int j = 0; j < V; j++) {
        const int64_t at = (int64_t)(m + i) * Lp + n + j * W;
        const vec d = gates.weights(m + i, n + j * W);
        store(S + at, acc[i][j] * d);
        store(D + at, d);
      }
    clear<R, V>(acc);
    accumulate<R, V>(acc, V_, Left{dnum + (int64_t)m * Vp, Vp, 1}, Vt + n, Lp);
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) {
      vec total = splat(0.f);
#pragma GCC unroll 8
      for (int j = 0; j < V; j++) {
        const int64_t at = (int64_t)(m + i) * Lp + n + j * W;
        total += acc[i][j] * load(S + at);
        store(dS + at, acc[i][j] * load(D + at));
      }
      row_dot[m + i] = (n ? row_dot[m + i] : 0.f) + sum(total);
    }
  }
};

// One row of dq (29), dk (30) or dv (28): out = c (G + A M + a x) + (S or S^T) Y, and its product with the row of `with`.
struct InputGradient {
  View out;
  int64_t at;              // of the chunk's first row in `out`
  int width, stride;       // numbers in a row of `out`, floats in a row of M, Y and `with`
  const float* G;          // [L, stride], or null
  int inner;               // width of A, 0: none
  const float *A, *M;      // [L, A_stride], [inner, stride]
  int A_stride;
  const float *a, *x;      // [L] (null: ones) and [stride], or x null
  const float* c;          // [L]
  const float* S;          // lower triangle [L, Lp]
  bool transposed;         // S^T: later rows instead of earlier ones
  const float* Y;          // [L, stride]
  int L, Lp;
  const float* with;       // [L, stride], or null
  float* product;          // [L]
  const Ahead* ahead;      // or null

  template <int R, int V>
  OXL_INLINE void operator()(int m, int n) const {
    if (ahead && n == 0) ahead->fetch(m, R);
    vec acc[R][V];
    clear<R, V>(acc);
    if (G)
#pragma GCC unroll 8
      for (int i = 0; i < R; i++)
#pragma GCC unroll 8
        for (int j = 0; j < V; j++) acc[i][j] = load(G + (int64_t)(m + i) * stride + n + j * W);
    accumulate<R, V>(acc, inner, Left{A + (int64_t)m * A_stride, A_stride, 1}, M + n, stride);
#pragma GCC unroll 8
    for (int i = 0; i < R; i++)
#pragma GCC unroll 8
      for (int j = 0; j < V; j++) {
        if (x) acc[i][j] += load(x + n + j * W) * (a ? a[m + i] : 1.f);
        acc[i][j] *= c[m + i];
      }
    if (transposed)
      accumulate<R, V>(acc, L - m, Left{S + (int64_t)m * Lp + m, 1, Lp}, Y + (int64_t)m * stride + n, stride);
    else
      accumulate<R, V>(acc, m + R, Left{S + (int64_t)m * Lp, Lp, 1}, Y + n, stride);
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) {
      if (with) {
        vec s = splat(0.f);
#pragma GCC unroll 8
        for (int j = 0; j < V; j++) s += acc[i][j] * load(with + (int64_t)(m + i) * stride + n + j * W);
        product[m + i] = (n ? product[m + i] : 0.f) + sum(s);
      }
      store_row<V>(out, at + (m + i) * out.time, n, width, acc[i]);
    }
  }
};

// ---- states ------------------------------------------------------------------------------------------------------------

// C [K, V] and n [K] of one memory to and from rows padded with zeros.
static void load_state(const MLSTM& p, const float* C, const float* n, float* to) {
  for (int d = 0; d < p.K; d++) {
    if (C) load_row(C + (int64_t)d * p.V, p.V, to + (int64_t)d * p.Vp());
    else memset(to + (int64_t)d * p.Vp(), 0, sizeof(float) * p.Vp());
  }
  float* to_n = to + (int64_t)p.K * p.Vp();
  if (n) load_row(n, p.K, to_n);
  else memset(to_n, 0, sizeof(float) * p.Kp());
}
static void store_state(const MLSTM& p, const float* from, float* C, float* n) {
  for (int d = 0; d < p.K; d++) memcpy(C + (int64_t)d * p.V, from + (int64_t)d * p.Vp(), sizeof(float) * p.V);
  memcpy(n, from + (int64_t)p.K * p.Vp(), sizeof(float) * p.K);
}

// With fewer memories than threads, time is cut into segments of whole chunks. What a segment adds to the state, starting
// from nothing, and how much of an earlier state it keeps are computed for all segments side by side; a short loop then gives
// the state that enters each, and the segments run side by side. That computes the states twice and everything else once.
struct Segments {
  int count, chunks;
  explicit Segments(const MLSTM& p) : chunks(p.chunks()) {
    const int64_t X = p.memories();
    count = X >= p.num_threads ? 1 : (int)std::min<int64_t>(chunks, (p.num_threads + X - 1) / X);
  }
  int begin(int segment) const { return (int)((int64_t)chunks * segment / count); }
  int end(int segment) const { return begin(segment + 1); }
};

// ---- forward -----------------------------------------------------------------------------------------------------------

struct Forward {
  const MLSTM& p;
  Scratch scratch;
  Gates gates;
  float *Q, *Kt, *Km, *Vm, *S, *row_sum, *read, *state;

  static size_t floats(const MLSTM& p) {
    const size_t L = p.Lp(), K = p.Kp(), V = p.Vp();
    return Gates::floats(p) + 3 * L * K + L * V + L * L + 2 * L + p.state_size() + 8 * 16;
  }
  explicit Forward(const MLSTM& p) : p(p), scratch(floats(p)), gates(p, scratch) {
    const size_t L = p.Lp(), K = p.Kp(), V = p.Vp();
    Q = scratch.take(L * K), Kt = scratch.take(K * L), Km = scratch.take(L * K), Vm = scratch.take(L * V);
    S = scratch.take(L * L), row_sum = scratch.take(L), read = scratch.take(L), state = scratch.take(p.state_size());
  }

  struct Place {
    int b, head, t0, L;
    const uint8_t* mask;
  };
  Place place(int64_t x, int c) const {
    const int b = (int)(x / p.H), t0 = c * p.L;
    return {b, (int)(x % p.H), t0, std::min(p.L, p.T - t0), p.mask ? p.mask + (int64_t)b * p.T : nullptr};
  }

  // The stabilisers that enter all chunks of a memory.
  void stabilisers(int64_t x) {
    double* m_in = p.m_in + x * (p.chunks() + 1);
    m_in[0] = p.m0 ? (double)p.m0[x] : (double)EMPTY_M;
    for (int c = 0; c < p.chunks(); c++) {
      const Place at = place(x, c);
      gates.compute(p, at.b, at.head, at.t0, at.L, m_in[c]);
      m_in[c + 1] = gates.m_out;
    }
    p.m[x] = (float)m_in[p.chunks()];
  }

  void load_chunk(const Place& at, int64_t x, int c) {
    gates.compute(p, at.b, at.head, at.t0, at.L, p.m_in[x * (p.chunks() + 1) + c]);
    load_rows(p.k, at.b, at.head, at.t0, at.L, p.K, at.mask, Km, p.Kp());
    load_rows(p.v, at.b, at.head, at.t0, at.L, p.V, at.mask, Vm, p.Vp());
  }

  // Whether queries and keys can be used where they are: float, whole vectors, nothing to blank out.
  bool direct(const Place& at) const { return !p.q.bf16 && !p.k.bf16 && p.K % W == 0 && !at.mask; }

  // The same for a forward pass: keys transposed (Kt) and times w (Km), values, and the queries, loaded or in place.
  Left load_all(const Place& at, int64_t x, int c) {
    if (direct(at)) {
      gates.compute(p, at.b, at.head, at.t0, at.L, p.m_in[x * (p.chunks() + 1) + c]);
      load_keys((const float*)p.k.data + p.k.at(at.b, at.t0, at.head), p.k.time, at.L, p.K, gates.w, Kt, p.Lp(), Km);
      load_rows(p.v, at.b, at.head, at.t0, at.L, p.V, at.mask, Vm, p.Vp());
      return {(const float*)p.q.data + p.q.at(at.b, at.t0, at.head), p.q.time, 1};
    }
    load_chunk(at, x, c);
    load_rows(p.q, at.b, at.head, at.t0, at.L, p.K, at.mask, Q, p.Kp());
    clear_rows(at.L, p.Kp(), Km);
    transpose(round_up(at.L), p.Kp(), Km, p.Kp(), Kt, p.Lp());
    scale_rows(at.L, p.Kp(), gates.w, Km);
    return {Q, p.Kp(), 1};
  }

  // to = the state after chunk c, from the one before it (24); Km holds the keys times w.
  void update(const Place& at, const float* from, float* to) {
    const int Kp = p.Kp(), Vp = p.Vp();
    const int64_t n = (int64_t)p.K * Vp;
    tiles(p.K, Vp, Update{at.L, Kp, Vp, gates.g, Km, Vm, from, to});
    update_n(at.L, Kp, gates.g, Km, nullptr, from + n, to + n);
  }

  // What the chunks of a segment write, starting from nothing; returns how much they keep.
  float contribution(int64_t x, int begin, int end, float* to) {
    memset(to, 0, sizeof(float) * p.state_size());
    float kept = 1;
    for (int c = begin; c < end; c++) {
      const Place at = place(x, c);
      load_chunk(at, x, c);
      scale_rows(at.L, p.Kp(), gates.w, Km);
      update(at, to, to);
      kept *= gates.g;
    }
    return kept;
  }

  // Chunks begin .. end, from the state in `from`. Returns the state after them (in scratch or in p.states' next slot).
  const float* run(int64_t x, int begin, int end, const float* from) {
    const int64_t size = p.state_size();
    float* now = state;
    if (p.states) now = p.states + (x * p.chunks() + begin) * size;
    memcpy(now, from, sizeof(float) * size);
    for (int c = begin; c < end; c++) {
      const Place at = place(x, c);
      const Left q = load_all(at, x, c);
      triangle(at.L, Scores{p.K, q, Kt, gates, S, row_sum, p.Lp()});
      const float* n = now + (int64_t)p.K * p.Vp();
      float* nq = p.nq ? p.nq + x * p.T + at.t0 : nullptr;
      for (int t = 0; t < at.L; t++) {
        const float value = p.scale() * (row_sum[t] + (gates.reads ? gates.r[t] * dot(p.Kp(), (q + t).a, n) : 0.f));
        if (nq) nq[t] = value;
        read[t] = at.mask && !at.mask[at.t0 + t] ? 0.f : p.scale() * read_scale(t, value);
      }
      const Ahead ahead{{&p.q, &p.k, &p.v}, {p.K, p.K, p.V}, 3, at.b, at.head, at.t0 + p.L, c + 1 < end ? place(x, c + 1).L : 0};
      tiles(at.L, p.Vp(), ReadOut{p, gates.reads ? p.K : 0, q, now, S, Vm, gates.r, read, p.h.at(at.b, at.t0, at.head), ahead});
      float* next = p.states && c + 1 < end ? now + size : state;
      update(at, now, next);
      now = next;
    }
    return now;
  }

  // 1 / (max(|nq|, exp(-m)) + eps), or exp(m) without normalisation (23), of step t of the chunk.
  float read_scale(int t, float nq) const {
    if (!p.normalize) return std::exp(gates.m[t]);
    const float size = std::fabs(nq);
    return 1.f / ((size < gates.low[t] ? gates.low[t] : size) + p.eps);  // a NaN stays one
  }

  // The rows behind the last step up to a whole vector, which the transposition reads.
  static void clear_rows(int L, int stride, float* x) {
    memset(x + (int64_t)L * stride, 0, sizeof(float) * (round_up(L) - L) * stride);
  }
};

static void forward(const MLSTM& p) {
  const int64_t X = p.memories(), size = p.state_size();
  const Segments segments(p);
  const int P = segments.count;
  Scratch shared(X * P * (size + 16) + X * P);
  float* entering = shared.take(X * P * size);  // [X, P]: what the segment before wrote, then the state that enters
  float* kept = shared.take(X * P);
#pragma omp parallel num_threads(p.num_threads)
  {
    Forward task(p);
#pragma omp for schedule(dynamic, 1)
    for (int64_t x = 0; x < X; x++) {
      task.stabilisers(x);
      load_state(p, p.C0 ? p.C0 + x * p.K * p.V : nullptr, p.n0 ? p.n0 + x * p.K : nullptr, entering + x * P * size);
    }
    if (P > 1) {
#pragma omp for schedule(dynamic, 1)
      for (int64_t j = 0; j < X * (P - 1); j++) {
        const int64_t x = j / (P - 1), next = x * P + j % (P - 1) + 1;
        const int s = (int)(j % (P - 1));
        kept[next] = task.contribution(x, segments.begin(s), segments.end(s), entering + next * size);
      }
#pragma omp for schedule(dynamic, 1)
      for (int64_t x = 0; x < X; x++)
        for (int s = 1; s < P; s++) {
          float* to = entering + (x * P + s) * size;
          const float g = kept[x * P + s];
          if (g != 0.f)
            for (int64_t d = 0; d < size; d++) to[d] += g * to[d - size];
        }
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t j = 0; j < X * P; j++) {
      const int64_t x = j / P;
      const int s = (int)(j % P);
      const float* last = task.run(x, segments.begin(s), segments.end(s), entering + j * size);
      if (s == P - 1) store_state(p, last, p.C + x * p.K * p.V, p.n + x * p.K);
    }
  }
}

// ---- backward ----------------------------------------------------------------------------------------------------------

struct Backward {
  const MLSTM& p;
  Forward forward;  // its scratch holds q, k, v and the gates
  Scratch scratch;
  float *dnum, *dnq, *Vt, *dS, *D, *G, *row_dot, *Ct, *dCt, *size_q, *size_k, *dstate, *after;
  bool live;  // whether anything has come into dstate; else it is zero

  static size_t floats(const MLSTM& p) {
    const size_t L = p.Lp(), K = p.Kp(), V = p.Vp();
    return 2 * L * V + 2 * L * L + L * K + 2 * K * V + 4 * L + 2 * (K * V + K) + 13 * 16;
  }
  explicit Backward(const MLSTM& p) : p(p), forward(p), scratch(floats(p)) {
    const size_t L = p.Lp(), K = p.Kp(), V = p.Vp();
    dnum = scratch.take(L * V), Vt = scratch.take(V * L), dS = scratch.take(L * L), D = scratch.take(L * L);
    G = scratch.take(L * K), Ct = scratch.take(V * K), dCt = scratch.take(V * K);
    dnq = scratch.take(L), row_dot = scratch.take(L), size_q = scratch.take(L), size_k = scratch.take(L);
    dstate = scratch.take(K * V + K), after = scratch.take(K * V + K);
  }

  // All of chunk c that does not depend on what comes after it: q, k, v, S, dnum (25), G = dnum C^T, dnq (26) and dS (27).
  // dh . h = dnum . num of (26) is sum_s S_ts P_ts + r_t q_t . G_t, so h is not needed, and its rounding to bfloat16 does no harm.
  void load_chunk(const Forward::Place& at, int64_t x, int c, const float* state) {
    const int Kp = p.Kp(), Vp = p.Vp(), Lp = p.Lp();
    const Gates& gates = forward.gates;
    float *Q = forward.Q, *Km = forward.Km, *Vm = forward.Vm;
    forward.load_chunk(at, x, c);
    load_rows(p.q, at.b, at.head, at.t0, at.L, p.K, at.mask, Q, Kp);
    load_rows(p.dh, at.b, at.head, at.t0, at.L, p.V, at.mask, dnum, Vp);
    const float* nq = p.nq + x * p.T + at.t0;
    for (int t = 0; t < at.L; t++) {
      float* row = dnum + (int64_t)t * Vp;
      const float factor = p.scale() * forward.read_scale(t, nq[t]);
      for (int d = 0; d < Vp; d += W) store(row + d, load(row + d) * factor);
    }
    Forward::clear_rows(at.L, Kp, Km);
    Forward::clear_rows(at.L, Vp, Vm);
    transpose(round_up(at.L), Kp, Km, Kp, forward.Kt, Lp);
    transpose(round_up(at.L), Vp, Vm, Vp, Vt, Lp);
    triangle(at.L, ScoreGradients{p.K, p.V, Q, forward.Kt, dnum, Vt, gates, forward.S, dS, D, row_dot, Kp, Vp, Lp});
    if (gates.reads) {
      transpose_matrix(state, Ct);
      tiles(at.L, Kp, Product{p.V, Left{dnum, Vp, 1}, Ct, Kp, G, Kp, false});
    }
    for (int t = 0; t < at.L; t++) {
      const int64_t row = (int64_t)t * Kp;
      const float dh_h = row_dot[t] + (gates.reads ? gates.r[t] * dot(Kp, Q + row, G + row) : 0.f);
      const bool above = p.normalize && !(std::fabs(nq[t]) < gates.low[t]);  // NaN is above
      const float read = forward.read_scale(t, nq[t]);
      dnq[t] = above ? -p.scale() * dh_h * read * (nq[t] > 0 ? 1.f : -1.f) : 0.f;
      if (!above) continue;
      float *to = dS + (int64_t)t * Lp, *d = D + (int64_t)t * Lp;
      for (int s = 0; s <= t; s += W) store(to + s, load(to + s) + load(d + s) * dnq[t]);
    }
  }

  // dC, dn before a chunk from those after it (31), (32); the queries are scaled in place.
  void update(const Forward::Place& at, float* dstate) {
    const int Kp = p.Kp(), Vp = p.Vp();
    const int64_t n = (int64_t)p.K * Vp;
    const Gates& gates = forward.gates;
    const int L = gates.reads ? at.L : 0;
    scale_rows(L, Kp, gates.r, forward.Q);
    tiles(p.K, Vp, Update{L, Kp, Vp, gates.g, forward.Q, dnum, dstate, dstate});
    update_n(L, Kp, gates.g, forward.Q, dnq, dstate + n, dstate + n);
  }

  // What the reads of a segment send to the state before it; returns how much passes from the state after it.
  float contribution(int64_t x, int begin, int end, float* to) {
    memset(to, 0, sizeof(float) * p.state_size());
    float kept = 1;
    for (int c = end - 1; c >= begin; c--) {
      const Forward::Place at = forward.place(x, c);
      load_chunk(at, x, c, p.states + (x * p.chunks() + c) * p.state_size());
      update(at, to);
      kept *= forward.gates.g;
    }
    return kept;
  }

  // Chunks end - 1 .. begin, from the cotangent of the state after them; that of the state before them is left in dstate.
  void run(int64_t x, int begin, int end, const float* from) {
    const int64_t size = p.state_size();
    memcpy(dstate, from, sizeof(float) * size);
    live = p.dC || p.dn || end < p.chunks();
    for (int c = end - 1; c >= begin; c--) {
      const float* state = p.states + (x * p.chunks() + c) * size;
      const float* next = state + size;
      if (live && c + 1 == p.chunks()) {
        load_state(p, p.C + x * p.K * p.V, p.n + x * p.K, after);
        next = after;
      }
      chunk(x, c, begin, state, next);
    }
  }

  void chunk(int64_t x, int c, int begin, const float* state, const float* next) {
    const int K = p.K, V = p.V, Kp = p.Kp(), Vp = p.Vp(), Lp = p.Lp();
    const Forward::Place at = forward.place(x, c);
    const Gates& gates = forward.gates;
    float *Q = forward.Q, *Km = forward.Km, *Vm = forward.Vm, *S = forward.S;
    load_chunk(at, x, c, state);
    if (live) transpose_matrix(dstate, dCt);
    const float *n = state + (int64_t)K * Vp, *dn = dstate + (int64_t)K * Vp;

    const Ahead ahead{{&p.q, &p.k, &p.v, &p.dh}, {K, K, V, V}, 4, at.b, at.head, at.t0 - p.L, c > begin ? p.L : 0};
    tiles(at.L, Vp, InputGradient{p.dv, p.dv.at(at.b, at.t0, at.head), V, Vp, nullptr, live ? K : 0, Km, dstate, Kp, nullptr,
                                  nullptr, gates.w, S, true, dnum, at.L, Lp, nullptr, nullptr, &ahead});
    tiles(at.L, Kp, InputGradient{p.dq, p.dq.at(at.b, at.t0, at.head), K, Kp, gates.reads ? G : nullptr, 0, dnum, Ct, Vp, dnq,
                                  gates.reads ? n : nullptr, gates.r, dS, false, Km, at.L, Lp, Q, size_q, nullptr});
    tiles(at.L, Kp, InputGradient{p.dk, p.dk.at(at.b, at.t0, at.head), K, Kp, nullptr, live ? V : 0, Vm, dCt, Vp, nullptr,
                                  live ? dn : nullptr, gates.w, dS, true, Q, at.L, Lp, Km, size_k, nullptr});
    gate_gradients(at, live ? dot(p.state_size() - Kp, dstate, next) + dot(Kp, dn, next + (int64_t)K * Vp) : 0.f);
    update(at, dstate);
    live |= gates.reads;
  }

  // d log_i (33) and, starting from `anchor` = <dC', C'> + dn' . n', d log_f (35); then through the gates' functions.
  void gate_gradients(const Forward::Place& at, float anchor) {
    const uint8_t* reset = p.reset ? p.reset + (int64_t)at.b * p.T + at.t0 : nullptr;
    double behind = anchor;
    for (int t = at.L - 1; t >= 0; t--) {
      const int64_t to = ((int64_t)at.b * p.T + at.t0 + t) * p.H + at.head;
      const float i_pre = ((const float*)p.i_pre.data)[p.i_pre.at(at.b, at.t0 + t, at.head)];
      const float f_pre = ((const float*)p.f_pre.data)[p.f_pre.at(at.b, at.t0 + t, at.head)];
      const bool empty = reset && reset[t], padded = at.mask && !at.mask[at.t0 + t];
      behind += (double)size_q[t] - (double)size_k[t];
      p.di_pre[to] = padded ? 0.f : size_k[t] * (p.sigmoid_input ? falling(i_pre) : 1.f);
      p.df_pre[to] = padded || empty ? 0.f : (float)behind * falling(f_pre);
      if (t == 0 && forward.gates.r[0] == 0) p.df_pre[to] = 0;  // nothing comes in that could be forgotten
      if (empty) behind = 0;  // what lies wholly behind a document's end adds up to nothing
    }
  }

  // sigmoid(-x), the derivative of log sigmoid(x).
  static float falling(float x) { return 1.f / (1.f + std::exp(x)); }

  // [K, Vp] -> [Vp, Kp]; zeros in the columns behind K.
  void transpose_matrix(const float* from, float* to) const {
    const int Kp = p.Kp(), Vp = p.Vp(), whole = p.K / W * W;
    transpose(whole, Vp, from, Vp, to, Kp);
    if (whole < p.K)
      for (int j = 0; j < Vp; j += W) {
        vec tile[W];
        for (int a = 0; a < W; a++) tile[a] = whole + a < p.K ? load(from + (int64_t)(whole + a) * Vp + j) : splat(0.f);
        transpose_tile(tile);
        for (int a = 0; a < W; a++) store(to + (int64_t)(j + a) * Kp + whole, tile[a]);
      }
  }
};

static void backward(const MLSTM& p) {
  const int64_t X = p.memories(), size = p.state_size();
  const Segments segments(p);
  const int P = segments.count;
  Scratch shared(X * P * (size + 16) + X * P);
  float* leaving = shared.take(X * P * size);  // [X, P]: cotangent of the state after each segment
  float* kept = shared.take(X * P);
#pragma omp parallel num_threads(p.num_threads)
  {
    Backward task(p);
#pragma omp for schedule(dynamic, 1)
    for (int64_t x = 0; x < X; x++)
      load_state(p, p.dC ? p.dC + x * p.K * p.V : nullptr, p.dn ? p.dn + x * p.K : nullptr,
                 leaving + (x * P + P - 1) * size);
    if (P > 1) {
#pragma omp for schedule(dynamic, 1)
      for (int64_t j = 0; j < X * (P - 1); j++) {
        const int64_t x = j / (P - 1), before = x * P + j % (P - 1);
        const int s = (int)(j % (P - 1)) + 1;
        kept[before] = task.contribution(x, segments.begin(s), segments.end(s), leaving + before * size);
      }
#pragma omp for schedule(dynamic, 1)
      for (int64_t x = 0; x < X; x++)
        for (int s = P - 2; s >= 0; s--) {
          float* to = leaving + (x * P + s) * size;
          const float g = kept[x * P + s];
          if (g != 0.f)
            for (int64_t d = 0; d < size; d++) to[d] += g * to[d + size];
        }
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t j = 0; j < X * P; j++) {
      const int64_t x = j / P;
      const int s = (int)(j % P);
      task.run(x, segments.begin(s), segments.end(s), leaving + j * size);
      if (s == 0) store_state(p, task.dstate, p.dC0 + x * p.K * p.V, p.dn0 + x * p.K);
    }
  }
}

}  // namespace oxl

OXL_EXPORT int64_t openxlstm_mlstm_problem_size() { return sizeof(oxl::MLSTM); }
OXL_EXPORT void openxlstm_mlstm_forward(const oxl::MLSTM* problem) { oxl::forward(*problem); }
OXL_EXPORT void openxlstm_mlstm_backward(const oxl::MLSTM* problem) { oxl::backward(*problem); }
