"""The contract that every method in train/methods passes, whatever it is."""

import importlib
import math
import subprocess
import sys

import pytest
import torch

from tests.support import worlds
from tests.support.features import SIZES, TOWER, along, batch, train, widened
from train import checkpoint, methods
from train.data import Cache, told_captions, verbs_said
from train.method import TASKS
from train.tuned import Tuned

LEARNING = [name for name in methods.names() if methods.build(name, {}).phases()]
CASES = [(name, variant) for name in methods.names() for variant in [{}, *methods.load(name).Config.variants()]]
TAIL = {kind: {"shape": TOWER, "most": TOWER["layers"]} for kind in ("image", "text")}
TUNED = {"tune": "true", "tail": TAIL, "tune_rate": 1e-3}
# every method that learns also with CLIP's blocks in its hands; meanP learns through them alone
CASES += [(name, TUNED) for name in LEARNING] + [("clip4clip", {"similarity": "meanP"} | TUNED)]


def build(name, **settings):
    """A small model of a method; a text tower of its own has read some words already."""
    made = methods.build(name, SIZES | methods.load(name).Config.small() | settings)
    with torch.no_grad():
        for buffer in (buffer for path, buffer in made.named_buffers() if path.startswith("towers.text.")):
            buffer.normal_()
    return made


def name_of(method):
    """The method's name, whoever owns CLIP's blocks."""
    return type(method.inner if isinstance(method, Tuned) else method).__module__.split(".")[-1]


@pytest.fixture(
    params=CASES,
    ids=lambda case: "-".join(
        [case[0], *(str(value) for key, value in case[1].items() if key not in ("tail", "tune_rate"))]
    ),
)
def method(request):
    name, variant = request.param
    torch.manual_seed(0)
    return build(name, **variant).eval()


def restless(method):
    """A trained-looking method: every parameter away from its start, so that nothing is an identity by chance."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method


@torch.no_grad()
def scores(method, texts, videos=None):
    """(T, V) and (T, I) scores of a batch's texts against a batch's videos and images."""
    videos = texts if videos is None else videos
    text = method.encode_text(texts)
    return (
        method.score_videos(text, method.encode_video(videos)),
        method.score_images(text, method.encode_image(videos)),
    )


def close(one, other):
    return all(torch.allclose(a, b, atol=2e-6) for a, b in zip(one, other))


def rows(features, some):
    return {name: tensor[some] for name, tensor in features.items()}


def test_all_pairs_are_scored(method):
    video, image = scores(restless(method), batch(5), batch(7, seed=1))
    assert video.shape == image.shape == (5, 7)
    assert video.isfinite().all() and image.isfinite().all()


def test_a_pairs_score_ignores_the_rest_of_the_batch(method):
    restless(method)
    text, video = batch(6), batch(5, seed=1)
    few = scores(method, rows(text, [4, 1]), rows(video, [3]))
    assert close(few, [whole[[4, 1]][:, [3]] for whole in scores(method, text, video)])


@pytest.mark.parametrize("axis", ["word", "triplet", "frame", "piece"])
def test_padding_changes_nothing(method, axis):
    restless(method)
    short = {"word": 10, "triplet": 3, "frame": 4, "piece": 10}[axis] - 2
    features = batch(5)
    features = features | {f"{axis}_mask": features[f"{axis}_mask"] & (torch.arange(short + 2) < short)}
    cut = features | {name: features[name][:, :short] for name in along(axis)}
    assert close(scores(method, features), scores(method, cut))
    assert close(scores(method, cut), scores(method, widened(cut, axis, 1)))


def test_encoded_features_have_the_batch_axis_first(method):
    features = batch(5)
    encoded = [method.encode_text(features), method.encode_video(features), method.encode_image(features)]
    assert {len(tensor) for part in encoded for tensor in part.values()} == {5}


def test_a_phase_moves_exactly_what_it_names(method):
    for index, phase in enumerate(method.phases()):
        before = {name: value.clone() for name, value in method.state_dict().items()}
        train(method, index, batch(), 3)
        moved = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
        assert moved and all(any(name.startswith(f"{part}.") for part in phase.learns) for name in moved)


def test_every_parameter_learns_in_some_phase(method):
    before = {name: value.clone() for name, value in method.named_parameters()}
    for index in range(len(method.phases())):
        train(method, index, batch(), 4)
    assert [name for name, value in method.named_parameters() if torch.equal(value, before[name])] == []


def test_it_learns_four_pairs_by_heart(method):
    features = batch(4, seed=3)
    for index in range(len(method.phases())):
        train(method, index, features, 60)
    video, image = scores(method, features)
    truth = torch.arange(4)
    taught = {task for phase in method.phases() for task in phase.teaches}
    assert taught <= set(TASKS)
    for task, score in (("text_video", video), ("text_image", image)):
        assert task not in taught or torch.equal(score.argmax(1), truth)


def test_a_default_method_that_learns_teaches_something():
    taught = {name: [phase.teaches for phase in build(name).phases()] for name in methods.names()}
    assert [name for name, phases in taught.items() if not all(phases)] == []


def test_it_reads_only_what_it_needs(method):
    class Watched(dict):
        read = set()

        def __getitem__(self, name):
            self.read.add(name)
            return super().__getitem__(name)

    features = Watched(batch())
    scores(method, features)
    for phase in method.phases():
        phase.loss(features, 0.0)
    passed = method.needs & method.inner.needs if isinstance(method, Tuned) else set()  # by the towers, as it is
    read = {name for name in Watched.read if not name.endswith("_mask")} - {"label"}
    assert read | passed == method.needs
    if not isinstance(method, Tuned):
        assert method.needs <= type(method).needs
    Watched.read.clear()


def test_a_checkpoint_gives_back_the_same_scores(method, tmp_path):
    name = name_of(method)
    restless(method)
    checkpoint.save(tmp_path, name, method)
    again = checkpoint.load(tmp_path)
    assert not again.training
    assert all(torch.equal(a, b) for a, b in zip(scores(method, batch()), scores(again, batch())))


def test_the_same_seed_trains_the_same_model(method):
    name = name_of(method)
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        fresh = build(name, **vars(method.config))
        for index in range(len(fresh.phases())):
            train(fresh, index, batch(), 2)
        states.append(fresh.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0]), name


def test_unitrim_has_the_papers_number_of_parameters():
    """172.87 M with CLIP ViT-B/32's 151,277,313, at 12 frames, 32 words and 8 patches (Table 4)."""
    unitrim = methods.build("unitrim", {})
    assert sum(parameter.numel() for parameter in unitrim.parameters()) + 151_277_313 == pytest.approx(
        172.87e6, abs=1e4
    )


def test_clip4clip_has_its_number_of_parameters():
    """163.93 M with CLIP, as counted from its published code."""
    clip4clip = methods.build("clip4clip", {})
    assert (
        sum(parameter.numel() for parameter in clip4clip.parameters()) + 151_277_313 == 163_926_273 + 1
    )  # and the scale


def test_xclip_has_its_number_of_parameters():
    """164,454,065 with CLIP, as counted from its published code."""
    xclip = methods.build("xclip", {})
    assert sum(parameter.numel() for parameter in xclip.parameters()) + 151_277_313 == 164_454_065 + 1  # and the scale


@torch.no_grad()
def test_xclip_scores_a_pair_as_its_equations_say():
    """Every word and frame valid, so that `faithful` changes nothing; W acts from the right, as in the published code."""
    xclip = restless(build("xclip")).eval()
    features = batch(1)
    features |= {name: torch.ones_like(features[name]) for name in ("word_mask", "frame_mask")}
    text, video = xclip.encode_text(features), xclip.encode_video(features)
    s, w, v, f = text["sentence"][0], text["word"][0], video["video"][0], video["frame"][0]

    def attend(c, aosm):
        return (c * ((c / 0.01).softmax(0) @ aosm.mix)).sum()

    local = w @ xclip.map_local.mix.T @ f.T  # (L, N)
    fine = xclip.frame_word
    by_word = torch.stack([attend(column, fine.word) for column in local.T])
    by_frame = torch.stack([attend(row, fine.frame) for row in local])
    expected = (
        s @ xclip.map_global.mix.T @ v
        + attend(w @ v, xclip.video_word)
        + attend(f @ s, xclip.sentence_frame)
        + (attend(by_word, fine.frame_last) + attend(by_frame, fine.word_last)) / 2
    ) / 4
    assert xclip.score_videos(text, video)[0, 0] == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("name, published", [("ts2net", 166_817_281), ("ucofia", 165_247_409), ("eercf", 164_188_561)])
def test_a_rival_has_its_number_of_parameters(name, published):
    """With CLIP and what the published code registers and never uses; the scale is CLIP's own there."""
    method = methods.load(name)
    unused = getattr(importlib.import_module(method.__module__), "UNUSED", 0)
    count = sum(parameter.numel() for parameter in methods.build(name, {}).parameters())
    assert count - 1 + unused + 151_277_313 == published


def whole_pair(name):
    """A trained-looking rival with one pair whose words and frames are all valid, encoded."""
    method = restless(build(name)).eval()
    features = batch(1)
    features |= {name: torch.ones_like(features[name]) for name in ("word_mask", "frame_mask")}
    return method, features, method.encode_text(features), method.encode_video(features)


@torch.no_grad()
def test_ts2net_scores_a_pair_as_its_equations_say():
    method, features, text, video = whole_pair("ts2net")
    frame, patch, selector = features["frame"][0], features["patch"][0], method.selector
    tokens = []
    for own, parts in zip(frame, patch):
        inner = [torch.nn.functional.gelu(selector.narrow(selector.norm(part))) for part in (own, *parts)]
        joined = [torch.cat([part, inner[0]]) for part in inner[1:]]
        score = torch.stack([selector.out(torch.nn.functional.gelu(selector.join(part)))[0].tanh() for part in joined])
        tokens += [own, *(parts[index] for index in sorted(score.topk(3).indices.tolist()))]
    frames = method.temporal(torch.stack(tokens)[None], torch.ones(1, len(tokens), dtype=torch.bool))[0, ::4]
    cosine = frames @ text["sentence"][0]
    expected = ((4 * cosine / cosine.norm()).softmax(0) * cosine).sum()
    assert method.score_videos(text, video)[0, 0] == pytest.approx(expected.item(), abs=1e-5)


@torch.no_grad()
def test_a_faithful_ts2net_keeps_lengths_and_repeats_the_mask_of_the_frames_end_to_end():
    """Hardly any noise, so that a mixture is a patch; patches of half a frame's length, the last of four frames absent."""
    method = restless(build("ts2net", faithful=True, sigma=1e-9)).eval()
    features = batch(1)
    frame, patch = torch.nn.functional.normalize(features["frame"], dim=-1), features["patch"]
    patch = torch.nn.functional.normalize(patch, dim=-1) / 2
    mask = torch.tensor([[True, True, True, False]])
    found = method.encode_video({"frame": 3 * frame, "patch": 3 * patch, "frame_mask": mask})

    token = method.selector(3 * frame, 3 * patch).flatten(1, 2) / 3  # (1, 16, D)
    assert token.norm(dim=-1)[0].tolist() == pytest.approx([1, 0.5, 0.5, 0.5] * 4, rel=1e-4)
    hidden = token = token * token.shape[-1] ** 0.5
    hidden = hidden + method.temporal.position[:16]
    for block in method.temporal.blocks:
        hidden = block(hidden, mask.repeat(1, 4))
    expected = torch.nn.functional.normalize(token + hidden, dim=-1)[:, ::4]
    assert torch.allclose(found["frame"], expected, atol=1e-5)
    assert found["frame_mask"].tolist() == [[True] * 4]  # places 0, 4, 8 and 12 of 1 1 1 0 1 1 1 0 ...
    mended = build("ts2net").encode_video({"frame": frame, "patch": patch, "frame_mask": mask})
    assert torch.equal(mended["frame_mask"], mask)


@torch.no_grad()
def test_a_faithful_ucofias_scale_lengthens_two_of_three_similarities():
    method = restless(build("ucofia", faithful=True)).eval()
    features = batch(3)
    torch.manual_seed(0)  # what is chosen by chance
    video, text = method.encode_video(features), method.encode_text(features)
    loss_scale = []
    for factor in (20.0, 50.0):
        method.scale.t.fill_(math.log(factor))
        loss_scale.append(method.score_videos(text, video) * factor)
    coarse = text["mapped"] @ video["video"].T
    seen = torch.einsum("td,vnd->tvn", text["sentence"], video["frame"])
    grown = 30 * (coarse + method.sentence_frame(seen, video["frame_mask"], 2)) / 3
    assert torch.allclose(loss_scale[1] - loss_scale[0], grown, atol=1e-4)


@torch.no_grad()
def test_ucofia_scores_a_pair_as_its_equations_say():
    method, _, text, video = whole_pair("ucofia")

    def isa(c, module):
        return (c * (module.mix @ (c / module.inner).softmax(0) / module.outer).softmax(0)).sum()

    fine, local = method.word_patch.interact, text["word"][0] @ video["patch"][0].T  # (L, K)
    by_word = torch.stack([isa(column, fine.text) for column in local.T])
    by_patch = torch.stack([isa(row, fine.video) for row in local])
    expected = (
        text["mapped"][0] @ video["video"][0]
        + isa(video["frame"][0] @ text["sentence"][0], method.sentence_frame)
        + (isa(by_word, fine.video_last) + isa(by_patch, fine.text_last)) / 2
    ) / 3
    assert method.score_videos(text, video)[0, 0] == pytest.approx(expected.item(), abs=1e-5)


@torch.no_grad()
def test_eercf_scores_a_pair_as_its_equations_say():
    method, _, text, video = whole_pair("eercf")
    s, frame, patch, encoded = text["sentence"][0], video["frame"][0], video["patch"][0], video["encoded"][0]
    c, local = frame @ s, patch @ s
    seen = ((c / 0.1).softmax(0)[:, None] * encoded).sum(0)
    expected = (
        0.5 * s @ method.map_global.mix.T @ video["video"][0]
        + 0.8 * (c * ((c / 0.01).softmax(0) @ method.sentence_frame.mix)).sum()
        + 0.2 * ((local / 0.01).softmax(0) * local).sum()
        + 0.2 * s @ seen / seen.norm()
    )
    assert method.score_videos(text, video)[0, 0] == pytest.approx(expected.item(), abs=1e-5)


@torch.no_grad()
def test_max_sim_averages_each_words_best_patch():
    """Two frames of two patches along the axes; the words of the first text are one seen in frame 1 and one nowhere."""
    axis = torch.eye(4)
    patch, words = torch.stack([axis[[0, 1]], axis[[2, 1]]])[None], torch.stack([axis[0], axis[2], axis[3]])[None]
    seen = {"patch": patch, "frame_mask": torch.tensor([[True, True]]), "image_patch": patch[:, 0]}
    said = {"word": words, "word_mask": torch.tensor([[True, True, True]])}  # the first is the start, which is left out
    video, image = scores(build("max_sim"), said, seen)
    assert video.item() == 0.5 and image.item() == 0
    assert scores(build("max_sim"), said, seen | {"frame_mask": torch.tensor([[True, False]])})[0].item() == 0


@torch.no_grad()
def test_triplets_beside_words_look_for_images_by_the_weights_that_were_set():
    """Words match the keyframe not at all and by .6 (mean .3), the one triplet by 1; videos are still looked for by words."""
    axis = torch.eye(4)
    word = torch.stack([axis[3], axis[2], 0.6 * axis[0] + 0.8 * axis[3]])[None]
    triplet = torch.stack([axis[1], 50 * axis[0]])[None]  # the second is padding
    said = {"word": word, "word_mask": torch.ones(1, 3, dtype=torch.bool), "triplet": triplet}
    said["triplet_mask"] = torch.tensor([[True, False]])
    patch = axis[[0, 1]][None]
    seen = {"patch": patch[:, None], "frame_mask": torch.tensor([[True]]), "image_patch": patch}
    both = build("max_sim", image_alignments=["word_patch", "triplet_patch"])
    assert [score.item() for score in scores(both, said, seen)] == pytest.approx([0.3, 0.65])
    both.set_weights({"word_patch": 0.75, "triplet_patch": 0.25}, "image")
    assert [score.item() for score in scores(both, said, seen)] == pytest.approx([0.3, 0.475])
    assert both.fused("image") == ["word_patch", "triplet_patch"] and both.fused("video") == []
    alone = build("max_sim", image_alignments=["triplet_patch"])
    assert scores(alone, said, seen)[1].item() == 1 and alone.fused("image") == []
    assert "triplet" not in build("max_sim").needs


@pytest.mark.parametrize("names", [[], ["word_patch", "word_patch"]])
def test_max_sim_refuses_to_look_for_images_by_nothing_or_by_one_thing_twice(names):
    with pytest.raises(ValueError, match="image_alignments: one of each that is wanted"):
        build("max_sim", image_alignments=names)


@torch.no_grad()
def test_tokens_find_an_image_by_their_weights_their_best_patches_and_the_sentence():
    unitrim = restless(build("unitrim", image_text="tokens", alignments=["sentence_video"])).eval()
    features = batch(1) | {"word_mask": torch.ones(1, 10, dtype=torch.bool)}
    features["triplet_mask"] = torch.ones_like(features["triplet_mask"])
    text, image, own = unitrim.encode_text(features), unitrim.encode_image(features), unitrim.image
    score = {"sentence": text["spatial"][0] @ image["image"][0]}
    for name, token in {"word": features["word"][0, 1:], "triplet": features["triplet"][0]}.items():
        token = torch.nn.functional.normalize(token, dim=-1)
        part = getattr(own, name)
        spatial = torch.nn.functional.normalize(part.parts.spatial(token), dim=-1)
        score[name] = part.weight(token)[:, 0].softmax(0) @ (spatial @ image["image_patch"][0].T).amax(1)
    share = torch.stack([own.balance.share[name] for name in score]).softmax(0)
    expected = share @ torch.stack(list(score.values()))
    assert unitrim.score_images(text, image)[0, 0] == pytest.approx(expected.item(), abs=1e-5)


def test_what_tells_a_captions_verbs_is_taken_out_of_spatial_parts_and_is_the_temporal_part(tmp_path):
    """In this world a verb is told by chance alone, of which 80 captions of 16 numbers have enough."""
    folder = worlds.cache(tmp_path / "world", videos=80)
    cache = Cache(folder, {"sentence", "word", "triplet"})
    rows = cache.captions("train")
    names, told = verbs_said(cache, rows, 64)
    assert names == sorted(worlds.VERBS[:2]) and (told.sum(1) == 1).all()  # equally common, so in order of letters
    assert [names[row.argmax()] in text for row, text in zip(told, cache.caption[rows])] == [True] * len(rows)
    assert verbs_said(cache, rows, 1)[0] == names[:1]
    unitrim = build("unitrim", image_text="tokens", alignments=["sentence_video"])
    image, features = unitrim.image, cache.text(rows)
    whole = image.text_parts(features)
    torch.testing.assert_close(whole["T"], whole["T_spat"])  # until it has begun
    torch.testing.assert_close(whole["T"] / 2, whole["T_temp"])
    unitrim.learn_verbs(told_captions(folder, 32, 8, unitrim.verbs()))
    sentence = torch.nn.functional.normalize(features["sentence"], dim=-1)
    left, taken = image.sentence.eraser(sentence)
    torch.testing.assert_close(left + taken, sentence)
    before, after = (((part - part.mean(0)).T @ (told - told.mean(0))).abs().max() for part in (sentence, left))
    assert after < 1e-3 * before
    half = torch.eye(16) / 2
    assert not any(torch.equal(image.part(name).eraser.matrix, half) for name in ("word", "triplet", "sentence"))
    assert set(unitrim.text_parts(features)) == {"T", "T_spat", "T_temp"}
    assert unitrim.phases()[1].loss(batch(), 0.0).keys() == {"text_image", "orthogonality", "reconstruction"}
    (folder / "triplets.parquet").unlink()
    with pytest.raises(ValueError, match="triplets.parquet is missing; run: dvc repro triplets@world"):
        unitrim.learn_verbs(told_captions(folder, 32, 8, unitrim.verbs()))
    assert build("unitrim", image_text="tokens", erase_verbs=False).verbs() == build("unitrim").verbs() == 0


def test_no_gradient_of_a_tokens_reconstruction_reaches_its_spatial_part():
    image = build("unitrim", image_text="tokens", alignments=["sentence_video"]).image
    spatial = [part for name in ("word", "triplet", "sentence") for part in image.part(name).spatial.parameters()]
    features = batch()
    terms = image.part_tokens(features, image.encode_image(features))
    assert all(grad is None for grad in torch.autograd.grad(terms["reconstruction"], spatial, allow_unused=True))


def test_padding_votes_in_a_faithful_xclip_only():
    features, short = batch(2), batch(2)
    short["word_mask"] = features["word_mask"] & (torch.arange(10) < 4)
    for faithful, same in ((True, True), (False, False)):
        xclip = build("xclip", faithful=faithful).eval()
        assert torch.equal(scores(xclip, features)[0], scores(xclip, short)[0]) is same


def test_no_gradient_of_the_reconstruction_reaches_the_spatial_encoder():
    unitrim = build("unitrim")
    terms = unitrim.phases()[1].loss(batch(), 0.0)
    grad = torch.autograd.grad(terms["reconstruction"], list(unitrim.image.spatial.parameters()), allow_unused=True)
    assert all(part is None for part in grad)
    terms = unitrim.phases()[1].loss(batch(), 0.5)
    grad = torch.autograd.grad(terms["text_image"], list(unitrim.image.temporal.parameters()), allow_unused=True)
    assert all(part is None for part in grad)


def test_unknown_settings_and_methods_are_named():
    with pytest.raises(ValueError, match="no setting colour"):
        methods.build("unitrim", {"colour": "red"})
    with pytest.raises(ValueError, match="there are: .*unitrim"):
        methods.build("bert", {})
    with pytest.raises(ValueError, match="image_text: .cooked. is not one of"):
        methods.build("unitrim", {"image_text": "cooked"})


def test_more_words_than_trained_for_are_refused():
    unitrim = build("unitrim", words=6)
    with pytest.raises(ValueError, match="up to 6 tokens"):
        scores(unitrim, batch())


@torch.no_grad()
def test_a_removed_word_is_held_against_the_words_that_other_captions_lost():
    """Captions lost {a, b}, {a} and nothing; c was lost by the last. `a` is no negative of itself, nor of b."""
    method = restless(build("dual_alignment")).eval()
    a, b, c = torch.randn(3, SIZES["dimension"])
    none = torch.full_like(a, 50.0)
    word = torch.stack([torch.stack(pair) for pair in ((a, b), (a, none), (none, none), (c, none))])
    mask = torch.tensor([[True, True], [True, False], [False, False], [True, False]])
    answer = torch.nn.functional.normalize(torch.randn(4, 16), dim=-1)
    own = torch.nn.functional.normalize(method.map_word(torch.stack([a, b, c])), dim=-1)
    e = (answer @ own.T / 0.05).exp()  # (captions, words)

    def each(caption, right, *wrong):
        return -(e[caption, right] / (e[caption, right] + sum(e[caption, one] for one in wrong))).log()

    first = (each(0, 0, 2) + each(0, 1, 2)) / 2
    expected = (first + each(1, 0, 1, 2) + each(3, 2, 0, 1)) / 3
    assert method.word_loss(answer, word, mask) == pytest.approx(expected.item(), rel=1e-4)


def test_what_removed_words_teach_reaches_the_video_that_is_searched():
    """L2 and L3 move the blocks that the global path reads; a batch that lost no verb teaches none, and no NaN."""
    method = restless(build("dual_alignment"))
    terms = method.loss(batch(), 0.0)
    for kind in ("noun", "verb"):
        grads = torch.autograd.grad(terms[kind], list(method.video.parameters()), retain_graph=True)
        assert all(grad.abs().max() > 0 for grad in grads)
        silent = batch() | {f"{kind}_mask": torch.zeros_like(batch()[f"{kind}_mask"])}
        term = method.loss(silent, 0.0)[kind]
        assert term.item() == 0 and torch.autograd.grad(term, method.video.position)[0].isfinite().all()


def test_where_a_removed_word_is_looked_for_has_the_shape_of_the_frames():
    method, features = restless(build("dual_alignment")).eval(), batch()
    for map_, there in method.attend(features).values():
        assert map_.shape == features["patch"].shape[:3]
        assert map_.amax((1, 2))[there].tolist() == pytest.approx([1] * int(there.sum()))
        assert not map_[~features["frame_mask"]].any(), "frames that are not there are not looked at"
    assert method.attend(features)["verb"][1].tolist() == [True, False, True, True]


@torch.no_grad()
def test_a_repeated_picture_is_a_video():
    for name in ("ts2net", "ucofia", "dual_alignment"):
        method = restless(build(name)).eval()
        features = batch(1)
        frames = SIZES["frames"]
        still = {
            "frame": features["image"][:, None].repeat(1, frames, 1),
            "patch": features["image_patch"][:, None].repeat(1, frames, 1, 1),
            "frame_mask": torch.ones(1, frames, dtype=torch.bool),
        }
        text = method.encode_text(features)
        as_video = method.score_videos(text, method.encode_video(still))
        assert torch.allclose(method.score_images(text, method.encode_image(features)), as_video, atol=1e-6)


LOAD = """
import sys
from pathlib import Path
from tests.train.test_methods import CASES, build
from train import checkpoint
for name, variant in CASES:
    checkpoint.save(Path(sys.argv[1]), name, build(name, **variant))
    checkpoint.load(Path(sys.argv[1]))
    assert "torch._dynamo" not in sys.modules, (name, variant)
"""


def test_whoever_loads_a_run_does_not_wait_for_torchs_compiler(tmp_path):
    """Which would take seconds to import; in a process of its own, for others have it."""
    done = subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
