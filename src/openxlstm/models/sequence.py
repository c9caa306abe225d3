"""An answer at every step: embedding or projection, stack, linear head."""

from torch import Tensor, nn

from openxlstm.layers.init import small_init
from openxlstm.models.config import SequenceConfig
from openxlstm.models.encoder import Encoder
from openxlstm.models.stack import StackState
from openxlstm.ops.numerics import accumulation_dtype


class SequenceModel(Encoder):
    """`outputs, state = model(x, state=None, *, reset=None, mask=None)`: class scores or real values at every step.

    The same call trains, reads and continues, as with LanguageModel. Head and embedding start as N(0, 2/(5 dim)), the head's
    bias at 0.
    """

    config_type = SequenceConfig
    config: SequenceConfig

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__(config)
        self.output = nn.Linear(config.dim, config.num_outputs)
        small_init(self.output.weight, config.dim)
        nn.init.zeros_(self.output.bias)

    def forward(
        self, x: Tensor, state: StackState | None = None, *, reset: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, StackState]:
        """Answer at every step.

        x: token ids [B, T], or vectors [B, T, input_dim]. state: where to start, None is the empty state. reset: [B, T] bool,
        empty the state before this step. mask: [B, T] bool, False = padding: the state passes.
        Returns outputs [B, T, num_outputs] (float32, or float64 in a float64 model) and the last state.
        Raises ValueError for shapes and ids outside the vocabulary.
        """
        h, state = self.hidden(x, state, reset=reset, mask=mask)
        return self.head(h), state

    def hidden(
        self, x: Tensor, state: StackState | None = None, *, reset: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, StackState]:
        """What the head sees: h [B, T, D] after the final norm, and the last state. Arguments as in `forward`."""
        return self.stack(self.embed(x), state, reset=reset, mask=mask)

    def head(self, h: Tensor) -> Tensor:
        """Outputs [..., num_outputs] of hidden vectors [..., D]."""
        outputs = self.output(h)
        return outputs.to(accumulation_dtype(outputs))
