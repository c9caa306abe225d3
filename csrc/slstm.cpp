// The sLSTM over a whole sequence, forward and backward. Equation numbers are those of docs/math/slstm.md.
//
// A task is one head for a tile of batch rows, over all steps; tasks share nothing, so threads meet only at the end. In a task
// the step goes block by block: a block is 16 units, its four gates are one product h R with the sums in registers, and the
// pointwise part follows while they are in the nearest cache. R of the head stays in the L2 cache, packed in the order it is
// read.
#include <algorithm>

#include "gemm.h"
#include "library.h"
#include "scratch.h"

namespace oxl {
namespace {

constexpr int BLOCK = 16;         // units of a block; what is packed or saved is laid out in blocks, whatever W is
constexpr int PANEL = 4 * BLOCK;  // floats in a row of packed weights
constexpr int SHARE = 0, Z = 1, O = 2, MEAN = 3, SLOPE = 4;  // what a step saves of a block, in this order

struct Sizes {
  int B, T, H, D;
  int blocks() const { return (D + BLOCK - 1) / BLOCK; }
  int padded() const { return blocks() * BLOCK; }
};

// Rows [B, T] of flags; null if there are none.
struct Flags {
  const uint8_t* data;
  int T;
  bool operator()(int b, int t, bool otherwise) const { return data ? data[(int64_t)b * T + t] : otherwise; }
};

// What the forward pass keeps for the backward pass: [H, T, blocks, B, values, BLOCK], the order in which both go through it.
struct Records {
  float* data;
  int values;  // 5, or 4 without SLOPE
  Sizes sizes;
  float* at(int head, int t, int block, int b) const {
    return data + ((((int64_t)head * sizes.T + t) * sizes.blocks() + block) * sizes.B + b) * values * BLOCK;
  }
};

// Of a head the last block may be narrower; `lanes` are the units from here on that exist (W or more: all of a vector).
template <class Number>
static OXL_INLINE vec load_some(const Number* p, int lanes) {
  return lanes >= W ? load(p) : lanes > 0 ? load_part(p, lanes) : splat(0.f);
}
template <class Number>
static OXL_INLINE void store_some(Number* p, vec x, int lanes) {
  if (lanes >= W)
    store(p, x);
  else if (lanes > 0)
    store_part(p, x, lanes);
}

// --- products with packed weights ---

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int SUMS = 24;  // registers that accumulate
#else
constexpr int SUMS = 12;
#endif
constexpr int MOST_ROWS = SUMS / 2;

// out [rows, width] = sum over s of A_s [rows, K] panel_s [K, width]; A_s begins s * next behind A, the panels follow each other.
struct PanelProduct {
  int K, segments;
  Left A;
  int64_t next;
  const float* panel;
  int width;
  float* out;
  int64_t out_stride;

  template <int R, int V>
  OXL_INLINE void tile(int row, int column) const {
    vec acc[R][V] = {};
    for (int s = 0; s < segments; s++)
      accumulate<R, V>(acc, K, {A.a + row * A.row + s * next, A.row, A.column}, panel + (int64_t)s * K * width + column, width);
    for (int i = 0; i < R; i++)
      for (int j = 0; j < V; j++) store(out + (row + i) * out_stride + column + j * W, acc[i][j]);
  }

  template <int R>
  __attribute__((noinline)) void strip(int row) const {
    constexpr int V = R * 8 <= SUMS && 8 * W <= PANEL ? 8 : R * 4 <= SUMS ? 4 : 2;
    int column = 0;
    for (; column + V * W <= width; column += V * W) tile<R, V>(row, column);
    for (; column < width; column += W) tile<R, 1>(row, column);
  }

  template <int R = MOST_ROWS>
  void strip_of(int rows, int row) const {
    if (rows == R)
      strip<R>(row);
    else if constexpr (R > 1)
      strip_of<R - 1>(rows, row);
  }

  void run(int rows) const {  // in strips of nearly equal height
    for (int strips = (rows + MOST_ROWS - 1) / MOST_ROWS, row = 0; strips > 0; strips--) {
      const int height = (rows - row + strips - 1) / strips;
      strip_of(height, row);
      row += height;
    }
  }
};

// --- who does what ---

struct Tile {
  int head, from, rows;
};

// Batch rows of a task: few enough that all threads have work, many enough that a pass over R serves several.
struct Plan {
  Sizes sizes;
  int rows = 1;

  Plan(const Sizes& s, int threads) : sizes(s) {
    double least = 0;
    for (int parts = (s.B + 2 * MOST_ROWS - 1) / (2 * MOST_ROWS); parts <= s.B; parts++) {
      const int height = (s.B + parts - 1) / parts;
      const int tasks = s.H * ((s.B + height - 1) / height), rounds = (tasks + threads - 1) / threads;
      const double cost = rounds * (std::max(height, 3) + 0.5);  // below 3 rows the time is that of reading R
      if (least == 0 || cost < least) rows = height, least = cost;
    }
  }
  int batch_tiles() const { return (sizes.B + rows - 1) / rows; }
  int tasks() const { return sizes.H * batch_tiles(); }
  Tile tile(int i) const {
    const int from = i % batch_tiles() * rows;
    return {i / batch_tiles(), from, std::min(rows, sizes.B - from)};
  }
};

// --- forward ---

struct Forward {
  Sizes sizes;
  View gates;
  const float *R, *b;
  const float* start[4];  // h, c, n, m [B, H, D]
  Flags reset, mask;
  bool exp_forget;
  View h;
  float* last;  // h, c, n, m [4, B, H, D]
  Records saved;
};

// R of a head for the products of a step: for each block D rows of [4, BLOCK], and the bias as one more row.
static void pack_forward(const Forward& f, int head, int block, float* to) {
  const int D = f.sizes.D, lanes = std::min(BLOCK, D - block * BLOCK);
  for (int k = 0; k <= D; k++)
    for (int g = 0; g < 4; g++) {
      const float* row = k < D ? f.R + ((int64_t)(head * D + k) * 4 + g) * D : f.b + ((int64_t)g * f.sizes.H + head) * D;
      float* piece = to + (int64_t)k * PANEL + g * BLOCK;
      std::fill_n(piece, BLOCK, 0.f);
      std::copy_n(row + block * BLOCK, lanes, piece);
    }
}

template <class Gate, bool EXP, bool SAVE>
struct ForwardTask {
  const Forward& f;
  const int from, rows;
  float* pre;  // [rows, 4, BLOCK]: pre-activations of a block, then log f, z, o in place of three of them

  struct Head {
    int head;
    const float* panels;
    float *h, *c, *n, *m, *h_next;  // [rows, P]
  };

  void step(Head& x, int t) const {
    const auto [B, T, H, D] = f.sizes;
    const int P = f.sizes.padded();
    for (int i = 0; i < rows; i++)
      if (f.reset(from + i, t, false)) {
        for (float* state : {x.h, x.c, x.n}) std::fill_n(state + i * P, P, 0.f);
        std::fill_n(x.m + i * P, P, EMPTY_M);
      }
    for (int block = 0; block < f.sizes.blocks(); block++) {
      const float* panel = x.panels + (int64_t)block * (D + 1) * PANEL;
      prefetch_writes(x.head, t, block);
      PanelProduct{D, 1, {x.h, P, 1}, 0, panel, PANEL, pre, PANEL}.run(rows);
      activate(x.head, t, block, panel + D * PANEL);
      update(x, t, block);
    }
    std::swap(x.h, x.h_next);
  }

  float* record(int head, int t, int block, int i, int value) const {
    return f.saved.at(head, t, block, from + i) + value * BLOCK;
  }
  Gate* out(int head, int t, int i) const { return (Gate*)f.h.data + f.h.at(from + i, t, head); }

  void prefetch_writes(int head, int t, int block) const {
    for (int i = 0; i < rows; i++) {
      __builtin_prefetch(out(head, t, i) + block * BLOCK, 1);
    }
  }

  // One gate after the other: short chains of operations, so that the processor works on several rows at once.
  void activate(int head, int t, int block, const float* bias) const {
    gate(0, head, t, block, bias, [](vec x, int, int) { return x; });
    gate(1, head, t, block, bias, [&](vec x, int i, int j) {
      if (EXP) return x;
      const vec u = vexp_falling(minus_abs(x));
      if (SAVE) store(record(head, t, block, i, SLOPE) + j, select(x > 0.f, u, splat(1.f)) / (1.f + u));
      return at_most(x, splat(0.f)) - vlog1p(u);
    });
    gate(2, head, t, block, bias, [](vec x, int, int) { return vtanh(x); });
    gate(3, head, t, block, bias, [](vec x, int, int) { return vsigmoid(x); });
  }

  template <class Function>
  OXL_INLINE void gate(int g, int head, int t, int block, const float* bias, Function&& function) const {
    for (int i = 0; i < rows; i++) {
      const Gate* in = (const Gate*)f.gates.data + f.gates.at(from + i, t, head) + g * f.gates.gate + block * BLOCK;
      __builtin_prefetch(in + f.gates.time, 0, 2);  // into the second-level cache: no processor guesses these strides
      for (int j = 0; j < BLOCK; j += W) {
        float* at = pre + i * PANEL + g * BLOCK + j;
        store(at, function(load(at) + (load_some(in + j, f.sizes.D - block * BLOCK - j) + load(bias + g * BLOCK + j)), i, j));
      }
    }
  }

  void update(Head& x, int t, int block) const {
    const int D = f.sizes.D, P = f.sizes.padded();
    for (int i = 0; i < rows; i++) {
      const bool valid = f.mask(from + i, t, true);
      for (int j = 0; j < BLOCK; j += W) {
        const int d = block * BLOCK + j, at = i * P + d;
        const float* gates = pre + i * PANEL + j;
        if (!valid) {
          store(x.h_next + at, load(x.h + at));
          store_some(out(x.head, t, i) + d, splat(0.f), D - d);
          for (int q = 0; SAVE && q < f.saved.values; q++) store(record(x.head, t, block, i, q) + j, splat(0.f));
          continue;
        }
        const vec i_pre = load(gates), log_f = load(gates + BLOCK), z = load(gates + 2 * BLOCK), o = load(gates + 3 * BLOCK);
        const vec m_f = log_f + load(x.m + at), ahead = i_pre - m_f;
        const vec less = vexp_falling(minus_abs(ahead));  // (3), (4): of i and f the larger is 1, the other exp(-|ahead|)
        const vec fg = select(ahead > 0.f, less, splat(1.f)), ig = select(ahead > 0.f, splat(1.f), less);
        const vec fn = fg * load(x.n + at), n = fn + ig;
        const vec c = fg * load(x.c + at) + ig * z;
        const vec inverse = 1.f / n, mean = c * inverse, h = o * mean;
        store(x.c + at, c);
        store(x.n + at, n);
        store(x.m + at, at_least(m_f, i_pre));
        store(x.h_next + at, h);
        store_some(out(x.head, t, i) + d, h, D - d);
        if constexpr (SAVE) {
          const vec share = ig * inverse, rest = fn * inverse;
          store(record(x.head, t, block, i, SHARE) + j, select(share <= rest, share, (vec)((ivec)rest | INT32_MIN)));
          store(record(x.head, t, block, i, Z) + j, z);
          store(record(x.head, t, block, i, O) + j, o);
          store(record(x.head, t, block, i, MEAN) + j, mean);
        }
      }
    }
  }
};

template <class Gate, bool EXP, bool SAVE>
static void forward_task(const Forward& f, Tile tile, const float* packed) {
  const auto [B, T, H, D] = f.sizes;
  const int P = f.sizes.padded(), rows = tile.rows;
  const int64_t area = (int64_t)rows * P;
  Scratch scratch(5 * area + rows * PANEL);
  ForwardTask<Gate, EXP, SAVE> task{f, tile.from, rows, scratch.take(rows * PANEL)};
  typename ForwardTask<Gate, EXP, SAVE>::Head x;
  x.head = tile.head;
  x.panels = packed + (int64_t)tile.head * f.sizes.blocks() * (D + 1) * PANEL;
  for (float** part : {&x.h, &x.c, &x.n, &x.m, &x.h_next}) *part = scratch.take(area);
  auto each = [&](auto&& function) {
    for (int i = 0; i < rows; i++)
      for (int d = 0; d < P; d += W) function(((int64_t)(tile.from + i) * H + x.head) * D + d, i * P + d, D - d);
  };
  each([&](int64_t given, int at, int lanes) {
    float* state[4] = {x.h, x.c, x.n, x.m};
    for (int q = 0; q < 4; q++) store(state[q] + at, load_some(f.start[q] + given, lanes));
  });
  for (int t = 0; t < T; t++) task.step(x, t);
  each([&](int64_t given, int at, int lanes) {
    float* state[4] = {x.h, x.c, x.n, x.m};
    for (int q = 0; q < 4; q++) store_some(f.last + (int64_t)q * B * H * D + given, load(state[q] + at), lanes);
  });
}

// --- backward ---

struct Backward {
  Sizes sizes;
  View dh;              // of h; no data: zero
  const float* d_last;  // of the last h, c, n [3, B, H, D]; null: zero
  const float* last;    // h, c, n, m [4, B, H, D]
  const float* R;
  const float* start[3];  // h, c, n [B, H, D]
  Flags reset, mask;
  bool exp_forget;
  Records saved;
  View d_gates;
  float *dR, *db, *d_start;  // d_start: of h, c, n [3, B, H, D]
};

// The transpose of R of a head: for each PANEL of units of h, rows (gate, to) of its units. Narrower at the end.
static void pack_backward(const Backward& f, int head, int panel, float* to) {
  const int D = f.sizes.D, from = panel * PANEL, width = std::min(PANEL, f.sizes.padded() - from);
  for (int k = 0; k < 4 * D; k++)
    for (int j = 0; j < width; j++) to[(int64_t)k * width + j] = from + j < D ? f.R[((int64_t)head * D + from + j) * 4 * D + k] : 0.f;
}

constexpr int SLOTS = 96;  // steps times rows whose share of dR is added in one product
constexpr int START = -1, EMPTY = -2;  // where a step began, if not at an earlier one: the initial state; after a reset

template <class Gate, bool EXP>
struct BackwardTask {
  const Backward& f;
  const int from, rows;
  const int64_t d_stride, h_stride;
  int *first;  // the first step of each row that is not padding, or T
  int *begin;  // the step whose state the present step of each row began with, or START or EMPTY

  struct Head {
    int head;
    const float* panels;
    float *h0, *mean0;            // [rows, P]
    float *dh, *dh_next;          // cotangent of h
    float *d_mean, *d_log;        // cotangents of c / n and of log n + m
    float *d_pre, *h_in;          // [slots, 4, P] and [slots, P]: factors of dR
    float* sums;                  // [D + 1, 4, P]: dR of these rows, and db below it
  };

  int origin(int b, int t) const {
    while (true) {
      if (f.reset(b, t, false)) return EMPTY;
      if (--t < 0) return START;
      if (f.mask(b, t, true)) return t;
    }
  }

  // The step up to d_pre; `slot` is the first of its rows in d_pre and h_in.
  void pointwise(const Head& x, int t, int slot) const {
    const int D = f.sizes.D, P = f.sizes.padded();
    for (int block = 0; block < f.sizes.blocks(); block++) {
      vec d_bias[4][BLOCK / W] = {};
      for (int i = 0; i < rows; i++) {
        const int b = from + i;
        const bool valid = f.mask(b, t, true);
        const Gate* dh_out = f.dh.data ? (const Gate*)f.dh.data + f.dh.at(b, t, x.head) + block * BLOCK : nullptr;
        Gate* out = (Gate*)f.d_gates.data + f.d_gates.at(b, t, x.head) + block * BLOCK;
        const float* record = f.saved.at(x.head, t, block, b);
        const float* before = begin[i] >= 0 ? f.saved.at(x.head, begin[i], block, b) : nullptr;
        if (t >= 2) for (int q = 0; q < f.saved.values; q++) __builtin_prefetch(f.saved.at(x.head, t - 2, block, b) + q * BLOCK, 0, 2);
        __builtin_prefetch(dh_out - f.dh.time, 0, 2);
        for (int j = 0; j < BLOCK; j += W) {
          const int d = block * BLOCK + j, at = i * P + d;
          vec di = {}, df = {}, dz = {}, d_o = {}, h_before = {};
          if (valid) {
            const vec kept = load(record + SHARE * BLOCK + j), less = vabs(kept), more = 1.f - less;
            const ivec is_share = (ivec)kept >= 0;
            const vec share = select(is_share, less, more), rest = select(is_share, more, less);
            const vec z = load(record + Z * BLOCK + j), o = load(record + O * BLOCK + j), mean = load(record + MEAN * BLOCK + j);
            vec mean_before = {};
            if (before) {
              mean_before = load(before + MEAN * BLOCK + j);
              h_before = load(before + O * BLOCK + j) * mean_before;
            } else if (begin[i] == START) {
              mean_before = load(x.mean0 + at);
              h_before = load(x.h0 + at);
            }
            vec g = load(x.dh + at);
            if (dh_out) g += load_some(dh_out + j, D - d);
            const vec go = g * o, dm = load(x.d_mean + at) + go, dl = load(x.d_log + at), dms = dm * share;
            const vec moved = dms * rest * (mean_before - z);
            const vec da = rest * dl + moved;  // of log f + m
            di = share * dl - moved;
            df = EXP ? da : da * load(record + SLOPE * BLOCK + j);
            dz = dms - dms * (z * z);
            d_o = mean * (go - go * o);
            if (t == first[i]) {  // d_mean and d_log become the cotangents of c and n
              const vec n0 = load_some(f.start[2] + ((int64_t)b * f.sizes.H + x.head) * D + d, D - d);
              const vec w = begin[i] == EMPTY ? splat(0.f) : select(n0 == 0.f, splat(0.f), rest / n0);
              store(x.d_mean + at, w * dm);
              store(x.d_log + at, w * (dl - dm * mean));
            } else {
              store(x.d_mean + at, rest * dm);
              store(x.d_log + at, da);
            }
          }
          float* to = x.d_pre + (slot + i) * d_stride + d;
          store(to, di);
          store(to + P, df);
          store(to + 2 * P, dz);
          store(to + 3 * P, d_o);
          store_some(out + j, di, D - d);
          store_some(out + f.d_gates.gate + j, df, D - d);
          store_some(out + 2 * f.d_gates.gate + j, dz, D - d);
          store_some(out + 3 * f.d_gates.gate + j, d_o, D - d);
          d_bias[0][j / W] += di;
          d_bias[1][j / W] += df;
          d_bias[2][j / W] += dz;
          d_bias[3][j / W] += d_o;
          store(x.h_in + (slot + i) * h_stride + d, h_before);
        }
      }
      for (int q = 0; q < 4; q++)
        for (int j = 0; j < BLOCK; j += W) {
          float* to = x.sums + ((int64_t)D * 4 + q) * P + block * BLOCK + j;
          store(to, load(to) + d_bias[q][j / W]);
        }
    }
  }

  // dh of the step before, through R.
  void through(Head& x, int t, int slot) const {
    const int D = f.sizes.D, P = f.sizes.padded();
    for (int panel = 0; panel * PANEL < P; panel++) {
      const int width = std::min(PANEL, P - panel * PANEL);
      const float* weights = x.panels + (int64_t)panel * PANEL * 4 * D;
      PanelProduct{D, 4, {x.d_pre + slot * d_stride, d_stride, 1}, P, weights, width, x.dh_next + panel * PANEL, P}.run(rows);
    }
    for (int i = 0; i < rows; i++) {
      if (!f.mask(from + i, t, true)) std::copy_n(x.dh + i * P, P, x.dh_next + i * P);
      if (f.reset(from + i, t, false))
        for (float* d : {x.dh_next, x.d_mean, x.d_log}) std::fill_n(d + i * P, P, 0.f);
    }
    std::swap(x.dh, x.dh_next);
  }
};

template <class Gate, bool EXP>
static void backward_task(const Backward& f, Tile tile, const float* packed, float* sums) {
  const auto [B, T, H, D] = f.sizes;
  const int P = f.sizes.padded(), rows = tile.rows;
  const int64_t area = (int64_t)rows * P, d_stride = 4 * P + 16, h_stride = P + 16;  // + 16: not a power of 2, for the L1 cache
  const int steps = std::max(1, SLOTS / rows);
  Scratch scratch(6 * area + steps * rows * (d_stride + h_stride) + 2 * round_up(rows, 16));
  int *first = (int*)scratch.take(rows), *begin = (int*)scratch.take(rows);
  const BackwardTask<Gate, EXP> task{f, tile.from, rows, d_stride, h_stride, first, begin};
  for (int i = 0; i < rows; i++) {
    first[i] = 0;
    while (first[i] < T && !f.mask(tile.from + i, first[i], true)) first[i]++;
  }
  typename BackwardTask<Gate, EXP>::Head x;
  x.head = tile.head;
  x.panels = packed + (int64_t)x.head * 4 * D * P;
  x.sums = sums;
  std::fill_n(x.sums, (int64_t)(D + 1) * 4 * P, 0.f);
  for (float** d : {&x.h0, &x.mean0, &x.dh, &x.dh_next, &x.d_mean, &x.d_log}) *d = scratch.take(area);
  x.d_pre = scratch.take(steps * rows * d_stride);
  x.h_in = scratch.take(steps * rows * h_stride);
  auto each = [&](auto&& function) {
    for (int i = 0; i < rows; i++)
      for (int d = 0; d < P; d += W) function(((int64_t)(tile.from + i) * H + x.head) * D + d, i * P + d, D - d, first[i] < T);
  };
  const int64_t all_units = (int64_t)B * H * D;
  each([&](int64_t given, int at, int lanes, bool used) {
    auto get = [&](const float* p, int q) { return p ? load_some(p + q * all_units + given, lanes) : splat(0.f); };
    const vec c0 = get(f.start[1], 0), n0 = get(f.start[2], 0), dc = get(f.d_last, 1), dn = get(f.d_last, 2);
    const vec c = get(f.last, 1), n = get(f.last, 2);
    store(x.h0 + at, get(f.start[0], 0));
    store(x.mean0 + at, select(n0 == 0.f, splat(0.f), c0 / n0));
    store(x.dh + at, get(f.d_last, 0));
    store(x.d_mean + at, used ? dc * n : dc);
    store(x.d_log + at, used ? dc * c + dn * n : dn);
  });
  for (int t = T - 1, filled = 0; t >= 0; t--) {
    for (int i = 0; i < rows; i++) begin[i] = f.mask(tile.from + i, t, true) ? task.origin(tile.from + i, t) : EMPTY;
    task.pointwise(x, t, filled * rows);
    task.through(x, t, filled * rows);
    if (++filled == steps || t == 0) {
      tiles(D, 4 * P, Product{filled * rows, {x.h_in, 1, h_stride}, x.d_pre, d_stride, x.sums, 4 * P, true});
      filled = 0;
    }
  }
  each([&](int64_t given, int at, int lanes, bool) {
    float* ends[3] = {x.dh, x.d_mean, x.d_log};
    for (int q = 0; q < 3; q++) store_some(f.d_start + q * all_units + given, load(ends[q] + at), lanes);
  });
}

// --- tasks ---

template <class Pack, class Task, class Finish>
static void in_parallel(int threads, int packs, Pack&& pack, int tasks, Task&& task, int finishes, Finish&& finish) {
#pragma omp parallel num_threads(threads)
  {
#pragma omp for
    for (int i = 0; i < packs; i++) pack(i);
#pragma omp for schedule(dynamic, 1)
    for (int i = 0; i < tasks; i++) task(i);
#pragma omp for
    for (int i = 0; i < finishes; i++) finish(i);
  }
}

template <class Gate, bool EXP, bool SAVE>
static void forward(const Forward& f, int threads) {
  const auto [B, T, H, D] = f.sizes;
  const Plan plan(f.sizes, threads);
  const int blocks = f.sizes.blocks();
  const int64_t panel = (int64_t)(D + 1) * PANEL;
  Scratch packed(H * blocks * panel);
  float* weights = packed.take(H * blocks * panel);
  in_parallel(
      threads, H * blocks, [&](int i) { pack_forward(f, i / blocks, i % blocks, weights + i * panel); },  //
      plan.tasks(), [&](int i) { forward_task<Gate, EXP, SAVE>(f, plan.tile(i), weights); },              //
      0, [](int) {});
}

template <class Gate, bool EXP>
static void backward(const Backward& f, int threads) {
  const auto [B, T, H, D] = f.sizes;
  const Plan plan(f.sizes, threads);
  const int P = f.sizes.padded(), panels = (P + PANEL - 1) / PANEL, parts = plan.batch_tiles();
  const int64_t of_head = (int64_t)4 * D * P, area = (int64_t)(D + 1) * 4 * P;
  Scratch shared(H * of_head + parts * H * area + 16);
  float *packed = shared.take(H * of_head), *sums = shared.take(parts * H * area);  // sums [batch tiles, H, D + 1, 4, P]
  in_parallel(
      threads, H * panels,
      [&](int i) { pack_backward(f, i / panels, i % panels, packed + i / panels * of_head + (int64_t)(i % panels) * PANEL * 4 * D); },
      plan.tasks(),
      [&](int i) {
        const Tile tile = plan.tile(i);
        backward_task<Gate, EXP>(f, tile, packed, sums + (tile.from / plan.rows * H + tile.head) * area);
      },
      H * (D + 1),
      [&](int i) {  // the batch tiles of a head in one order, whoever computed them
        const int head = i / (D + 1), k = i % (D + 1);
        for (int g = 0; g < 4; g++) {
          float* to = k < D ? f.dR + ((int64_t)(head * D + k) * 4 + g) * D : f.db + ((int64_t)g * H + head) * D;
          const float* part = sums + head * area + (int64_t)(k * 4 + g) * P;
          for (int d = 0; d < D; d++) {
            float sum = 0;
            for (int tile = 0; tile < parts; tile++) sum += part[tile * H * area + d];
            to[d] = sum;
          }
        }
      });
}

}  // namespace
}  // namespace oxl

using namespace oxl;

OXL_EXPORT void openxlstm_slstm(
    int B, int T, int H, int D, const View* gates, const float* R, const float* b, const float* h0, const float* c0,
    const float* n0, const float* m0, const uint8_t* reset, const uint8_t* mask, int exp_forget, const View* h, float* last,
    float* saved, int threads) {
  const Sizes sizes{B, T, H, D};
  const Forward f{sizes, *gates, R, b, {h0, c0, n0, m0}, {reset, T}, {mask, T}, exp_forget != 0, *h, last,
                  {saved, exp_forget ? 4 : 5, sizes}};
  using Run = void (*)(const Forward&, int);
  const Run runs[8] = {
      forward<float, false, false>, forward<float, false, true>, forward<float, true, false>, forward<float, true, true>,
      forward<uint16_t, false, false>, forward<uint16_t, false, true>, forward<uint16_t, true, false>, forward<uint16_t, true, true>};
  runs[gates->bf16 * 4 + (exp_forget != 0) * 2 + (saved != nullptr)](f, threads);
}

OXL_EXPORT void openxlstm_slstm_backward(
    int B, int T, int H, int D, const View* dh, const float* d_last, const float* last, const float* R, const float* h0,
    const float* c0, const float* n0, const uint8_t* reset, const uint8_t* mask, int exp_forget, const float* saved,
    const View* d_gates, float* dR, float* db, float* d_start, int threads) {
  const Sizes sizes{B, T, H, D};
  const Backward f{sizes, *dh, d_last, last, R, {h0, c0, n0}, {reset, T}, {mask, T}, exp_forget != 0,
                   {const_cast<float*>(saved), exp_forget ? 4 : 5, sizes}, *d_gates, dR, db, d_start};
  using Run = void (*)(const Backward&, int);
  const Run runs[4] = {backward<float, false>, backward<float, true>, backward<uint16_t, false>, backward<uint16_t, true>};
  runs[d_gates->bf16 * 2 + (exp_forget != 0)](f, threads);
}
