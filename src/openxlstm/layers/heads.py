"""Widths of heads."""


def head_width(width: int, num_heads: int, name: str = "dim") -> int:
    """The width of each of `num_heads` heads. Raises ValueError, which calls the whole `name`, where they do not divide it."""
    if num_heads < 1 or width < 1 or width % num_heads:
        raise ValueError(f"{name}={width} is not divisible by num_heads={num_heads}")
    return width // num_heads
