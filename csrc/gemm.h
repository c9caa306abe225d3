// Register-tiled products of small float matrices that are in cache. A tile of the result stays in registers while the inner
// dimension runs; A is read number by number (broadcast), so any strides of A do, B and C in whole vectors along their rows.
#pragma once
#include "simd.h"

namespace oxl {

#if defined(__AVX512F__)
constexpr int TILE_ROWS = 6, TILE_VECTORS = 4;  // 24 of 32 registers accumulate
#elif defined(__AVX2__)
constexpr int TILE_ROWS = 4, TILE_VECTORS = 3;  // 12 of 16
#else
constexpr int TILE_ROWS = 4, TILE_VECTORS = 2;
#endif

// A[m, k] stands at a[m * row + k * column].
struct Left {
  const float* a;
  int64_t row, column;
  Left operator+(int64_t m) const { return {a + m * row, row, column}; }  // from row m on
};

// acc[R x V vectors] += A[R, K] B[K, V vectors].
template <int R, int V>
static OXL_INLINE void accumulate(vec acc[R][V], int K, Left A, const float* b, int64_t b_stride) {
  for (int k = 0; k < K; k++) {
    vec B[V];
#pragma GCC unroll 8
    for (int j = 0; j < V; j++) B[j] = load(b + k * b_stride + j * W);
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) {
      const vec x = splat(A.a[i * A.row + k * A.column]);
#pragma GCC unroll 8
      for (int j = 0; j < V; j++) acc[i][j] += x * B[j];
    }
  }
}

// Few tile shapes, because each is compiled for each kind of product: the full one and two for what is left of rows, and of
// columns a half and a quarter. Full tiles of 6 rows and one of 4 make up 64.
template <class Body>
static OXL_INLINE void row_tiles(int rows, Body&& body) {
  int m = 0;
  for (; m + TILE_ROWS <= rows; m += TILE_ROWS) body.template operator()<TILE_ROWS>(m);
  if constexpr (TILE_ROWS > 4)
    for (; m + 4 <= rows; m += 4) body.template operator()<4>(m);
  for (; m < rows; m++) body.template operator()<1>(m);
}

// Calls body<R, V>(m, n) for tiles side by side over columns 0 .. columns, a multiple of W.
template <int R, class Body>
static OXL_INLINE void column_tiles(int m, int columns, const Body& body) {
  int n = 0;
  for (; n + TILE_VECTORS * W <= columns; n += TILE_VECTORS * W) body.template operator()<R, TILE_VECTORS>(m, n);
  if constexpr (TILE_VECTORS > 2)
    for (; n + 2 * W <= columns; n += 2 * W) body.template operator()<R, 2>(m, n);
  for (; n < columns; n += W) body.template operator()<R, 1>(m, n);
}

// All tiles of [rows, columns], one panel of columns after another: the panel of B stays in the first cache.
template <int V, class Body>
struct Panel {
  int n;
  const Body& body;
  template <int R>
  OXL_INLINE void operator()(int m) const { body.template operator()<R, V>(m, n); }
};
template <class Body>
static __attribute__((noinline)) void tiles(int rows, int columns, const Body& body) {
  int n = 0;
  for (; n + TILE_VECTORS * W <= columns; n += TILE_VECTORS * W) row_tiles(rows, Panel<TILE_VECTORS, Body>{n, body});
  if constexpr (TILE_VECTORS > 2)
    for (; n + 2 * W <= columns; n += 2 * W) row_tiles(rows, Panel<2, Body>{n, body});
  for (; n < columns; n += W) row_tiles(rows, Panel<1, Body>{n, body});
}

// Of each row tile m .. m + R of a lower triangle [rows, rows] the columns up to its diagonal, in whole vectors.
template <class Body>
struct Triangle {
  const Body& body;
  template <int R>
  OXL_INLINE void operator()(int m) const { column_tiles<R>(m, round_up(m + R), body); }
};
template <class Body>
static __attribute__((noinline)) void triangle(int rows, const Body& body) { row_tiles(rows, Triangle<Body>{body}); }

// C[M, N] = A[M, K] B[K, N], or with `add` C += A B. N is a multiple of W.
struct Product {
  int K;
  Left A;
  const float* b;
  int64_t b_stride;
  float* c;
  int64_t c_stride;
  bool add;

  template <int R, int V>
  OXL_INLINE void operator()(int m, int n) const {
    vec acc[R][V];
    float* to = c + m * c_stride + n;
#pragma GCC unroll 8
    for (int i = 0; i < R; i++)
#pragma GCC unroll 8
      for (int j = 0; j < V; j++) acc[i][j] = add ? load(to + i * c_stride + j * W) : splat(0.f);
    accumulate<R, V>(acc, K, A + m, b + n, b_stride);
#pragma GCC unroll 8
    for (int i = 0; i < R; i++)
#pragma GCC unroll 8
      for (int j = 0; j < V; j++) store(to + i * c_stride + j * W, acc[i][j]);
  }
};

}  // namespace oxl
