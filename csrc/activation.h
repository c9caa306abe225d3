// Pointwise functions that follow a product, chosen at run time once for each vector of results.
#pragma once
#include "simd.h"

namespace oxl {

// The values of `openxlstm.inference.plan.ACTIVATIONS`.
enum Activation : int32_t { NONE = 0, SILU = 1, SIGMOID = 2, GELU = 3, SOFT_CAP = 4 };

// Of the normal distribution: the probability of what is below x, to a millionth of itself (a hundred thousandth beyond five
// deviations, where torch's gelu has no digit left), and exp(-x^2 / 2).
struct Normal {
  vec below, exponential;
};

// (1 + erf(z)) / 2, z = x / sqrt(2): below |z| = 1 by an odd polynomial, above by exp(-z^2) q(1 / (1 + 0.47 |z|)) of the smaller
// side; both fitted by Chebyshev interpolation.
static OXL_INLINE Normal vnormal(vec x) {
  const vec z = x * 0.70710678118654752f, a = vabs(z), s = z * z;
  vec p = s * -9.67359119e-06f + 0.000112682537f;
  p = p * s - 0.000848439639f;
  p = p * s + 0.00522105349f;
  p = p * s - 0.0268654376f;
  p = p * s + 0.112837829f;
  p = p * s - 0.376126379f;
  p = p * s + 1.12837923f;
  const vec u = 1.f / (a * 0.47f + 1.f);
  vec q = u * 0.0886351392f - 0.436841905f;
  q = q * u + 0.66197896f;
  q = q * u - 0.201024696f;
  q = q * u + 0.390024006f;
  q = q * u + 0.227000356f;
  q = q * u + 0.27047804f;
  q = q * u - 0.000319152634f;
  const vec exponential = vexp(-s), smaller = 0.5f * exponential * q;
  return {select(a < 1.f, 0.5f + 0.5f * z * p, select(z < 0.f, smaller, 1.f - smaller)), exponential};
}

static OXL_INLINE vec vgelu(vec x) { return x * vnormal(x).below; }

static OXL_INLINE vec activate(Activation kind, vec x, float cap) {
  switch (kind) {
    case SILU: return vsilu(x);
    case SIGMOID: return vsigmoid(x);
    case GELU: return vgelu(x);
    case SOFT_CAP: return cap * vtanh(x / cap);
    default: return x;
  }
}

}  // namespace oxl
