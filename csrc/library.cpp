// Facts about the library itself.
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
