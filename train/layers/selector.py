"""Choose k patches of a frame (UniTriM 3.2.2), differentiably."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.distributed import draw_noise
from train.layers.blocks import axis_chunks
from train.layers.precision import full_precision


class PerturbedTopK(torch.autograd.Function):
    """Which k of P scores are highest, averaged over noisy copies, so that it has a gradient (Cordonnier et al. 2021).

    Only the chosen indices and the noise are kept: the one-hot tensor (rows, S, k, P) of the published code is never made. That
    code lets a patch's score answer for its own share alone (`own`); by default it answers for what it takes from the others too.
    """

    @staticmethod
    def forward(ctx, score: Tensor, k: int, samples: int, sigma: float, own: bool = False) -> Tensor:
        """(rows, P) scores -> (rows, k, P) shares, each of the k rows sums to 1; rows in order of place, not of score."""
        rows, patches = score.shape
        noise = draw_noise(rows, samples, patches, device=score.device)
        index = (score[:, None] + sigma * noise).topk(k, -1, sorted=False).indices.sort(-1).values  # (rows, S, k)
        share = torch.zeros(rows, k * patches, device=score.device, dtype=torch.float32)
        slot = index + patches * torch.arange(k, device=score.device)
        share.scatter_add_(
            1, slot.view(rows, -1), torch.full((1, 1), 1 / samples, device=score.device).expand(rows, samples * k)
        )
        ctx.save_for_backward(slot.to(torch.int16 if k * patches < 2**15 else torch.int32), noise)
        ctx.sigma, ctx.own = sigma, own
        return share.view(rows, k, patches).to(score.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        """E[<grad, one-hot> noise] / sigma, the gradient of the expectation; with `own` its diagonal, as published."""
        slot, noise = ctx.saved_tensors
        rows, samples, k = slot.shape
        slot = slot.view(rows, -1).long()
        gain = grad.reshape(rows, -1).float().gather(1, slot).view(rows, samples, k)
        if ctx.own:
            index = (slot % grad.shape[-1]).view(rows, samples, k)
            gain = (gain * noise.gather(2, index)).view(rows, -1)
            total = torch.zeros(rows, grad.shape[-1], device=grad.device).scatter_add_(1, index.view(rows, -1), gain)
        else:
            total = (gain.sum(-1)[:, None] @ noise)[:, 0]
        return total.to(grad.dtype) / (samples * ctx.sigma), None, None, None, None


class PatchSelector(nn.Module):
    """Chooses the k patches of each frame that matter, by an MLP on [patch; video] (UniTriM 3.1.2).

    In training a perturbed top-k gives mixtures of patches and a gradient; in evaluation the k best patches themselves.
    """

    def __init__(self, dimension: int, k: int, hidden: int = 512, samples: int = 100, sigma: float = 0.05):
        super().__init__()
        self.k, self.samples, self.sigma = k, samples, sigma
        self.hidden, self.out = nn.Linear(2 * dimension, hidden), nn.Linear(hidden, 1)

    @full_precision
    def forward(self, patch: Tensor, video: Tensor) -> Tensor:
        """(B, N, P, D) patches and (B, D) unit videos -> (B, N·k, D) unit patches."""
        batch, frames, patches, dimension = patch.shape
        k = min(self.k, patches)
        length = patch.norm(dim=-1).clamp(min=1e-6).reciprocal().flatten(0, 1)  # (BN, P), in place of a unit copy
        flat = patch.flatten(0, 1)
        if self.training:
            share = PerturbedTopK.apply(self.score(flat, length, video), k, self.samples, self.sigma)
            chosen = (share * length[:, None]).to(flat.dtype) @ flat
        else:
            index = self.score(flat, length, video).topk(k, -1).indices.sort(-1).values
            chosen = flat.gather(1, index[..., None].expand(-1, -1, dimension))
        return F.normalize(chosen, dim=-1).view(batch, frames * k, dimension)

    def score(self, patch: Tensor, length: Tensor, video: Tensor) -> Tensor:
        """(BN, P) how much each patch matters: W2 ReLU(W1 [patch; video]), W1 applied to its two halves apart.

        Scores stay before the paper's softmax: the ranks are the same, and values near 1/P would drown in the noise.
        """
        of_patch, of_video = self.hidden.weight.chunk(2, dim=1)
        context = F.linear(video, of_video, self.hidden.bias)  # once a video, not once a patch
        values = (patch.view(len(video), -1, patch.shape[-1]), length.view(len(video), -1, 1))
        if patch.requires_grad and torch.is_grad_enabled():  # CLIP's blocks learn too, through what is chosen as well
            hidden = F.relu(F.linear(values[0] * values[1], of_patch) + context[:, None])
            return (hidden @ self.out.weight[0]).view(length.shape) + self.out.bias
        return SelectorFunction.apply(*values, context, of_patch, self.out.weight[0]).view(length.shape) + self.out.bias


class SelectorFunction(torch.autograd.Function):
    """The selector's MLP a few videos at a time: each chunk is scaled, shifted and cut at 0 in place while it is in cache.

    For patches of a frozen CLIP: they get no gradient.
    """

    @staticmethod
    def forward(ctx, patch: Tensor, length: Tensor, context: Tensor, weight: Tensor, out: Tensor) -> Tensor:
        """(V, NP, D) patches, (V, NP, 1) one over their lengths, (V, H) context -> (V, NP) ReLU(W patch·length + context)·out."""
        videos, tokens, _ = patch.shape
        hidden = patch.new_empty(videos, tokens, len(out))
        score = patch.new_empty(videos, tokens)
        for some in axis_chunks(hidden):
            part = hidden[some]
            torch.matmul(patch[some], weight.T, out=part)
            part.mul_(length[some]).add_(context[some, None]).relu_()
            torch.matmul(part, out, out=score[some])
        ctx.save_for_backward(patch, length, hidden, out)
        return score

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, None, Tensor, Tensor, Tensor]:
        """Gradients of context, W and out."""
        patch, length, hidden, out = ctx.saved_tensors
        to_context = hidden.new_empty(len(hidden), len(out))
        to_weight, to_out = torch.zeros(len(out), patch.shape[-1], device=patch.device), torch.zeros_like(out)
        for some in axis_chunks(hidden):
            to_out += torch.einsum("vp,vph->h", grad[some], hidden[some])
            part = hidden[some].sign()  # 1 where it passed, 0 where ReLU cut it
            torch.matmul(grad[some, None], part, out=to_context[some, None])
            part.mul_(grad[some, :, None] * length[some])
            to_weight += part.flatten(0, 1).T @ patch[some].flatten(0, 1)
        return None, None, to_context.mul_(out), to_weight.mul_(out[:, None]).to(out.dtype), to_out


class FrameSelector(nn.Module):
    """Chooses k patches of each frame by tanh(MLP([patch; frame])) and a perturbed top-k (TS2-Net 3.3; UCoFiA uses it too).

    In evaluation the k best patches themselves, or with `published` the random mixture that the published codes take there as
    well; `published` also takes their gradient.
    """

    def __init__(self, dimension: int, k: int, samples: int = 500, sigma: float = 0.05, published: bool = False):
        super().__init__()
        half = dimension // 2
        self.k, self.samples, self.sigma, self.published = k, samples, sigma, published
        self.norm, self.narrow = nn.LayerNorm(dimension), nn.Linear(dimension, half, bias=False)
        self.join, self.out = nn.Linear(2 * half, half, bias=False), nn.Linear(half, 1, bias=False)

    @full_precision
    def forward(self, frame: Tensor, patch: Tensor) -> Tensor:
        """(B, N, D) frames and (B, N, P, D) patches -> (B, N, 1 + k, D): the frame's own token, then the chosen patches."""
        batch, frames, patches, dimension = patch.shape
        k = min(self.k, patches)
        whole, part = frame.flatten(0, 1), patch.flatten(0, 1)  # (BN, D), (BN, P, D)
        if self.training or self.published:
            share = PerturbedTopK.apply(self.score(whole, part), k, self.samples, self.sigma, self.published)
            chosen = share.to(part.dtype) @ part
        else:
            index = self.score(whole, part).topk(k, -1).indices.sort(-1).values
            chosen = part.gather(1, index[..., None].expand(-1, -1, dimension))
        return torch.cat([whole[:, None], chosen], 1).view(batch, frames, 1 + k, dimension)

    def score(self, frame: Tensor, patch: Tensor) -> Tensor:
        """(R, D) frames and (R, P, D) patches -> (R, P) between -1 and 1."""
        token = F.gelu(self.narrow(self.norm(torch.cat([frame[:, None], patch], 1))))  # (R, 1 + P, D / 2)
        whole = token[:, :1].expand_as(token[:, 1:])
        return self.out(F.gelu(self.join(torch.cat([token[:, 1:], whole], -1))))[..., 0].tanh()
