"""Linear layers with packed weights, and chunks: the same numbers as torch's, the same bytes at every place."""

import pytest
import torch
from torch import nn

from pipeline import transformer
from pipeline.transformer import Linear, Transformer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [128, None])
def test_a_linear_layer_is_torchs_own(bias, rows):
    layer = nn.Linear(96, 200, bias=bias).requires_grad_(False)
    part = torch.randn(128, 96)
    ours = Linear(layer.weight, layer.bias, rows)
    assert (ours.packed is not None) == (rows is not None and transformer.packable())
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


def test_a_transformer_without_packing_gives_the_same(monkeypatch):
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    model = CLIPTextModel(CLIPTextConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, vocab_size=99))
    model = getattr(model, "text_model", model).eval().requires_grad_(False)
    projection = nn.Linear(64, 48, bias=False).requires_grad_(False)
    hidden = torch.randn(70, 64)

    def alone(query, memory):  # every row hears itself only
        return memory[:, 64:]

    def run(rows):
        return Transformer(model.encoder.layers, model.final_layer_norm, projection, rows)(hidden.clone(), alone)

    packed = run(32)
    monkeypatch.setattr(transformer, "packable", lambda: False)
    assert packed.shape == (70, 48)
    torch.testing.assert_close(run(32), packed, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(run(None), packed, atol=1e-4, rtol=1e-4)
