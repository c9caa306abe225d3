// Vectors of floats with GCC / Clang vector extensions, so that one source serves SSE2, AVX2, AVX-512 and NEON: the width is
// what the compiler targets. Functions accept NaN and hand it on; none of them needs -ffast-math.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

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
static OXL_INLINE vec minus_abs(vec x) { return (vec)((ivec)x | INT32_MIN); }

// Of NaN and a number these give the NaN when it is `x`. MAXPS and MINPS do just that with `x` last, but compilers do not see it.
#if defined(__AVX512F__)
static OXL_INLINE vec at_least(vec x, vec low) { return (vec)_mm512_maskz_max_ps(0xffff, (__m512)low, (__m512)x); }
static OXL_INLINE vec at_most(vec x, vec high) { return (vec)_mm512_maskz_min_ps(0xffff, (__m512)high, (__m512)x); }
#elif defined(__AVX2__)
static OXL_INLINE vec at_least(vec x, vec low) { return (vec)_mm256_max_ps((__m256)low, (__m256)x); }
static OXL_INLINE vec at_most(vec x, vec high) { return (vec)_mm256_min_ps((__m256)high, (__m256)x); }
#elif defined(__SSE2__)
static OXL_INLINE vec at_least(vec x, vec low) { return (vec)_mm_max_ps((__m128)low, (__m128)x); }
static OXL_INLINE vec at_most(vec x, vec high) { return (vec)_mm_min_ps((__m128)high, (__m128)x); }
#else
static OXL_INLINE vec at_least(vec x, vec low) { return x < low ? low : x; }
static OXL_INLINE vec at_most(vec x, vec high) { return x > high ? high : x; }
#endif

static OXL_INLINE vec iota() {
  vec x;
  for (int i = 0; i < W; i++) x[i] = (float)i;
  return x;
}

static OXL_INLINE float sum(vec x) {
  typedef float quarter __attribute__((vector_size(16)));
  quarter part[W / 4];
  memcpy(part, &x, sizeof x);
  for (int n = W / 8; n; n /= 2)
    for (int i = 0; i < n; i++) part[i] += part[i + n];
  return (part[0][0] + part[0][1]) + (part[0][2] + part[0][3]);
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

// exp(x) = (1 + t) scale for x in [-88, 88]. Below -87.68 the scale is exactly 0. Coefficients: minimax, error 3e-9.
struct Exp {
  vec t, scale;
};
static OXL_INLINE Exp exp_parts(vec x) {
  const float magic = 12582912.f + 127;  // as in vexp; the sum has the exponent bits of 2^n in its low end
  const vec shifted = x * 1.44269504088896341f + magic;
  const vec n = shifted - magic;
  const vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  vec p = r * 0.001381446706f + 0.008368780411f;
  p = p * r + 0.04166839421f;
  p = p * r + 0.1666652011f;
  p = p * r + 0.4999999341f;
  return {p * (r * r) + r, (vec)((ivec)shifted << 23)};
}

// exp of x <= 0, with less to guard against than vexp; exactly 0 below -87.68.
static OXL_INLINE vec vexp_falling(vec x) {
  const Exp e = exp_parts(at_least(x, splat(-88.f)));
  return (1.f + e.t) * e.scale;
}

// log(1 + u) for u in [0, 1]: 2 artanh(s), s = u / (2 + u); minimax in s^2, error 5e-9.
static OXL_INLINE vec vlog1p(vec u) {
  const vec s = u / (u + 2.f), twice = s + s;
  const vec q = s * s;
  vec p = q * 0.1401563688f + 0.1399893182f;
  p = p * q + 0.2001088496f;
  p = p * q + 0.3333320602f;
  return twice * (p * q) + twice;
}

// Never below 1.6e-38, as exp(87) is still finite.
static OXL_INLINE vec vsigmoid(vec x) {
  const Exp e = exp_parts(at_most(at_least(-x, splat(-87.f)), splat(87.f)));
  return 1.f / ((1.f + e.t) * e.scale + 1.f);
}
static OXL_INLINE vec vlog_sigmoid(vec x) { return at_most(x, splat(0.f)) - vlog1p(vexp_falling(minus_abs(x))); }
static OXL_INLINE vec vtanh(vec x) {
  const Exp e = exp_parts(at_least(minus_abs(x) * 2.f, splat(-88.f)));
  const vec u = e.t * e.scale + (e.scale - 1.f);  // exp(-2 |x|) - 1, without loss of digits near 0
  const vec y = u / (u + 2.f);                    // -tanh |x|
  return (vec)((ivec)y ^ (~(ivec)x & INT32_MIN));
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
static __attribute__((noinline, unused)) void transpose(int rows, int columns, const float* in, int64_t in_stride, float* out, int64_t out_stride) {
  for (int i = 0; i < rows; i += W)
    for (int j = 0; j < columns; j += W) {
      vec tile[W];
      for (int a = 0; a < W; a++) tile[a] = load(in + (i + a) * in_stride + j);
      transpose_tile(tile);
      for (int a = 0; a < W; a++) store(out + (j + a) * out_stride + i, tile[a]);
    }
}

}  // namespace oxl
