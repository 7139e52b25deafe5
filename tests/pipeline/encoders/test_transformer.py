"""Linear layers with packed weights, and chunks: the same numbers as torch's, the same bytes at every place."""

import pytest
import torch
from torch import nn

from pipeline.encoders import transformer
from pipeline.encoders.transformer import Linear, Parameters, Transformer, Weights


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [128, None])
def test_a_linear_layer_is_torchs_own(bias, rows):
    layer = nn.Linear(96, 200, bias=bias).requires_grad_(False)
    part = torch.randn(128, 96)
    ours = Linear(layer.weight, layer.bias, rows)
    assert (ours.packed is not None) == (rows is not None and transformer.can_pack())
    torch.testing.assert_close(ours(part), layer(part), atol=1e-5, rtol=1e-5)


def test_a_row_gives_the_same_bytes_at_every_place_of_a_chunk():
    torch.manual_seed(0)
    layer = Linear(torch.randn(2048, 512), torch.randn(2048), 128)
    row = torch.randn(512)
    first = None
    for place in range(128):
        part = torch.randn(128, 512)
        part[place] = row
        answer = layer(part)[place]
        first = answer if first is None else first
        assert torch.equal(answer, first)


def random_weights(width: int, layers: int) -> dict[str, torch.Tensor]:
    """A tower's weights under a CLIPModel's names."""
    weights = {
        "m.norm.weight": torch.ones(width),
        "m.norm.bias": torch.zeros(width),
        "p.weight": torch.randn(48, width),
    }
    for at in (f"m.encoder.layers.{number}." for number in range(layers)):
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "layer_norm1"):
            weights[f"{at}{name}.weight"] = torch.randn(width, width) / 8
            weights[f"{at}{name}.bias"] = torch.randn(width) / 8
        weights[f"{at}layer_norm1.weight"] = torch.ones(width)
        weights |= {f"{at}layer_norm2.{kind}": weights[f"{at}layer_norm1.{kind}"] for kind in ("weight", "bias")}
        weights |= {f"{at}mlp.fc1.weight": torch.randn(128, width) / 8, f"{at}mlp.fc1.bias": torch.randn(128)}
        weights |= {f"{at}mlp.fc2.weight": torch.randn(width, 128) / 8, f"{at}mlp.fc2.bias": torch.randn(width)}
    return weights


def test_a_transformer_without_packing_gives_the_same(monkeypatch):
    torch.manual_seed(0)
    facts = {"heads": 2, "epsilon": 1e-5, "activation": "quick_gelu"}
    weights = Weights(random_weights(64, 12), facts, lambda tensor: tensor)
    parameters = Parameters.of(weights, "m", "norm", "p.weight")
    assert len(parameters.layers) == 12
    hidden = torch.randn(70, 64)

    def alone(query, memory):  # every row hears itself only
        return memory[:, 64:]

    def run(rows):
        return Transformer(parameters, rows)(hidden.clone(), alone)[0]

    packed = run(32)
    monkeypatch.setattr(transformer, "can_pack", lambda: False)
    assert packed.shape == (70, 48)
    torch.testing.assert_close(run(32), packed, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(run(None), packed, atol=1e-3, rtol=1e-3)
