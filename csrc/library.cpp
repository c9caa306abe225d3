// Facts about the library itself.
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "library.h"
#include "scratch.h"

namespace oxl {
bool poison = false;
}

// Raised whenever the meaning or order of any argument changes; Python refuses a library of another number.
OXL_EXPORT int openxlstm_abi() { return 1; }

// Floats in a vector, and whether the library was compiled with OpenMP.
OXL_EXPORT int openxlstm_vector_width() { return oxl::W; }
OXL_EXPORT int openxlstm_parallel() {
#if defined(_OPENMP)
  return 1;
#else
  return 0;
#endif
}

// For tests: fill temporaries with NaN before they are used.
OXL_EXPORT void openxlstm_poison(int on) { oxl::poison = on != 0; }

// Ask for huge pages behind fresh memory that is about to be written whole. A large tensor is mapped anew at every call, and
// taking it page by page can cost as much as computing what goes into it. A hint: nothing depends on it.
OXL_EXPORT void openxlstm_huge_pages(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = 2 << 20;
  const uintptr_t begin = ((uintptr_t)data + page - 1) / page * page, end = ((uintptr_t)data + bytes) / page * page;
  if (begin < end) madvise((void*)begin, end - begin, MADV_HUGEPAGE);
#endif
}
