"""Recurrences as operators: one node for torch.compile, with gradients written by hand."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def needs_gradient(*tensors: Tensor) -> bool:
    """Whether autograd will ask for gradients of what comes of these: if not, nothing need be saved for them."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def differentiable(operator: Any, save: Callable[..., None], backward: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls `operator` (of torch.library.custom_op) with gradients.

    save(ctx, inputs, output): keeps what the backward pass needs, as for `operator.register_autograd`.
    backward(ctx, *gradients of the outputs): the gradients of the inputs. Its own work belongs into another operator.

    torch.compile sees the operator with these registered. Eager code gets the same two in an autograd.Function, and of the
    outputs the tensors alone: `register_autograd` flattens lists of tensors and reads the schema at every call, which costs
    0.03 to 0.12 ms (docs/log.md). The gradients are not differentiable themselves: a second derivative is an error.
    """

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = operator(*inputs)
            save(ctx, inputs, output)
            return output if isinstance(output, Tensor) else tuple(x for x in output if isinstance(x, Tensor))

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, *gradients: Tensor | None) -> Any:
            return backward(ctx, *gradients)

    operator.register_autograd(backward, setup_context=save)

    def call(*inputs: Any) -> Any:
        return operator(*inputs) if torch.compiler.is_compiling() else Eager.apply(*inputs)

    return call
