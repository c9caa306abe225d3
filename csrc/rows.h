// For kernels that go over the rows of tensors: vectors at ragged ends, sums over lanes, gates, and who works on what.
#pragma once
#include "library.h"
#include "scratch.h"
#include "simd.h"

namespace oxl {

// Vector number d / W of a row that has `left` numbers from d on; lanes behind the end are 0 and stay untouched.
template <class E>
static OXL_INLINE vec get(const E* p, int left) {
  return left >= W ? load(p) : load_part(p, left);
}
template <class E>
static OXL_INLINE void put(E* p, vec x, int left) {
  if (left >= W)
    store(p, x);
  else
    store_part(p, x, left);
}

// x with 0 in the lanes from `left` on.
static OXL_INLINE vec inside(vec x, int left) { return left >= W ? x : select(iota() < (float)left, x, splat(0.f)); }

// The sum over lanes, in log2(W) steps.
static OXL_INLINE float fold(vec x) {
#if defined(__clang__)
  return sum(x);
#else
#pragma GCC unroll 4
  for (int half = W / 2; half > 0; half /= 2) {
    ivec from;
    for (int i = 0; i < W; i++) from[i] = i ^ half;
    x += __builtin_shuffle(x, from);
  }
  return x[0];
#endif
}

// sigmoid(x) and 1 - sigmoid(x), both to full relative precision.
struct Gate {
  vec open, closed;
};
static OXL_INLINE Gate vgate(vec x) {
  const vec u = vexp_falling(minus_abs(x));
  const vec large = 1.f / (1.f + u), small = u * large;
  return {select(x < 0.f, small, large), select(x < 0.f, large, small)};
}
// silu'(x) = s (1 + x (1 - s)), s = sigmoid(x).
static OXL_INLINE vec silu_slope(vec x, Gate s) { return s.open * (1.f + x * s.closed); }

// Part `who` of `parts` of n things: contiguous, and the same whenever the numbers are.
struct Range {
  int64_t begin, end;
};
static inline Range share(int64_t n, int parts, int who) { return {n * who / parts, n * (who + 1) / parts}; }

// Runs body(thread, threads) on so many threads at once.
template <class Body>
static void on_threads(int threads, const Body& body) {
#if defined(_OPENMP)
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    body(omp_get_thread_num(), omp_get_num_threads());
    return;
  }
#endif
  body(0, 1);
}

}  // namespace oxl
