// Pointwise functions that follow a product, chosen at run time once for each vector of results.
#pragma once
#include "simd.h"

namespace oxl {

// The values of `openxlstm.inference.plan.ACTIVATIONS`.
enum Activation : int32_t { NONE = 0, SILU = 1, SIGMOID = 2, GELU = 3, SOFT_CAP = 4 };

// erf to 1.5e-7: an odd polynomial below 1, 1 - exp(-x^2) q(1 / (1 + 0.47 x)) above; both fitted by Chebyshev interpolation.
static OXL_INLINE vec verf(vec x) {
  const vec a = vabs(x), s = x * x;
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
  const vec tail = 1.f - vexp(-s) * q;
  return select(a < 1.f, x * p, select(x < 0.f, -tail, tail));
}

static OXL_INLINE vec vgelu(vec x) { return 0.5f * x * (1.f + verf(x * 0.70710678118654752f)); }

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
