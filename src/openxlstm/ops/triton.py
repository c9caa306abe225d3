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
def rounded(x, dtype: tl.constexpr, UPCAST: tl.constexpr):
    """float32 as `dtype`, to be stored: to the nearest, also in the interpreter, whose own conversion to bfloat16 cuts off."""
    if UPCAST:
        bits = x.to(tl.uint32, bitcast=True)
        x = (((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) << 16).to(tl.float32, bitcast=True)
    return x.to(dtype)


@triton.jit
def narrow(x, dtype: tl.constexpr, UPCAST: tl.constexpr):
    """A computed float32 tile as an operand beside operands of `dtype`: rounded to it, in the interpreter too."""
    return operand(rounded(x, dtype, UPCAST), UPCAST)


@triton.jit
def log_sigmoid(x):
    """For float64, or where an error of 6e-8 is small."""
    return tl.minimum(x, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(x)))
