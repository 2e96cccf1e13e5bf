"""A linear layer on the padded matrix and its mask, for torch models: what MLaaS4HEP's ``jarray.pytorch`` has."""

from __future__ import annotations

from typing import Any

try:
    import torch
except ModuleNotFoundError as missing:
    _MISSING = "JaggedArrayLinear is a layer of torch, which is not installed: pip install 'mlaas-spark[torch]'"
    raise ModuleNotFoundError(_MISSING, name="torch") from missing


class JaggedArrayLinear(torch.nn.Linear):  # type: ignore[misc]
    """``torch.nn.Linear`` in which values that are padding or missing count as 0, whatever they are.

    Its input is the feature matrix, shape (n, W), where they are 0 already, or a pair (matrix, mask) of that shape, as
    ``train.inputs: matrix+mask`` gives it: mask 1 = real value, 0 = padding or missing. NaN in the mask is 0 too:
    MLaaS4HEP marks padding so.

    Args:
        in_features: W.
        out_features: Numbers an event that it gives.
        bias: Whether they have one.
        verbose: As MLaaS4HEP's takes it; nothing is printed.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, verbose: int = 0) -> None:  # noqa: ARG002, FBT001, FBT002 - as the original
        super().__init__(in_features, out_features, bias)

    def forward(self, inputs: Any) -> Any:
        """Scores of shape (n, out_features)."""
        if isinstance(inputs, tuple | list):
            matrix, mask = inputs
            inputs = torch.where(torch.nan_to_num(mask, nan=0.0) != 0, matrix, torch.zeros_like(matrix))
        return super().forward(inputs)
