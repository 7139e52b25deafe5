"""The loader: the right bytes, in an order that any rank at any step can compute, from memory that is reused."""

import multiprocessing
import os
import pickle

import h5py
import numpy as np
import pyarrow.parquet
import pytest
import torch

from pipeline import shards
from tests.bench.loader import drop
from tests.support import worlds
from train.data import Cache, Loader, order, ragged

ALL = {
    "without_noun",
    "noun",
    "without_verb",
    "verb",
    "sentence",
    "word",
    "triplet",
    "frame",
    "patch",
    "image",
    "image_patch",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return worlds.cache(tmp_path_factory.mktemp("cache") / "toy", videos=24, rejected=2)


@pytest.fixture
def scratch(tmp_path):
    """A cache that a test may spoil."""
    return worlds.cache(tmp_path / "toy", videos=12)


def plainly(folder, caption, video):
    """Every feature of one caption and one video, read with h5py alone, as float32 arrays."""
    found = {}
    for path in (folder / "text").glob("0*.h5"):
        with h5py.File(path) as file, h5py.File(folder / "text" / "phrases.h5") as phrases:
            ids = file["caption_id"].asstr()[:].tolist()
            if caption in ids:
                row = ids.index(caption)
                word, triplet = file["word_offset"][row : row + 2], file["triplet_offset"][row : row + 2]
                found |= {"sentence": file["sentence"][row], "word": file["word"][slice(*word)]}
                rows = np.searchsorted(phrases["key"][:], file["triplet"][slice(*triplet)])
                found["triplet"] = np.stack([phrases["embedding"][at] for at in rows])
    for path in (folder / "spans").glob("0*.h5"):
        with h5py.File(path) as file, h5py.File(folder / "spans" / "removed.h5") as removed:
            ids = file["caption_id"].asstr()[:].tolist()
            for kind in ("noun", "verb") if caption in ids else ():
                row = ids.index(caption)
                left, keys = (file[f"{name}_offset"][row : row + 2] for name in (f"without_{kind}", kind))
                found[f"without_{kind}"] = file[f"without_{kind}"][slice(*left)]
                found[kind] = removed["embedding"][:][np.searchsorted(removed["key"][:], file[kind][slice(*keys)])]
    keyframe = pyarrow.parquet.read_table(folder / "keyframes.parquet").to_pydict()
    for path in (folder / "visual").glob("0*.h5"):
        with h5py.File(path) as file:
            ids = file["video_id"].asstr()[:].tolist()
            if video in ids:
                row = ids.index(video)
                span = slice(*file["offset"][row : row + 2])
                found |= {"frame": file["frame"][span], "patch": file["patch"][span]}
                index = keyframe["index"][keyframe["video_id"].index(video)]
                found |= {"image": found["frame"][index], "image_patch": found["patch"][index]}
    return {name: value.astype(np.float32) for name, value in found.items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def copy(batch):
    return {name: tensor.clone() for name, tensor in batch.items()}


@pytest.mark.parametrize("resident, resident_bytes", [(False, 0), (False, 1 << 13), (False, None), (True, None)])
def test_a_batch_holds_what_the_shards_hold_and_zeros_elsewhere(folder, resident, resident_bytes):
    loader = Loader(Cache(folder, ALL), "train", 6, seed=0, resident=resident, resident_bytes=resident_bytes)
    for batch, rows in zip(loader.epoch(0), loader.rows(0), strict=True):
        for at, row in enumerate(rows):
            video = loader.cache.video_of[row]
            truth = plainly(folder, loader.cache.caption_id[row], loader.cache.video_id[video])
            assert batch["label"][at] == video
            for name, value in truth.items():
                found = batch[name][at].numpy()
                if name in ("sentence", "image", "image_patch"):
                    assert np.array_equal(found, value)
                else:
                    mask = batch["frame_mask" if name in ("frame", "patch") else f"{name}_mask"][at]
                    assert mask.sum() == len(value) and mask[: len(value)].all()
                    assert np.array_equal(found[: len(value)], value) and not found[len(value) :].any()
        assert batch["word_mask"].any(0).all() and batch["triplet_mask"].any(0).all()  # no longer than the longest


def test_a_long_sentence_keeps_its_last_word(folder):
    full, short = Cache(folder, ["word"]), Cache(folder, ["word"], words=5)
    rows = full.captions("train")
    whole, cut = full.text(rows), short.text(rows)
    assert cut["word"].shape[1] == 5
    for at, length in enumerate(whole["word_mask"].sum(1).tolist()):
        if length > 5:
            kept = torch.cat([whole["word"][at, :4], whole["word"][at, length - 1 : length]])
            assert torch.equal(cut["word"][at], kept) and cut["word_mask"][at].all()


def test_an_epoch_shows_every_caption_once_and_each_epoch_another_order(folder):
    loader = Loader(Cache(folder, ["sentence"]), "train", 8, seed=3)
    first, second = (np.concatenate(list(loader.rows(epoch))) for epoch in (0, 1))
    assert sorted(first) == sorted(loader.cache.captions("train")) == sorted(second)
    assert not np.array_equal(first, second)
    other = Loader(Cache(folder, ["sentence"]), "train", 8, seed=4)
    assert not np.array_equal(first[:8], next(other.rows(0)))


def test_any_step_resumes_without_the_steps_before(folder):
    cache = Cache(folder, ALL)
    whole = [copy(batch) for batch in Loader(cache, "train", 4, seed=1).epoch(2)]
    for start in (1, 3, len(whole)):
        rest = [copy(batch) for batch in Loader(cache, "train", 4, seed=1).epoch(2, start)]
        assert len(rest) == len(whole) - start
        assert all(same(one, two) for one, two in zip(whole[start:], rest))


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_share_the_videos_of_a_batch_and_have_all_of_its_texts(folder, world):
    """Padded as in the whole batch, so that a part of it is a part of it bit by bit."""
    cache = Cache(folder, ALL)
    whole = Loader(cache, "train", 7, seed=0)
    ranks = [Loader(Cache(folder, ALL), "train", 7, seed=0, rank=rank, world=world) for rank in range(world)]
    for together, *parts in zip(*(loader.epoch(5) for loader in (whole, *ranks)), strict=True):
        assert min(len(part["frame"]) for part in parts) >= 1
        for name, tensor in together.items():
            if name.startswith(("frame", "patch", "image")):
                assert torch.equal(torch.cat([part[name] for part in parts]), tensor), name
            else:
                assert all(torch.equal(part[name], tensor) for part in parts), name


def test_a_batch_stays_whole_until_the_next_but_one_is_asked_for(folder):
    loader = Loader(Cache(folder, ALL), "train", 2, seed=0)
    before = None
    for _ in range(3):
        for batch in loader.epoch(0):
            if before is not None:
                assert same(*before)
            before = batch, copy(batch)


@pytest.mark.parametrize("state", ["cold", "no nowait", "half"])
def test_the_same_comes_from_the_disk_as_from_memory(folder, state, monkeypatch):
    expected = [copy(batch) for batch in Loader(Cache(folder, ALL), "train", 8, seed=0, resident_bytes=0).epoch(0)]
    if state == "no nowait":  # as on a system without it
        monkeypatch.setattr(ragged, "NOWAIT", 0)
    if state == "half":  # the kernel may give a part of what was asked for
        preadv = os.preadv
        short = lambda handle, views, at, flags=0: preadv(handle, [views[0][: len(views[0]) // 2 + 1]], at)  # noqa: E731
        monkeypatch.setattr(os, "preadv", short)
    loader = Loader(Cache(folder, ALL), "train", 8, seed=0, resident_bytes=0)
    if state == "cold":
        drop(folder)
    assert all(same(one, two) for one, two in zip(expected, loader.epoch(0), strict=True))


def test_the_smallest_tensors_stay_in_memory_as_far_as_allowed(folder):
    cache = Cache(folder, ALL)
    sizes = {name: feature.column.nbytes for name, feature in cache.features.items()}
    largest = max(sizes, key=sizes.get)
    loader = Loader(cache, "train", 4, seed=0, resident_bytes=cache.nbytes() - 1)
    next(loader.epoch(0))
    held = {name for name, feature in cache.features.items() if feature.column.resident is not None}
    assert held == ALL - {largest}
    assert len(pickle.dumps(loader)) < cache.nbytes()  # a worker fills its own


def test_a_sentence_cut_short_is_the_same_from_memory(folder):
    few = Cache(folder, ["word", "triplet"], words=5, triplets=2)
    rows = few.captions("train")[:9]
    read = few.text(rows)
    few.preload(torch.device("cpu"))
    assert same(read, few.text(rows)) and read["word"].shape[1] == 5


def test_buffers_are_reused(folder):
    loader = Loader(Cache(folder, ["patch"]), "train", 4, seed=0, resident_bytes=0)
    places = {batch["patch"].data_ptr() for epoch in range(6) for batch in loader.epoch(epoch)}
    assert len(places) <= loader.threads + 3


def test_leaving_an_epoch_early_leaves_nothing_behind(folder):
    loader = Loader(Cache(folder, ALL), "train", 2, seed=0)
    for epoch in range(5):
        batches = loader.epoch(epoch)
        next(batches)
        batches.close()
    whole = [copy(batch) for batch in loader.epoch(9)]
    again = [copy(batch) for batch in Loader(Cache(folder, ALL), "train", 2, seed=0).epoch(9)]
    assert all(same(one, two) for one, two in zip(whole, again)) and len(whole) == loader.steps


def test_two_iterations_side_by_side_do_not_mix(folder):
    loader = Loader(Cache(folder, ALL), "train", 2, seed=0)
    alone = [[copy(batch) for batch in loader.epoch(epoch)] for epoch in (0, 1)]
    together = [(copy(one), copy(two)) for one, two in zip(loader.epoch(0), loader.epoch(1))]
    assert all(same(a, one) and same(b, two) for a, b, (one, two) in zip(*alone, together))


def test_a_small_split_is_one_batch(folder):
    loader = Loader(Cache(folder, ["frame"]), "val", 64, seed=0)
    assert loader.steps == 1 and len(next(loader.epoch(0))["label"]) == len(loader.cache.captions("val"))


def test_only_what_is_needed_is_opened(scratch):
    (scratch / "keyframes.parquet").unlink()
    (scratch / "text" / "phrases.h5").unlink()
    batch = next(Loader(Cache(scratch, ["word", "frame"]), "train", 4, seed=0).epoch(0))
    assert set(batch) == {"word", "word_mask", "frame", "frame_mask", "label"}
    with pytest.raises(ValueError, match="dvc repro keyframes@toy"):
        Cache(scratch, ["image"])
    with pytest.raises(ValueError, match="dvc repro text@toy"):
        Cache(scratch, ["triplet"])
    with pytest.raises(ValueError, match="no such features: smell"):
        Cache(scratch, ["smell"])


def test_captions_of_rejected_videos_are_left_out_and_counted(folder):
    cache = Cache(folder, ["sentence"])
    assert cache.left_out == {"videos": 2, "captions": 4}
    assert len(cache) == 22 and "video0023" not in cache.video_id
    assert sum(len(cache.captions(split)) for split in ("train", "val", "test")) == 44


def in_a_worker(loader, answers):
    def forbidden(*_, **__):
        raise AssertionError("h5py was opened in a worker")

    h5py.File = forbidden
    answers.put([{name: tensor.numpy().copy() for name, tensor in batch.items()} for batch in loader.epoch(0)])


@pytest.mark.parametrize("resident_bytes", [0, None])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_reads_without_h5py(folder, method, resident_bytes):
    loader = Loader(Cache(folder, ALL), "train", 6, seed=0, resident_bytes=resident_bytes)
    here = [copy(batch) for batch in loader.epoch(0)]  # files are open when the worker starts
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    worker = context.Process(target=in_a_worker, args=(loader, answers))
    worker.start()
    there = answers.get(timeout=300)  # a busy machine takes its time to import torch
    worker.join()
    assert all(np.array_equal(one[name], two[name]) for one, two in zip(here, there, strict=True) for name in one)


def test_a_missing_cache_names_the_command(tmp_path):
    with pytest.raises(ValueError, match="no visual shards; run: dvc repro visual@nowhere"):
        Cache(tmp_path / "nowhere", ["frame"])


def test_a_missing_shard_is_noticed(scratch):
    gone = shards.shard_paths(scratch / "visual")[0]
    lost = len(shards.Shard(gone, "visual"))
    gone.unlink()
    with pytest.raises(ValueError, match=f"{lost} of 12 are neither .* run: dvc repro visual@toy"):
        Cache(scratch, ["sentence"])


def test_a_cut_shard_is_noticed(scratch):
    path = shards.shard_paths(scratch / "text")[1]
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"damaged.*python -m pipeline.shards repair .*toy"):
        Cache(scratch, ["sentence"])


@pytest.mark.parametrize("resident_bytes", [0, None])
def test_a_shard_cut_while_training_stops_the_step(scratch, resident_bytes):
    loader = Loader(Cache(scratch, ["patch"]), "train", 2, seed=0, resident_bytes=resident_bytes)
    for path in shards.shard_paths(scratch / "visual"):
        os.truncate(path, 100)
    with pytest.raises(ValueError, match="ends before its tensor patch does"):
        next(loader.epoch(0))


def test_two_clips_are_refused(scratch):
    path = shards.shard_paths(scratch / "text")[0]
    tensors, attributes = worlds.taken(path, "text")
    shards.write(path, "text", tensors, attributes | {"clip": "large", "clip_sha256": "0" * 64})
    with pytest.raises(
        ValueError, match=r"CLIP random .* by large .* report@toy .*visual, keyframes, text, inputs, train"
    ):
        Cache(scratch, ["sentence"])


def test_keyframes_of_another_sampling_are_refused(scratch):
    table = pyarrow.parquet.read_table(scratch / "keyframes.parquet")
    index = pyarrow.array([40] * len(table), pyarrow.int32())
    pyarrow.parquet.write_table(table.set_column(1, "index", index), scratch / "keyframes.parquet")
    with pytest.raises(ValueError, match="does not fit the visual shards.*dvc repro keyframes@toy"):
        Cache(scratch, ["image"])


def test_phrases_of_another_run_are_refused(scratch):
    path = scratch / "text" / "phrases.h5"
    old = shards.Shard(path, "phrases")
    tensors = {name: old[name][1:] for name in ("key", "phrase", "embedding")}
    shards.write(path, "phrases", tensors, old.attributes)
    with pytest.raises(ValueError, match="phrases.h5 does not fit the text shards; run: dvc repro text@toy"):
        Cache(scratch, ["triplet"])


def turned(angles):
    """Unit vectors in a plane, by their angles in degrees."""
    radians = np.deg2rad(np.asarray(angles, float))
    return np.stack([np.cos(radians), np.sin(radians)], 1)


def test_the_nearest_are_those_of_the_smallest_angle_and_never_oneself():
    near = order.nearest(turned([0, 10, 25, 90, 91]), 2)
    assert near.tolist() == [[1, 2], [0, 2], [1, 0], [4, 2], [3, 2]]
    assert order.nearest(turned([0, 10]), 64).tolist() == [[1], [0]] and order.nearest(turned([0])).shape == (1, 0)


def test_of_equally_near_videos_the_first_come_first():
    assert order.nearest(np.ones((5, 3)), 2).tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]


def test_the_nearest_are_the_same_bits_in_any_order_of_sums():
    """Where float32 rounds, a sum depends on its order: here none does, for all are whole numbers below 2^24."""
    vector = np.random.default_rng(0).normal(size=(300, 512))
    there = np.random.default_rng(1).permutation(512)
    assert np.array_equal(order.nearest(vector), order.nearest(vector[:, there]))
    largest = order.SCALE * np.ones((1, 1024), np.float32) / 32
    assert (largest @ largest.T).item() == order.SCALE**2 < 2**24


def test_groups_are_of_look_alikes_and_of_their_size():
    near = order.nearest(turned([0, 1, 2, 90, 91, 92, 180, 181, 182]), 2)
    for seed in range(5):
        member = order.group(near, 3, np.random.default_rng(seed))
        assert sorted(np.bincount(member)) == [3, 3, 3]
        assert all(len(set(member[at : at + 3])) == 1 for at in (0, 3, 6))
    assert len(set(order.group(near, 1, np.random.default_rng(0)))) == 9


def test_look_alikes_stand_side_by_side_and_every_caption_stands_once():
    near = order.nearest(turned([0, 1, 2, 90, 91, 92, 180, 181, 182]), 2)
    video = np.repeat(np.arange(9), [2, 2, 2, 2, 2, 2, 2, 2, 5])  # the last has three captions more
    places = order.alike(video, near, 3, np.random.default_rng(0))
    assert sorted(places) == list(range(len(video)))
    passes = video[places]
    for at in (0, 9):
        assert sorted(passes[at : at + 9]) == list(range(9))
        assert all(len({other // 3 for other in passes[begin : begin + 3]}) == 1 for begin in range(at, at + 9, 3))
    assert (passes[18:] == 8).all()
    assert not np.array_equal(places, order.alike(video, near, 3, np.random.default_rng(1)))


def test_batches_of_look_alikes_are_a_function_of_seed_and_epoch_whoever_reads_them(folder):
    """The captions' hidden vectors are random here, so look-alikes are whatever lies nearest."""
    cache = Cache(folder, ALL)
    whole = Loader(cache, "train", 7, seed=1, alike=3)
    rows = list(whole.rows(2))
    assert sorted(np.concatenate(rows)) != sorted(np.concatenate(list(whole.rows(3))))  # others are left over
    for start in (1, 2):
        assert all(map(np.array_equal, rows[start:], Loader(Cache(folder, ALL), "train", 7, 1, alike=3).rows(2, start)))
    without_frames = Loader(Cache(folder, ["sentence", "image"]), "train", 7, 1, rank=1, world=2, alike=3)
    assert all(map(np.array_equal, rows, without_frames.rows(2)))
    frame = cache.video(np.arange(len(cache)))["frame"].sum(1)  # of videos of one to three frames, padded with zeros
    frame = torch.nn.functional.normalize(frame, dim=1).numpy()

    def closeness(steps):
        return np.mean([(frame[cache.video_of[step[1:]]] * frame[cache.video_of[step[:-1]]]).sum(1) for step in steps])

    assert closeness(rows) > closeness(whole.with_batches(7).rows(2)) + 0.1


def test_other_batches_of_the_same_samples_read_only_what_is_asked_for(folder):
    loader = Loader(Cache(folder, ALL), "train", 4, seed=0)
    other = loader.with_batches(9, reads=frozenset({"sentence", "image"}))
    batches = [copy(batch) for batch in other.epoch(1)]
    assert other.steps == len(batches) == len(loader.samples) // 9 and loader.steps == len(loader.samples) // 4
    assert all(set(batch) == {"sentence", "image", "label"} for batch in batches)
    whole = [copy(batch) for batch in Loader(Cache(folder, ALL), "train", 9, seed=0).epoch(1)]
    assert all(torch.equal(one[name], two[name]) for one, two in zip(batches, whole) for name in one)
    with pytest.raises(ValueError, match="a batch of 1 cannot be shared by 2 ranks"):
        Loader(Cache(folder, ALL), "train", 4, seed=0, rank=0, world=2).with_batches(1)


def test_what_is_small_goes_to_a_gpu_from_pinned_memory_and_waits_for_nothing():
    """No GPU is needed to see the order of the calls; what they do is torch's."""

    class Told:
        def __init__(self):
            self.calls = []

        def pin_memory(self):
            self.calls.append("pinned")
            return self

        def to(self, device, non_blocking=False):
            self.calls.append((device.type, non_blocking))
            return self

    assert ragged.upload(Told(), torch.device("cuda", 0)).calls == ["pinned", ("cuda", True)]
    assert ragged.upload(Told(), torch.device("cpu")).calls == [("cpu", False)]
