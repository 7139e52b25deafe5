"""The masked language model of a trainer against transformers' own, and the pooled lexicon against its plain form."""

import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

from pipeline.encoders.masked import write_lexicon
from train.layers import masked_lm
from train.layers.masked_lm import LexiconShape, MaskedLM, pool_lexicon, read_lexicon, word_chunks


@pytest.fixture(scope="module", params=["gelu", "gelu_new", "relu"])
def both(request, tmp_path_factory):
    """A real BertForMaskedLM saved to disk, and ours from what the lexicon stage makes of it."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80,
        max_position_embeddings=20, hidden_act=request.param,
    )  # fmt: skip
    theirs = BertForMaskedLM(config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(folder / "hub")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{index}" for index in range(55))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder / "hub")
    write_lexicon(folder / "lexicon", str(folder / "hub"), None, folder / "hub")
    path = folder / "lexicon" / "lexicon.safetensors"
    ours = MaskedLM(LexiconShape(**read_lexicon(path)["shape"]), owned=2)
    ours.read(path)
    return theirs.eval(), ours.eval(), read_lexicon(path)


@torch.no_grad()
def test_it_is_transformers_model(both):
    theirs, ours, facts = both
    piece = torch.randint(0, 60, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(9) < torch.tensor([[9], [4], [7]])
    expected = theirs(input_ids=piece, attention_mask=mask.long()).logits
    token = ours(piece, mask)
    torch.testing.assert_close(ours.logits(token[mask]), expected[mask], atol=1e-5, rtol=1e-5)
    pooled = expected.masked_fill(~mask[..., None], 0).relu().log1p().amax(1)
    torch.testing.assert_close(ours.weigh(token, mask), pooled, atol=1e-5, rtol=1e-5)
    assert facts["mask"] == 4 and facts["special"] == [0, 1, 2, 3, 4]


def test_only_the_upper_blocks_and_the_head_are_parameters(both):
    _, ours, _ = both
    assert {name.split(".")[0] for name, _ in ours.named_parameters()} == {"upper", "head"}
    assert {"word", "position", "norm.weight", "lower.0.qkv.weight"} <= set(ours.state_dict())


@pytest.mark.parametrize("held", [1, 100, 1 << 25])
def test_the_pooled_lexicon_and_its_gradients_are_those_of_the_plain_form(held, monkeypatch):
    monkeypatch.setattr(masked_lm, "HELD", held)
    torch.manual_seed(0)
    token = torch.randn(4, 6, 8, requires_grad=True)
    word, bias = torch.randn(23, 8), torch.randn(23, requires_grad=True)
    mask = torch.arange(6) < torch.tensor([[6], [2], [0], [4]])
    plain = F.linear(token, word, bias).relu().log1p().masked_fill(~mask[..., None], 0).amax(1)
    made = pool_lexicon(token, mask, word, bias)
    torch.testing.assert_close(made, plain)
    assert (made[2] == 0).all()
    pull = torch.randn_like(plain)
    for one, other in zip(*(torch.autograd.grad((value * pull).sum(), (token, bias)) for value in (made, plain))):
        torch.testing.assert_close(one, other)


def test_a_word_that_no_token_has_wakes_where_it_should_rise_and_only_there():
    torch.manual_seed(0)
    word, bias = torch.randn(23, 8), torch.full((23,), -100.0)  # no logit is near 0
    mask = torch.tensor([[True, True], [False, False]])
    pull = torch.randn(23)

    def slope(wake):
        token = torch.ones(2, 2, 8, requires_grad=True)
        made = pool_lexicon(token, mask, word, bias, wake)
        assert not made.any(), "what is handed on changes no value"
        return torch.autograd.grad((made * pull).sum(), token)[0]

    assert not slope(0.0).any()
    expected = 0.25 * (pull.clamp(max=0)[:, None] * word).sum(0)  # the loss falls where those with a negative pull rise
    torch.testing.assert_close(slope(0.25)[0].sum(0), expected)
    assert not slope(0.25)[1].any(), "a hidden token hears nothing"


def test_tokens_times_words_is_never_held_whole():
    """BERT's own lexicon, 64 videos of 12 · 50 tokens: 1.2 G logits, of which a stretch of words has at most 33 M."""
    chunks = word_chunks(30522, 64 * 600)
    assert chunks[0].start == 0 and chunks[-1].stop >= 30522
    assert all(one.stop == other.start for one, other in zip(chunks, chunks[1:]))
    assert max(part.stop - part.start for part in chunks) * 64 * 600 <= 1 << 25
