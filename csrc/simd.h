// Vectors of floats with GCC / Clang vector extensions, so that one source serves SSE2, AVX2, AVX-512 and NEON: the width is
// what the compiler targets. Functions accept NaN and hand it on; none of them needs -ffast-math.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace oxl {

#if defined(__AVX512F__)
constexpr int W = 16;  // floats in a vector
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

#define OXL_INLINE inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(W * 4)));
typedef int32_t ivec __attribute__((vector_size(W * 4)));
typedef uint32_t uvec __attribute__((vector_size(W * 4)));
typedef uint16_t hvec __attribute__((vector_size(W * 2)));  // bfloat16 bits
typedef float vec_unaligned __attribute__((vector_size(W * 4), aligned(4)));
typedef uint16_t hvec_unaligned __attribute__((vector_size(W * 2), aligned(2)));

constexpr int round_up(int n, int multiple = W) { return (n + multiple - 1) / multiple * multiple; }

static OXL_INLINE vec load(const float* p) { return *(const vec_unaligned*)p; }
static OXL_INLINE void store(float* p, vec x) { *(vec_unaligned*)p = x; }
static OXL_INLINE vec splat(float x) { return vec{} + x; }
static OXL_INLINE vec select(ivec where, vec yes, vec no) { return where ? yes : no; }
static OXL_INLINE vec vabs(vec x) { return (vec)((ivec)x & 0x7fffffff); }
// Of NaN and a number these give the NaN when it is `x`.
static OXL_INLINE vec at_least(vec x, vec low) { return x < low ? low : x; }
static OXL_INLINE vec at_most(vec x, vec high) { return x > high ? high : x; }

static OXL_INLINE vec iota() {
  vec x;
  for (int i = 0; i < W; i++) x[i] = (float)i;
  return x;
}

static OXL_INLINE float sum(vec x) {
  float s = 0;
  for (int i = 0; i < W; i++) s += x[i];
  return s;
}

// The first n < W floats of p, zeros behind them; and the reverse. Nothing beyond p[n - 1] is touched.
static OXL_INLINE vec load_part(const float* p, int n) {
  float part[W] = {};
  memcpy(part, p, sizeof(float) * n);
  return load(part);
}
static OXL_INLINE void store_part(float* p, vec x, int n) {
  float part[W];
  store(part, x);
  memcpy(p, part, sizeof(float) * n);
}

// bfloat16 is the upper half of a float; rounding is to nearest, ties to even, and NaN stays NaN.
static OXL_INLINE vec from_bf16(hvec x) { return (vec)(__builtin_convertvector(x, uvec) << 16); }
static OXL_INLINE hvec to_bf16(vec x) {
  uvec bits = (uvec)x;
  uvec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  uvec nan = (bits >> 16) | 0x40;
  return __builtin_convertvector((uvec)((x == x) ? (ivec)rounded : (ivec)nan), hvec);
}
static OXL_INLINE vec load(const uint16_t* p) { return from_bf16(*(const hvec_unaligned*)p); }
static OXL_INLINE void store(uint16_t* p, vec x) { *(hvec_unaligned*)p = to_bf16(x); }
static OXL_INLINE vec load_part(const uint16_t* p, int n) {
  uint16_t part[W] = {};
  memcpy(part, p, sizeof(uint16_t) * n);
  return load(part);
}
static OXL_INLINE void store_part(uint16_t* p, vec x, int n) {
  uint16_t part[W];
  store(part, x);
  memcpy(p, part, sizeof(uint16_t) * n);
}

// exp after Cephes: x = n ln 2 + r, |r| <= ln 2 / 2, a polynomial in r, then n goes into the exponent bits. About 1 unit in
// the last place; exactly 0 below the smallest normal number, infinity above the largest.
static OXL_INLINE vec vexp(vec x) {
  const vec held = at_most(at_least(x, splat(-87.3f)), splat(88.37f));
  const float magic = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer that stands in the low bits
  const vec shifted = held * 1.44269504088896341f + magic;
  const vec n = shifted - magic;
  const vec r = (held - n * 0.693359375f) + n * 2.12194440e-4f;
  vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.f;
  const ivec exponent = ((ivec)shifted - 0x4b400000) << 23;
  vec y = (vec)((ivec)p + exponent);
  y = select(x < -87.3f, splat(0.f), y);
  y = select(x > 88.37f, splat(INFINITY), y);
  return select(x == x, y, x);
}

// exp of x <= 0, with less to guard against: below -88 the exponent bits come out 0 and make the product exactly 0, and a NaN
// passes through the polynomial.
static OXL_INLINE vec vexp_falling(vec x) {
  const vec held = at_least(x, splat(-88.f));
  const float magic = 12582912.f;
  const vec shifted = held * 1.44269504088896341f + magic;
  const vec n = shifted - magic;
  const vec r = (held - n * 0.693359375f) + n * 2.12194440e-4f;
  vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.f;
  return p * (vec)(((ivec)shifted - (0x4b400000 - 127)) << 23);
}

// log(1 + u) for u in [0, 1]: 2 artanh(u / (2 + u)).
static OXL_INLINE vec vlog1p(vec u) {
  const vec s = u / (u + 2.f);
  const vec q = s * s;
  vec p = q * (1.f / 15) + (1.f / 13);
  p = p * q + (1.f / 11);
  p = p * q + (1.f / 9);
  p = p * q + (1.f / 7);
  p = p * q + (1.f / 5);
  p = p * q + (1.f / 3);
  return 2.f * s * (p * q + 1.f);
}

static OXL_INLINE vec vsigmoid(vec x) {
  const vec u = vexp(-vabs(x));  // never overflows
  return select(x < 0.f, u, splat(1.f)) / (1.f + u);
}
static OXL_INLINE vec vlog_sigmoid(vec x) { return at_most(x, splat(0.f)) - vlog1p(vexp(-vabs(x))); }
static OXL_INLINE vec vtanh(vec x) {
  const vec a = vabs(x);
  const vec u = vexp(-2.f * a);
  vec y = (1.f - u) / (1.f + u);
  const vec x2 = x * x;  // near 0 the difference above loses digits: odd polynomial instead
  const vec small = a * (1.f + x2 * (-0.333333333f + x2 * (0.133333333f + x2 * (-0.0539682540f + x2 * 0.0218694885f))));
  y = select(a < 0.25f, small, y);
  return select(x < 0.f, -y, y);
}
static OXL_INLINE vec vsilu(vec x) { return x * vsigmoid(x); }

// out[j][i] = in[i][j] for W x W numbers: log2(W) passes of perfect shuffles.
static OXL_INLINE void transpose_tile(vec r[W]) {
  ivec low, high;
  for (int i = 0; i < W; i++) {
    low[i] = i / 2 + (i % 2) * W;
    high[i] = low[i] + W / 2;
  }
#pragma GCC unroll 4
  for (int pass = 1; pass < W; pass *= 2) {
    vec t[W];
#pragma GCC unroll 16
    for (int i = 0; i < W / 2; i++) {
#if defined(__clang__)
      for (int j = 0; j < W; j++) {
        t[2 * i][j] = low[j] < W ? r[i][low[j]] : r[i + W / 2][low[j] - W];
        t[2 * i + 1][j] = high[j] < W ? r[i][high[j]] : r[i + W / 2][high[j] - W];
      }
#else
      t[2 * i] = __builtin_shuffle(r[i], r[i + W / 2], low);
      t[2 * i + 1] = __builtin_shuffle(r[i], r[i + W / 2], high);
#endif
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; i++) r[i] = t[i];
  }
}

// out [columns, rows] = transpose of in [rows, columns], both counts multiples of W.
static inline void transpose(int rows, int columns, const float* in, int64_t in_stride, float* out, int64_t out_stride) {
  for (int i = 0; i < rows; i += W)
    for (int j = 0; j < columns; j += W) {
      vec tile[W];
      for (int a = 0; a < W; a++) tile[a] = load(in + (i + a) * in_stride + j);
      transpose_tile(tile);
      for (int a = 0; a < W; a++) store(out + (j + a) * out_stride + i, tile[a]);
    }
}

}  // namespace oxl
