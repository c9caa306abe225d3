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

// Calls body<R, V>(first row, first column) for tiles that cover [rows, columns]; `columns` is a multiple of W.
template <int V, class Body>
static OXL_INLINE void tile_rows(int rows, int column, Body&& body) {
  int m = 0;
  for (; m + TILE_ROWS <= rows; m += TILE_ROWS) body.template operator()<TILE_ROWS, V>(m, column);
  switch (rows - m) {
    case 5: if constexpr (TILE_ROWS > 5) body.template operator()<5, V>(m, column); break;
    case 4: if constexpr (TILE_ROWS > 4) body.template operator()<4, V>(m, column); break;
    case 3: body.template operator()<3, V>(m, column); break;
    case 2: body.template operator()<2, V>(m, column); break;
    case 1: body.template operator()<1, V>(m, column); break;
  }
}

template <class Body>
static OXL_INLINE void tiles(int rows, int columns, Body&& body) {
  int n = 0;
  for (; n + TILE_VECTORS * W <= columns; n += TILE_VECTORS * W) tile_rows<TILE_VECTORS>(rows, n, body);
  switch ((columns - n) / W) {
    case 3: if constexpr (TILE_VECTORS > 3) tile_rows<3>(rows, n, body); break;
    case 2: if constexpr (TILE_VECTORS > 2) tile_rows<2>(rows, n, body); break;
    case 1: tile_rows<1>(rows, n, body); break;
  }
}

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
