// How fast memory is: the bound that kernels which touch every byte once are measured against (benchmarks/decode.py).
#include "library.h"
#include "simd.h"

using namespace oxl;

namespace {
// The sum over threads of `part(first, last)` of n floats, in shares of whole cache lines.
template <class Part>
float shared(int64_t n, int threads, Part part) {
  float total = 0;
  const int64_t lines = n / 16;
#pragma omp parallel num_threads(threads) reduction(+ : total)
  {
    int t = 0, all = 1;
#if defined(_OPENMP)
    t = omp_get_thread_num(), all = omp_get_num_threads();
#endif
    total += part(lines * t / all * 16, lines * (t + 1) / all * 16);
  }
  return total;
}
}  // namespace

// Reads n floats, a multiple of 16; the sum is returned so that reading cannot be optimised away.
OXL_EXPORT float openxlstm_read(const float* data, int64_t n, int threads) {
  return shared(n, threads, [&](int64_t i, int64_t last) {
    vec acc[16] = {};
    for (; i + 16 * W <= last; i += 16 * W)
#pragma GCC unroll 16
      for (int j = 0; j < 16; j++) acc[j] += load(data + i + j * W);
    for (; i < last; i += W) acc[0] += load(data + i);
    for (int j = 1; j < 16; j++) acc[0] += acc[j];
    return sum(acc[0]);
  });
}

// Copies n floats, a multiple of 16, with plain stores.
OXL_EXPORT void openxlstm_copy(float* to, const float* from, int64_t n, int threads) {
  shared(n, threads, [&](int64_t i, int64_t last) {
    memcpy(to + i, from + i, sizeof(float) * (last - i));
    return 0.f;
  });
}
