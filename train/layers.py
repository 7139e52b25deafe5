"""The parts that methods are built of: temporal encoder, patch selector, interactive similarity, small MLPs."""

# Axes: B batch, T texts, V videos, L tokens of a text (words or triplets), K tokens of a video (frames or patches),
# N frames, P patches of a frame, k chosen patches, R rows of packed text tokens, S samples, D embedding.

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = -1e4  # a masked similarity, before a softmax; finite, so that a fully masked row stays a number
BLOCK = 1 << 18  # token similarities worked on together on a CPU: 1 MB, so that a few such tensors stay in cache
LARGE_BLOCK = 1 << 27  # the same on a GPU
NARROW = 48  # fewer video tokens than this are laid out as columns
HELD = 1 << 25  # padded token similarities held at once when no gradient is wanted


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """(B, D) mean of the valid ones of (B, L, D) tokens; zero where none is."""
    weight = mask.to(tokens.dtype)
    return torch.einsum("bld,bl->bd", tokens, weight / weight.sum(1, keepdim=True).clamp(min=1))


def masked_max(tokens: Tensor, mask: Tensor) -> Tensor:
    """(B, D) elementwise maximum of the valid ones of (B, L, D) tokens; zero where none is."""
    top = tokens.masked_fill(~mask[..., None], -torch.inf).amax(1)
    return top.masked_fill(~mask.any(1, keepdim=True), 0)


class Gate(nn.Module):
    """A mean of tokens weighted by a learned linear score; it starts as the plain mean."""

    def __init__(self, dimension: int):
        super().__init__()
        self.score = nn.Linear(dimension, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, D) of (B, L, D); zero where none is valid."""
        weight = hide(self.score(tokens)[..., 0].float(), mask).softmax(1) * mask
        return torch.einsum("bld,bl->bd", tokens, weight.to(tokens.dtype))


class Mix(nn.Module):
    """A square learned matrix that starts as the identity; the optimizer does not decay it."""

    def __init__(self, size: int):
        super().__init__()
        self.mix = nn.Parameter(torch.eye(size))

    def forward(self, vector: Tensor) -> Tensor:
        """Multiply the last axis."""
        return F.linear(vector, self.mix)


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with GELU between them and none after the last: cosines need signed outputs (notes: the paper's GELU
    after every layer would leave nothing below -0.17)."""
    layers: list[nn.Module] = []
    for before, after in zip(sizes, sizes[1:]):
        layers += [nn.Linear(before, after), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class Block(nn.Module):
    """A pre-norm transformer block with CLIP's QuickGELU, x·sigmoid(1.702x)."""

    def __init__(self, dimension: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dimension), nn.LayerNorm(dimension)
        self.qkv, self.out = nn.Linear(dimension, 3 * dimension), nn.Linear(dimension, dimension)
        self.wide, self.narrow = nn.Linear(dimension, 4 * dimension), nn.Linear(4 * dimension, dimension)
        for layer in (self.qkv, self.wide):
            nn.init.normal_(layer.weight, std=dimension**-0.5)
            nn.init.zeros_(layer.bias)
        for layer in (self.out, self.narrow):  # the block starts as the identity, so training starts at zero-shot CLIP
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, token: Tensor, mask: Tensor) -> Tensor:
        """(B, N, D) tokens that look at the valid ones of (B, N) each other."""
        batch, count, dimension = token.shape
        qkv = self.qkv(self.norm_attention(token)).view(batch, count, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        token = token + self.out(seen.transpose(1, 2).reshape(batch, count, dimension))
        wide = self.wide(self.norm_mlp(token))
        return token + self.narrow(F.silu(wide.mul_(1.702)).div_(1.702))  # in place: neither is kept for the gradient


class TemporalEncoder(nn.Module):
    """CLIP4Clip's "seqTransf": positions added once, transformer blocks, a residual to the input frames.

    Frames come in at a length of √D (CLIP's own is near it), whatever their CLIP's scale, and leave at length 1.
    """

    def __init__(self, dimension: int, layers: int = 4, positions: int = 77):
        super().__init__()
        self.position = nn.Parameter(0.01 * torch.randn(positions, dimension))
        self.blocks = nn.ModuleList(Block(dimension, heads(dimension)) for _ in range(layers))

    def forward(self, frame: Tensor, mask: Tensor) -> Tensor:
        """(B, N, D) unit frames that know their neighbours and their place."""
        if frame.shape[1] > len(self.position):
            raise ValueError(
                f"the temporal encoder has {len(self.position)} positions, the videos {frame.shape[1]} frames"
            )
        plain = F.normalize(frame, dim=-1) * frame.shape[-1] ** 0.5
        token = plain + self.position[: frame.shape[1]]
        for block in self.blocks:
            token = block(token, mask)
        return F.normalize(plain + token, dim=-1)


def heads(dimension: int) -> int:
    """Attention heads: 64 dimensions each, where that divides."""
    return next(count for count in range(max(1, dimension // 64), 0, -1) if dimension % count == 0)


def video(frame: Tensor, mask: Tensor) -> Tensor:
    """(B, D) unit mean of unit frames."""
    return F.normalize(masked_mean(frame, mask), dim=-1)


class PerturbedTopK(torch.autograd.Function):
    """Which k of P scores are highest, averaged over noisy copies, so that it has a gradient (Cordonnier et al. 2021).

    Only the chosen indices and the noise are kept: the one-hot tensor (rows, S, k, P) of the published code is never made.
    """

    @staticmethod
    def forward(ctx, score: Tensor, k: int, samples: int, sigma: float) -> Tensor:
        """(rows, P) scores -> (rows, k, P) shares, each of the k rows sums to 1; rows in order of place, not of score."""
        rows, patches = score.shape
        noise = torch.randn(rows, samples, patches, device=score.device, dtype=torch.float32)
        index = (score[:, None] + sigma * noise).topk(k, -1, sorted=False).indices.sort(-1).values  # (rows, S, k)
        share = torch.zeros(rows, k * patches, device=score.device, dtype=torch.float32)
        slot = index + patches * torch.arange(k, device=score.device)
        share.scatter_add_(
            1, slot.view(rows, -1), torch.full((1, 1), 1 / samples, device=score.device).expand(rows, samples * k)
        )
        ctx.save_for_backward(slot.to(torch.int16 if k * patches < 2**15 else torch.int32), noise)
        ctx.sigma = sigma
        return share.view(rows, k, patches).to(score.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """E[<grad, one-hot> noise] / sigma, the gradient of the expectation."""
        slot, noise = ctx.saved_tensors
        rows, samples, k = slot.shape
        gain = grad.reshape(rows, -1).float().gather(1, slot.view(rows, -1).long()).view(rows, samples, k).sum(-1)
        return (gain[:, None] @ noise)[:, 0].to(grad.dtype) / (samples * ctx.sigma), None, None, None


class PatchSelector(nn.Module):
    """Chooses the k patches of each frame that matter, by an MLP on [patch; video] (UniTriM 3.1.2).

    In training a perturbed top-k gives mixtures of patches and a gradient; in evaluation the k best patches themselves.
    """

    def __init__(self, dimension: int, k: int, hidden: int = 512, samples: int = 100, sigma: float = 0.05):
        super().__init__()
        self.k, self.samples, self.sigma = k, samples, sigma
        self.hidden, self.out = nn.Linear(2 * dimension, hidden), nn.Linear(hidden, 1)

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
        return Salience.apply(*values, context, of_patch, self.out.weight[0]).view(length.shape) + self.out.bias


class Salience(torch.autograd.Function):
    """The selector's MLP a few videos at a time: each chunk is scaled, shifted and cut at 0 in place while it is in cache.

    The patches are CLIP's and get no gradient.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.bfloat16)
    def forward(ctx, patch: Tensor, length: Tensor, context: Tensor, weight: Tensor, out: Tensor) -> Tensor:
        """(V, NP, D) patches, (V, NP, 1) one over their lengths, (V, H) context -> (V, NP) ReLU(W patch·length + context)·out."""
        videos, tokens, _ = patch.shape
        hidden = patch.new_empty(videos, tokens, len(out))
        score = patch.new_empty(videos, tokens)
        for some in chunks(hidden):
            part = hidden[some]
            torch.matmul(patch[some], weight.T, out=part)
            part.mul_(length[some]).add_(context[some, None]).relu_()
            torch.matmul(part, out, out=score[some])
        ctx.save_for_backward(patch, length, hidden, out)
        return score

    @staticmethod
    @torch.amp.custom_bwd(device_type="cuda")
    def backward(ctx, grad: Tensor) -> tuple[None, None, Tensor, Tensor, Tensor]:
        """Gradients of context, W and out."""
        patch, length, hidden, out = ctx.saved_tensors
        to_context = hidden.new_empty(len(hidden), len(out))
        to_weight, to_out = torch.zeros(len(out), patch.shape[-1], device=patch.device), torch.zeros_like(out)
        for some in chunks(hidden):
            to_out += torch.einsum("vp,vph->h", grad[some], hidden[some])
            part = hidden[some].sign()  # 1 where it passed, 0 where ReLU cut it
            torch.matmul(grad[some, None], part, out=to_context[some, None])
            part.mul_(grad[some, :, None] * length[some])
            to_weight += part.flatten(0, 1).T @ patch[some].flatten(0, 1)
        return None, None, to_context.mul_(out), to_weight.mul_(out[:, None]).to(out.dtype), to_out


def chunks(hidden: Tensor) -> list[slice]:
    """Cut the first axis so that a chunk fits a CPU's cache; whole on a GPU."""
    limit = BLOCK if hidden.device.type == "cpu" else LARGE_BLOCK
    step = max(1, limit // hidden[0].numel())
    return [slice(at, at + step) for at in range(0, len(hidden), step)]


class Interaction(nn.Module):
    """ISA: similarities weigh themselves by softmax(W softmax(c / inner) / outer), W learned from the identity (3.2.2)."""

    def __init__(self, size: int, inner: float, outer: float):
        super().__init__()
        self.inner, self.outer = inner, outer
        self.mix = nn.Parameter(torch.eye(size))

    def forward(self, similarity: Tensor, mask: Tensor | None, axis: int) -> Tensor:
        """Reduce `axis` of the similarities; `mask` is broadcast to them (None: all valid)."""
        count, axis = similarity.shape[axis], axis % similarity.ndim
        if count > len(self.mix):
            raise ValueError(
                f"this model weighs up to {len(self.mix)} tokens and was given {count}; train it for as many"
            )
        return Attend.apply(similarity, self.mix[:count, :count], mask, axis, self.inner, self.outer)


class Attend(torch.autograd.Function):
    """softmax(W softmax(c / inner) / outer)·c over one axis, with a gradient in closed form that works in place."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.float32)
    def forward(ctx, c: Tensor, mix: Tensor, mask: Tensor | None, axis: int, inner: float, outer: float) -> Tensor:
        """Reduce `axis` of c."""
        first = hide(c / inner, mask).softmax(axis)
        second = along(mix, first, axis)
        if outer != 1:
            second.div_(outer)
        second = hide(second, mask).softmax(axis)
        score = (second * c).sum(axis)
        ctx.save_for_backward(c, mix, first, second, score)
        ctx.axis, ctx.inner, ctx.outer = axis, inner, outer
        return score

    @staticmethod
    @torch.amp.custom_bwd(device_type="cuda")
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        """Gradients of c and W; masked places have weight 0, so nothing reaches them."""
        c, mix, first, second, score = ctx.saved_tensors
        axis, grad = ctx.axis, grad.unsqueeze(ctx.axis)
        logit = (c - score.unsqueeze(axis)).mul_(second).mul_(grad if ctx.outer == 1 else grad / ctx.outer)
        to_mix = pairs(logit, first, axis)
        to_c = torch._softmax_backward_data(along(mix.T, logit, axis), first, axis, first.dtype)
        return to_c.div_(ctx.inner).addcmul_(second, grad), to_mix, None, None, None, None


def along(matrix: Tensor, tensor: Tensor, axis: int) -> Tensor:
    """Multiply one axis of a tensor by a matrix."""
    if axis == tensor.ndim - 1:
        return F.linear(tensor, matrix)
    rows = tensor.reshape(*tensor.shape[: axis + 1], -1)
    return (matrix @ rows).view(tensor.shape)


def pairs(one: Tensor, other: Tensor, axis: int) -> Tensor:
    """Sum over all places of the products of two tensors' values along an axis: the gradient of `along`'s matrix."""
    if axis == one.ndim - 1:
        return one.flatten(0, -2).T @ other.flatten(0, -2)
    one, other = (tensor.reshape(-1, tensor.shape[axis], tensor.shape[axis + 1 :].numel()) for tensor in (one, other))
    return (one @ other.transpose(1, 2)).sum(0)


def hide(similarity: Tensor, mask: Tensor | None) -> Tensor:
    """Similarities with the masked ones out of any softmax's reach, in place."""
    return similarity if mask is None else similarity.masked_fill_(~mask, HIDDEN)


class Bidirectional(nn.Module):
    """Bi-ISA: tokens of the text, then of the video, and the other way round; the two are averaged (3.2.2).

    `of_text`, `of_video`: the two temperatures of ISA over each side's tokens.
    """

    def __init__(self, text: int, video: int, of_text: tuple[float, float], of_video: tuple[float, float]):
        super().__init__()
        self.text, self.video = Interaction(text, *of_text), Interaction(video, *of_video)
        self.text_last, self.video_last = Interaction(text, *of_text), Interaction(video, *of_video)

    def forward(self, similarity: Tensor, text_mask: Tensor | None, video_mask: Tensor | None, axis: int) -> Tensor:
        """(T, L, K, V) token similarities -> (T, V); with `axis` 3 they are (T, L, V, K). The video's mask lies likewise."""
        text = None if text_mask is None else text_mask[:, :, None]  # (T, L, 1)
        whole = None if text is None else text[..., None]
        by_text = self.video_last(self.text(similarity, whole, 1), video_mask, axis - 1)
        by_video = self.text_last(self.video(similarity, video_mask, axis), text, 1)
        return (by_text + by_video) / 2


class TokenSimilarity(nn.Module):
    """Scores of all texts against all videos from their tokens, padding words left out of the products.

    Texts are sorted by length and taken in blocks of about equal length that fit a cache; the values are those of the whole
    padded tensor. A text's valid tokens come first.
    """

    def __init__(self, text: int, video: int, of_text: tuple[float, float], of_video: tuple[float, float]):
        super().__init__()
        self.interact = Bidirectional(text, video, of_text, of_video)

    def forward(self, text: Tensor, text_mask: Tensor, video: Tensor, video_mask: Tensor) -> Tensor:
        """(T, L, D) and (V, K, D) tokens with their masks -> (T, V)."""
        if torch.is_grad_enabled():
            return self.block(text, text_mask, video, video_mask)
        some = max(1, HELD // max(1, text_mask.numel() * video.shape[1]))
        parts = zip(video.split(some), video_mask.split(some))
        return torch.cat([self.block(text, text_mask, part, mask) for part, mask in parts], 1)

    def block(self, text: Tensor, text_mask: Tensor, video: Tensor, video_mask: Tensor) -> Tensor:
        """The same, all similarities held at once."""
        videos, tokens, _ = video.shape
        video_mask = partial(video_mask)
        axis = 2 if tokens < NARROW else 3
        if axis == 2:  # (K, V): a softmax over few neighbouring numbers is slow, over columns it is not
            video, video_mask = video.transpose(0, 1), None if video_mask is None else video_mask.T
        blocks = plan(text_mask, videos * tokens)
        place = torch.arange(text.shape[1], device=text.device)
        index = [(rows[:, None] * text.shape[1] + place[:length]).flatten() for rows, length, _ in blocks]
        packed = text.flatten(0, 1).index_select(0, torch.cat(index))
        similarity = packed @ video.flatten(0, 1).T  # (R, KV), one product for all blocks
        scores = []
        for (rows, length, even), part in zip(blocks, similarity.split([len(rows) for rows in index])):
            mask = None if even else text_mask[rows, :length]
            scores.append(self.interact(part.view(len(rows), length, *video.shape[:2]), mask, video_mask, axis))
        order = torch.cat([rows for rows, _, _ in blocks])
        return torch.cat(scores)[order.argsort()]


def partial(mask: Tensor) -> Tensor | None:
    """The mask, or None where a look is free (on a CPU) and shows that all is valid."""
    return None if mask.device.type == "cpu" and bool(mask.all()) else mask


def plan(mask: Tensor, width: int) -> list[tuple[Tensor, int, bool]]:
    """Blocks of texts of similar length: (rows, longest length, whether all are that long).

    On a GPU in training it is one padded block: no look at the lengths, which would stall the queue.
    """
    texts, longest = mask.shape
    if mask.device.type != "cpu" and torch.is_grad_enabled():
        return [(torch.arange(texts, device=mask.device), longest, False)]
    lengths = mask.sum(1).clamp(min=1)
    sorted_lengths, order = lengths.sort(stable=True)
    limit = BLOCK if mask.device.type == "cpu" else LARGE_BLOCK
    return [
        (order[first:last], length, even)
        for first, last, length, even in cut(sorted_lengths.tolist(), max(1, limit // width))
    ]


def cut(lengths: list[int], limit: int) -> Iterator[tuple[int, int, int, bool]]:
    """Cut rising lengths into runs of at most `limit` padded tokens, at least one text each."""
    first = 0
    for last in range(1, len(lengths) + 1):
        if last == len(lengths) or (last + 1 - first) * lengths[last] > limit:
            yield first, last, lengths[last - 1], lengths[first] == lengths[last - 1]
            first = last
