"""Device functions that several kernels share. Import only where a kernel is launched."""

import triton
import triton.language as tl


@triton.jit
def operand(x, UPCAST: tl.constexpr):
    """A loaded tile as an operand of tl.dot (`ops.gpu.upcast`)."""
    if UPCAST:
        x = x.to(tl.float32)
    return x


@triton.jit
def narrow(x, dtype: tl.constexpr, UPCAST: tl.constexpr):
    """A computed float32 tile as an operand beside operands of `dtype`: rounded to it, in the interpreter too."""
    x = x.to(dtype)
    if UPCAST:
        x = x.to(tl.float32)
    return x


@triton.jit
def log_sigmoid(x):
    """For float64, or where an error of 6e-8 is small."""
    return tl.minimum(x, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(x)))
