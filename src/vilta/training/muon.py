"""Muon with the matrices of one shape taken together, in bf16 only where that is fast.

torch's own takes one matrix after another, in bf16 everywhere: on a CPU that multiplies bf16 by
detours a step then takes 20 to 40 times as long as in float32. And it cannot be told on the device
that a gradient was not finite.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vilta.training.precision import native_bf16

AT_ONCE = 2**25
"""Weights that are stepped together: each takes a few copies of 4 bytes meanwhile (our choice)."""
FAST_BF16 = ("tensor cores", "AMX")
"""Units on which bf16 is faster for matrices as small as a layer's. AVX512-BF16 is not: small
products take 2 to 4 times as long as in float32 there."""


class Muon(torch.optim.Muon):
    """``torch.optim.Muon`` as vilta sets it, by other products; its states are torch's.

    Like AdamW's fused form it takes ``found_inf``, a number on the device: where that is 1, neither
    weights nor momentum change, and nothing waits for it.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        # Steps as long as AdamW's, so that one rate serves both (arXiv 2502.16982).
        super().__init__(groups, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Step every matrix that has a gradient; a ``closure`` is not supported."""
        assert closure is None
        broken: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike[matrix.shape].append(matrix)
            for shape, matrices in alike.items():
                at_once = max(1, AT_ONCE // shape.numel())
                for first in range(0, len(matrices), at_once):
                    self._step(matrices[first : first + at_once], group, broken)

    def _step(self, matrices: list[Tensor], group: dict[str, Any], broken: Tensor | None) -> None:
        momenta = [self._momentum_of(matrix) for matrix in matrices]
        momentum = torch.stack(momenta)
        gradient = torch.stack([matrix.grad for matrix in matrices if matrix.grad is not None])
        taken: Tensor | float = 1.0
        if broken is not None:
            taken = 1 - broken
            gradient = torch.where(broken > 0, momentum, gradient)  # which moves no momentum
        momentum.lerp_(gradient, 1 - group["momentum"])
        torch._foreach_copy_(momenta, momentum.unbind())
        ahead = gradient.lerp_(momentum, group["momentum"])  # Nesterov's
        turned = orthogonalised(ahead, group["ns_coefficients"], group["ns_steps"], group["eps"])
        length = group["lr"] * 0.2 * max(matrices[0].shape) ** 0.5
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"] * taken)
        torch._foreach_sub_(matrices, (turned * (length * taken)).unbind())

    def _momentum_of(self, matrix: Tensor) -> Tensor:
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        momentum: Tensor = state["momentum_buffer"]
        return momentum


def orthogonalised(
    matrices: Float[Tensor, "N A B"],
    coefficients: tuple[float, float, float],
    steps: int,
    eps: float,
) -> Float[Tensor, "N A B"]:
    """Bring all singular values near 1 by Newton-Schulz iterations, as torch does.

    The products are in bf16 where the device has a unit for them (``FAST_BF16``).
    """
    a, b, c = coefficients
    x = matrices.bfloat16() if native_bf16(matrices.device) in FAST_BF16 else matrices
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, gram, x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)
