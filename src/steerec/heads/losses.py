"""Losses of next-item networks: softmax over the catalogue without keeping its logits."""

from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 6_000_000  # logits worked on at once: they stay in the cache of a core


class _Softmax(torch.autograd.Function):
    """Cross-entropy of h @ items.T + bias, its gradients made chunk by chunk on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        h_MD: Tensor,
        items_ND: Tensor,
        bias_N: Tensor,
        target_M: Tensor,
        boost_M: Tensor | None,
    ) -> Tensor:
        n = len(target_M)
        chunk = max(16, CHUNK_BYTES // (4 * len(items_ND)))
        grad_h = torch.empty_like(h_MD)
        grad_items = torch.zeros_like(items_ND)
        grad_bias = torch.zeros_like(bias_N)
        total = h_MD.new_zeros(())
        for start in range(0, n, chunk):
            h, target = h_MD[start : start + chunk], target_M[start : start + chunk, None]
            p = torch.addmm(bias_N, h, items_ND.T)
            if boost_M is not None:
                p.scatter_add_(1, target, boost_M[start : start + chunk, None])
            top = p.amax(1, keepdim=True)
            hit = p.gather(1, target)
            p.sub_(top).exp_()
            mass = p.sum(1, keepdim=True)
            total += (mass.log() + top - hit).sum()
            p.div_(mass)
            p.scatter_add_(1, target, -torch.ones_like(hit))
            torch.mm(p, items_ND, out=grad_h[start : start + chunk])
            grad_items.addmm_(p.T, h)
            grad_bias += p.sum(0)
        ctx.save_for_backward(grad_h / n, grad_items / n, grad_bias / n)
        return total / n

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        grad_h, grad_items, grad_bias = ctx.saved_tensors
        (scale,) = grad_outputs
        return grad_h * scale, grad_items * scale, grad_bias * scale, None, None


def softmax_loss(h_MD: Tensor, items_ND: Tensor, bias_N: Tensor, target_M: Tensor) -> Tensor:
    """Mean cross-entropy of the next item over all N items; memory O(M D + N D), not O(M N).

    Differentiable once: gradients are made in the forward pass.

    Args:
        h_MD: what is known before each target.
        items_ND, bias_N: the catalogue's vectors and biases.
        target_M: int64 index of the item that came.
    """
    loss: Tensor = _Softmax.apply(h_MD, items_ND, bias_N, target_M, None)  # type: ignore[no-untyped-call]
    return loss


def sampled_loss(
    h_MD: Tensor,
    items_ND: Tensor,
    bias_N: Tensor,
    target_M: Tensor,
    *,
    drawn_S: Tensor,
    log_expected_N: Tensor,
) -> Tensor:
    """The same with one sample of the catalogue shared by the batch, corrected by log Q.

    Every other row's target serves as a negative too; an item that was likely to be among them
    counts the less, a row's own target fully.

    Args:
        drawn_S: int64, the sample; targets of the batch join it.
        log_expected_N: log of each item's probability to be in the sample or among the targets.
    Source: Bengio and Senecal 2008; Yi et al. 2019, Sampling-Bias-Corrected Neural Modeling.
    """
    chosen, place = torch.unique(torch.cat([target_M, drawn_S]), return_inverse=True)
    correction = log_expected_N[chosen]
    own = place[: len(target_M)]
    loss: Tensor = _Softmax.apply(  # type: ignore[no-untyped-call]
        h_MD, items_ND[chosen], bias_N[chosen] - correction, own, correction[own]
    )
    return loss


def pairwise_max_loss(
    h_MD: Tensor,
    items_ND: Tensor,
    bias_N: Tensor,
    target_M: Tensor,
    *,
    drawn_S: Tensor,
    kind: str,
    penalty: float = 1.0,
) -> Tensor:
    """Each target against a sample, negatives that score high counting most.

    Args:
        drawn_S: int64, the sample, shared by the batch; a row's own target in it does not count.
        kind: bpr_max or top1_max.
        penalty: weight of the squared scores of negatives, for bpr_max.
    Source: Hidasi and Karatzoglou 2018, Recurrent Neural Networks with Top-k Gains, eq. 11 and 9.
    """
    r_MS = h_MD @ items_ND[drawn_S].T + bias_N[drawn_S]
    r_M1 = ((h_MD * items_ND[target_M]).sum(1) + bias_N[target_M])[:, None]
    own = drawn_S[None, :] == target_M[:, None]
    share_MS = torch.softmax(r_MS.masked_fill(own, -torch.inf), dim=1)
    if kind == "top1_max":
        gap = torch.sigmoid(r_MS - r_M1) + torch.sigmoid(r_MS.square())
        return (share_MS * gap).sum(1).mean()
    better = (share_MS * torch.sigmoid(r_M1 - r_MS)).sum(1)
    spread = (share_MS * r_MS.square()).sum(1)
    return (-torch.log(better + 1e-24) + penalty * spread).mean()
