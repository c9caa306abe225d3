// What a gated feed-forward network does between its two products, forward and backward (ops/glu/activation.py):
//
//   y = act(gate) * up,  act = gelu or silu;  a row of x is its gate, then its up, `hidden` numbers each
#include "activation.h"
#include "rows.h"

namespace oxl {
namespace {

// act(x) = x * open, and its slope.
struct Opening {
  vec open, slope;
};

template <bool GELU>
OXL_INLINE Opening opening(vec x) {
  if (GELU) {
    const Normal n = vnormal(x);
    return {n.below, n.below + x * n.exponential * 0.398942280401432678f};  // 1 / sqrt(2 pi)
  }
  const Gate s = vgate(x);
  return {s.open, silu_slope(x, s)};
}

template <class E, bool GELU>
void forward(const E* x, E* y, int64_t rows, int hidden, int threads) {
  on_threads(threads, [&](int thread, int running) {
    const Range mine = share(rows, running, thread);
    for (int64_t row = mine.begin; row < mine.end; row++) {
      const E *gate = x + row * 2 * hidden, *up = gate + hidden;
      E* to = y + row * hidden;
      for (int d = 0; d < hidden; d += W) {
        const int left = hidden - d;
        const vec g = get(gate + d, left);
        put(to + d, g * opening<GELU>(g).open * get(up + d, left), left);
      }
    }
  });
}

template <class E, bool GELU>
void backward(const E* dy, const E* x, E* dx, int64_t rows, int hidden, int threads) {
  on_threads(threads, [&](int thread, int running) {
    const Range mine = share(rows, running, thread);
    for (int64_t row = mine.begin; row < mine.end; row++) {
      const int64_t at = row * 2 * hidden;
      for (int d = 0; d < hidden; d += W) {
        const int left = hidden - d;
        const vec g = get(x + at + d, left), dout = get(dy + row * hidden + d, left);
        const Opening o = opening<GELU>(g);
        put(dx + at + d, dout * get(x + at + hidden + d, left) * o.slope, left);
        put(dx + at + hidden + d, dout * (g * o.open), left);
      }
    }
  });
}

template <class E>
void forward_of(const void* x, void* y, int64_t rows, int hidden, int gelu, int threads) {
  (gelu ? forward<E, true> : forward<E, false>)((const E*)x, (E*)y, rows, hidden, threads);
}
template <class E>
void backward_of(const void* dy, const void* x, void* dx, int64_t rows, int hidden, int gelu, int threads) {
  (gelu ? backward<E, true> : backward<E, false>)((const E*)dy, (const E*)x, (E*)dx, rows, hidden, threads);
}

}  // namespace
}  // namespace oxl

// x, dx [rows, 2 * hidden], y, dy [rows, hidden], contiguous.
OXL_EXPORT void openxlstm_glu_forward(const void* x, void* y, int64_t rows, int hidden, int bf16, int gelu, int threads) {
  (bf16 ? oxl::forward_of<uint16_t> : oxl::forward_of<float>)(x, y, rows, hidden, gelu, threads);
}
OXL_EXPORT void openxlstm_glu_backward(
    const void* dy, const void* x, void* dx, int64_t rows, int hidden, int bf16, int gelu, int threads) {
  (bf16 ? oxl::backward_of<uint16_t> : oxl::backward_of<float>)(dy, x, dx, rows, hidden, gelu, threads);
}
