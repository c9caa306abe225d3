// What every entry point shares. The ABI is plain C: Python finds the functions by name through ctypes, so nothing of Python
// or PyTorch is needed to compile them and one library serves all versions of both.
#pragma once
#include <cstdint>

#if defined(_OPENMP)
#include <omp.h>
#endif

#define OXL_EXPORT extern "C" __attribute__((visibility("default")))

namespace oxl {

constexpr float EMPTY_M = -1e30f;  // `openxlstm.ops.numerics.EMPTY_M`

// Numbers of a tensor that is read or written in place, whatever its strides: element (b, t, g, h) begins at
// data + b * batch + t * time + g * gate + h * head, counted in elements, and is contiguous from there.
// The mirror in Python is `openxlstm.ops.native.View`.
struct View {
  void* data;
  int64_t batch, time, gate, head;
  int32_t bf16;  // 0: float, 1: bfloat16

  int64_t at(int64_t b, int64_t t, int64_t h) const { return b * batch + t * time + h * head; }
};

}  // namespace oxl
