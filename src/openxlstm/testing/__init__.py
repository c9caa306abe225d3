"""The checks that our own layers and kernels pass, for yours: `check_layer(MyBlock(64).double(), 64)`."""

from openxlstm.testing.backends import (
    check_conv1d_backend,
    check_gated_activation_backend,
    check_hard_gates,
    check_head_norm_backend,
    check_lstm_backend,
    check_mlstm_backend,
    check_qkv_gates_backend,
    check_slstm_backend,
)
from openxlstm.testing.compare import assert_close, assert_finite, assert_no_worse, relative_error
from openxlstm.testing.conformance import (
    check_batch_permutation,
    check_cut_anywhere,
    check_extreme_gates,
    check_gradients,
    check_inputs_untouched,
    check_layer,
    check_mask_equals_unpadded,
    check_reset_equals_separate,
    check_state_gradients,
    check_step_equals_whole,
    shake,
)

__all__ = [
    "assert_close",
    "assert_finite",
    "assert_no_worse",
    "check_batch_permutation",
    "check_conv1d_backend",
    "check_cut_anywhere",
    "check_extreme_gates",
    "check_gated_activation_backend",
    "check_gradients",
    "check_hard_gates",
    "check_head_norm_backend",
    "check_inputs_untouched",
    "check_layer",
    "check_lstm_backend",
    "check_mask_equals_unpadded",
    "check_mlstm_backend",
    "check_qkv_gates_backend",
    "check_reset_equals_separate",
    "check_slstm_backend",
    "check_state_gradients",
    "check_step_equals_whole",
    "relative_error",
    "shake",
]
