// Products of a few vectors with a packed matrix, y[r] = M x[r]. For one vector they run as fast as the matrix can be read, so
// all is about the layout: the matrix lies in panels of `strips` x W rows, and a panel stores, for each step along the inner
// dimension, one 32-bit word for each of its rows. Panels are read from end to end, which hardware prefetches best; results
// are whole vectors without a sum across lanes; and every number of results is added up in the same order, whatever the number
// of vectors, of strips or of threads, so the same row gives the same bits in any company.
//
// A word is one float, two bfloat16 (inner index 2d in the low half), or four int8 (inner index 4d in the low byte). The inner
// dimension is filled up with zeros. int8 weights are scaled a row and stored plus 128; vectors come as 16-bit integers in two
// bytes, so that nearly all that is lost is the rounding of the weights.
#pragma once
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <limits>

#include "activation.h"

namespace oxl {

enum Storage : int32_t { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };

// Mirrors `openxlstm.inference.plan.Matrix`.
struct Matrix {
  const uint32_t* panels;  // [groups][panels][depth][strips][W]
  const float* scale;      // [groups][panels][strips][W] of int8 rows, else null
  const float* bias;       // the same shape, or null
  int32_t storage, inner;  // inner: numbers of a vector
  int32_t groups;          // matrices on a block diagonal
  int32_t count;           // panels of a group
  int32_t strips;          // of a panel: 1, 2 or 4

  int64_t depth() const {
    const int in_word = storage == FLOAT32 ? 1 : storage == BFLOAT16 ? 2 : 4;
    return (inner + in_word - 1) / in_word;
  }
};

// Vectors, one a row and group: row r of group g begins at x + r * row + g * group. For int8 a vector is: its scale (float),
// -128 sum(high), -128 sum(low), nothing, then the bytes; `Quantised::words` words in all.
struct Operand {
  const float* x;
  int64_t row, group;
};

#if defined(__AVX512F__)
constexpr int MANY = 6, MANY_INT8 = 3;  // rows of a tile: 24 of 32 registers accumulate
#else
constexpr int MANY = 2, MANY_INT8 = 1;  // 8 of 16
#endif

// Each kind has `run`: acc = (rows of M) x for R vectors and V strips. With TWO inputs every second pair of strips reads y.

struct Float32 {
  static constexpr int ROWS = MANY;
  template <int R, int V, bool TWO>
  static OXL_INLINE void run(vec acc[R][V], int inner, const uint32_t* words, const float* x, const float* y, int64_t row) {
    const float* w = (const float*)words;
    for (int k = 0; k < inner; k++, w += V * W) {
      vec a[R], b[R];
#pragma GCC unroll 8
      for (int i = 0; i < R; i++) {
        a[i] = splat(x[i * row + k]);
        if (TWO) b[i] = splat(y[i * row + k]);
      }
#pragma GCC unroll 8
      for (int j = 0; j < V; j++) {
        const vec m = load(w + j * W);
#pragma GCC unroll 8
        for (int i = 0; i < R; i++) acc[i][j] += (TWO && (j & 2) ? b[i] : a[i]) * m;
      }
    }
  }
};

struct Bfloat16 {
  static constexpr int ROWS = MANY;
  template <int R, int V, bool TWO>
  static OXL_INLINE void run(vec acc[R][V], int inner, const uint32_t* w, const float* x, const float* y, int64_t row) {
    for (int k = 0; k + 2 <= inner; k += 2, w += V * W) step<R, V, TWO, true>(acc, w, x + k, y + k, row);
    if (inner % 2) step<R, V, TWO, false>(acc, w, x + inner - 1, y + inner - 1, row);
  }

  // One word a row; without PAIR its upper half is filling, and the vectors may end here.
  template <int R, int V, bool TWO, bool PAIR>
  static OXL_INLINE void step(vec acc[R][V], const uint32_t* w, const float* x, const float* y, int64_t row) {
    vec a[R], b[R], a2[R], b2[R];
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) {
      a[i] = splat(x[i * row]);
      if (PAIR) a2[i] = splat(x[i * row + 1]);
      if (TWO) b[i] = splat(y[i * row]);
      if (TWO && PAIR) b2[i] = splat(y[i * row + 1]);
    }
#pragma GCC unroll 8
    for (int j = 0; j < V; j++) {
      const uvec m = (uvec)load((const float*)w + j * W);
      const vec even = (vec)(m << 16), odd = (vec)(m & 0xffff0000u);
#pragma GCC unroll 8
      for (int i = 0; i < R; i++) {
        acc[i][j] += (TWO && (j & 2) ? b[i] : a[i]) * even;
        if (PAIR) acc[i][j] += (TWO && (j & 2) ? b2[i] : a2[i]) * odd;
      }
    }
  }
};

// Adds to each 32-bit lane the products of two 16-bit pairs.
static OXL_INLINE ivec dot2(ivec acc, ivec a, ivec b) {
#if defined(__AVX512BW__)
  return acc + (ivec)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return acc + (ivec)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return acc + (ivec)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
  return acc + (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
#endif
}

#if defined(__AVX512F__) && !defined(__clang__)
#define OXL_VNNI 1
// Adds to each 32-bit lane the products of four unsigned with four signed bytes. The library is compiled for processors that
// may lack the instruction, so it is spelled out here and used where `has_vnni` says so.
static OXL_INLINE ivec dot4(ivec acc, ivec u, ivec s) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(u), "v"(s));
  return acc;
}
static inline bool has_vnni() { return __builtin_cpu_supports("avx512vnni"); }
#else
#define OXL_VNNI 0
static OXL_INLINE ivec dot4(ivec acc, ivec, ivec) { return acc; }
static inline bool has_vnni() { return false; }
#endif

// VNNI: vectors as bytes, all high ones, then all low ones. Otherwise as 16-bit pairs that meet the even and the odd bytes of a
// word: for each word high even, high odd, low even, low odd.
template <bool VNNI>
struct Int8 {
  static constexpr int ROWS = MANY_INT8;
  template <int R, int V, bool TWO>
  static OXL_INLINE void run(vec acc[R][V], int inner, const uint32_t* w, const float* x, const float* y, int64_t row) {
    const int depth = (inner + 3) / 4;
    const int32_t *a = (const int32_t*)x, *b = (const int32_t*)(TWO ? y : x);
    ivec high[R][V], low[R][V];
#pragma GCC unroll 8
    for (int i = 0; i < R; i++)
#pragma GCC unroll 8
      for (int j = 0; j < V; j++) {
        const int32_t* from = (TWO && (j & 2) ? b : a) + i * row;
        high[i][j] = ivec{} + from[1];
        low[i][j] = ivec{} + from[2];
      }
    for (int d = 0; d < depth; d++, w += V * W) {
#pragma GCC unroll 8
      for (int j = 0; j < V; j++) {
        const ivec m = (ivec)load((const float*)w + j * W);
        const ivec even = m & 0x00ff00ff, odd = (ivec)((uvec)m >> 8) & 0x00ff00ff;
#pragma GCC unroll 8
        for (int i = 0; i < R; i++) {
          const int32_t* from = (TWO && (j & 2) ? b : a) + i * row + 4;
          if (VNNI) {
            high[i][j] = dot4(high[i][j], m, ivec{} + from[d]);
            low[i][j] = dot4(low[i][j], m, ivec{} + from[depth + d]);
          } else {
            high[i][j] = dot2(dot2(high[i][j], even, ivec{} + from[4 * d]), odd, ivec{} + from[4 * d + 1]);
            low[i][j] = dot2(dot2(low[i][j], even, ivec{} + from[4 * d + 2]), odd, ivec{} + from[4 * d + 3]);
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; i++)
#pragma GCC unroll 8
      for (int j = 0; j < V; j++) {
        const vec sum = __builtin_convertvector(high[i][j], vec) * 256.f + __builtin_convertvector(low[i][j], vec);
        acc[i][j] = sum * (TWO && (j & 2) ? y : x)[i * row];
      }
  }
};

// x[i] from lane i ^ 2.
static OXL_INLINE ivec swap_pairs(ivec x) {
  ivec from;
  for (int i = 0; i < W; i++) from[i] = i ^ 2;
#if defined(__clang__)
  ivec y;
  for (int i = 0; i < W; i++) y[i] = x[from[i]];
  return y;
#else
  return __builtin_shuffle(x, from);
#endif
}

// Vectors for int8 matrices: x = scale (256 high + low), |256 high + low| <= LARGEST.
struct Quantised {
  static constexpr int LARGEST = 32512;  // 127 * 256: the high byte stays in -127..127
  static int64_t words(int inner) { return 4 + (inner + 3) / 4 * 4 + 16; }  // 16: the last store may be a whole vector

  static void write(const float* x, int inner, int32_t* out) {
    typedef int8_t bvec __attribute__((vector_size(W)));
    typedef int8_t bvec_unaligned __attribute__((vector_size(W), aligned(1)));
    typedef int32_t ivec_unaligned __attribute__((vector_size(W * 4), aligned(4)));
    static const bool vnni = has_vnni();
    const int depth = (inner + 3) / 4;
    int8_t *high_bytes = (int8_t*)(out + 4), *low_bytes = high_bytes + 4 * depth;

    uvec most{};  // bits of absolute values are in the order of the values, infinity and NaN above all numbers
    for (int k = 0; k < inner; k += W) {
      const uvec v = (uvec)vabs(inner - k < W ? load_part(x + k, inner - k) : load(x + k));
      most = v > most ? v : most;
    }
    uint32_t bits = 0;
    for (int i = 0; i < W; i++) bits = most[i] > bits ? most[i] : bits;
    float largest;
    memcpy(&largest, &bits, sizeof largest);
    const bool finite = bits < 0x7f800000;
    const float scale = finite ? largest / LARGEST : std::numeric_limits<float>::quiet_NaN();
    const float inverse = finite && largest > 1e-30f ? LARGEST / largest : 0.f;

    ivec high_sums{}, low_sums{}, second;  // second: lanes 2 and 3 of each four
    for (int i = 0; i < W; i++) second[i] = i & 2 ? -1 : 0;
    for (int k = 0; k < inner; k += W) {
      const int n = inner - k < W ? inner - k : W;
      const vec v = n < W ? load_part(x + k, n) : load(x + k);
      const ivec q = (ivec)(v * inverse + 12582912.f) - 0x4b400000;  // 1.5 * 2^23: rounds to an integer in the low bits
      const ivec high = (q + 128) >> 8, low = q - (high << 8);
      high_sums += high;
      low_sums += low;
      if (!vnni) {
        const ivec highs = (high & 0xffff) | (swap_pairs(high) << 16), lows = (swap_pairs(low) & 0xffff) | (low << 16);
        *(ivec_unaligned*)(out + 4 + k) = second ? lows : highs;
      } else if (n == W) {
        *(bvec_unaligned*)(high_bytes + k) = __builtin_convertvector(high, bvec);
        *(bvec_unaligned*)(low_bytes + k) = __builtin_convertvector(low, bvec);
      } else {
        for (int i = 0; i < (n + 3) / 4 * 4; i++) {  // lanes from n on are zero
          high_bytes[k + i] = (int8_t)high[i];
          low_bytes[k + i] = (int8_t)low[i];
        }
      }
    }
    int32_t high_sum = 0, low_sum = 0;
    for (int i = 0; i < W; i++) high_sum += high_sums[i], low_sum += low_sums[i];
    memcpy(out, &scale, sizeof scale);
    out[1] = -128 * high_sum;
    out[2] = -128 * low_sum;
    out[3] = 0;
  }
};

// What becomes of the results: `acc` [rows][strips][W] of `rows` vectors from r on and one panel of group g. Not a template, so
// that the products are compiled once for all that may follow them.
struct Finish {
  virtual void take(const float* acc, int rows, int strips, int r, int g, int panel) const = 0;

 protected:
  ~Finish() = default;
};

// Never inlined: a compiler may fuse the product and the sum in one tile and not in another, and bits would differ.
static __attribute__((noinline)) void scale_and_shift(const Matrix& m, int64_t panel, int rows, int strips, float* acc) {
  const int64_t at = panel * strips * W;
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < strips * W; j += W, acc += W) {
      vec y = load(acc);
      if (m.scale) y *= load(m.scale + at + j);
      if (m.bias) y += load(m.bias + at + j);
      store(acc, y);
    }
}

template <class Kind, int V, bool TWO>
struct Panels {
  const Matrix& m;
  Operand a, b;
  const Finish& finish;

  template <int R>
  OXL_INLINE void tile(int64_t panel, int r) const {
    const int64_t g = panel / m.count;
    vec acc[R][V] = {};
    const float *x = a.x + r * a.row + g * a.group, *y = b.x + r * b.row + g * b.group;
    Kind::template run<R, V, TWO>(acc, m.inner, m.panels + panel * m.depth() * V * W, x, y, a.row);
    alignas(64) float out[R * V * W];
#pragma GCC unroll 8
    for (int i = 0; i < R; i++)
#pragma GCC unroll 8
      for (int j = 0; j < V; j++) store(out + (i * V + j) * W, acc[i][j]);
    scale_and_shift(m, panel, R, V, out);
    finish.take(out, R, V, r, (int)g, (int)(panel - g * m.count));
  }

  void run(int rows, int64_t first, int64_t last) const {
    constexpr int ROWS = Kind::ROWS;
    for (int64_t p = first; p < last; p++) {
      int r = 0;
      for (; r + ROWS <= rows; r += ROWS) tile<ROWS>(p, r);
      switch (rows - r) {
        case 5: if constexpr (ROWS > 5) tile<5>(p, r); break;
        case 4: if constexpr (ROWS > 4) tile<4>(p, r); break;
        case 3: if constexpr (ROWS > 3) tile<3>(p, r); break;
        case 2: if constexpr (ROWS > 2) tile<2>(p, r); break;
        case 1: if constexpr (ROWS > 1) tile<1>(p, r); break;
      }
    }
  }
};

template <int V, bool TWO>
static void multiply_strips(const Matrix& m, Operand a, Operand b, int rows, int64_t first, int64_t last, const Finish& finish) {
  static const bool vnni = has_vnni();
  switch (m.storage) {
    case FLOAT32: Panels<Float32, V, TWO>{m, a, b, finish}.run(rows, first, last); break;
    case BFLOAT16: Panels<Bfloat16, V, TWO>{m, a, b, finish}.run(rows, first, last); break;
    case INT8:
      if (vnni) Panels<Int8<true>, V, TWO>{m, a, b, finish}.run(rows, first, last);
      else Panels<Int8<false>, V, TWO>{m, a, b, finish}.run(rows, first, last);
      break;
  }
}

// M x for `rows` vectors and the panels [first, last) of all groups.
static inline void multiply(const Matrix& m, Operand x, int rows, int64_t first, int64_t last, const Finish& finish) {
  switch (m.strips) {
    case 4: multiply_strips<4, false>(m, x, x, rows, first, last, finish); break;
    case 2: multiply_strips<2, false>(m, x, x, rows, first, last, finish); break;
    case 1: multiply_strips<1, false>(m, x, x, rows, first, last, finish); break;
  }
}

// The same with panels of four strips of which the first two meet a, the other two b.
static inline void multiply_two(const Matrix& m, Operand a, Operand b, int rows, int64_t first, int64_t last,
                                const Finish& finish) {
  multiply_strips<4, true>(m, a, b, rows, first, last, finish);
}

}  // namespace oxl
