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
    x = nearest(x, UPCAST).to(dtype)
    if UPCAST:
        x = x.to(tl.float32)
    return x


@triton.jit
def nearest(x, UPCAST: tl.constexpr):
    """A computed float32 tile before it is stored as bfloat16: the interpreter cuts off what the device rounds."""
    if UPCAST:
        bits = x.to(tl.int32, bitcast=True)
        x = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
    return x


@triton.jit
def log_sigmoid(x):
    """For float64, or where an error of 6e-8 is small."""
    return tl.minimum(x, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(x)))
