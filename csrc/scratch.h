// Memory for temporaries: one aligned block a thread and call, handed out piece by piece and freed at the end. In tests it is
// filled with NaN first (openxlstm_poison), so that a read of what was never written shows.
#pragma once
#include <cstdlib>
#include <limits>
#include <new>

#include "simd.h"

namespace oxl {

extern bool poison;

class Scratch {
 public:
  explicit Scratch(size_t floats) : size(floats + 64) {
    void* block = nullptr;
    if (posix_memalign(&block, 64, size * sizeof(float))) abort();  // as the allocator of a worker thread cannot throw
    data = next = static_cast<float*>(block);
    if (poison)
      for (size_t i = 0; i < size; i++) data[i] = std::numeric_limits<float>::quiet_NaN();
  }
  ~Scratch() { free(data); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // `floats` numbers that begin on a cache line. The sum of all requests, each rounded up to 16, must fit.
  float* take(size_t floats) {
    float* piece = next;
    next += (floats + 15) / 16 * 16;
    if (next > data + size) abort();
    return piece;
  }

 private:
  size_t size;
  float *data, *next;
};

}  // namespace oxl
