"""The same samples in other people's formats, each read the way its users read it: what tests/bench/loader.py compares with.

Every format is a `write(folder, samples)` and a `batches(folder, order, batch)` that yields dictionaries of float16 tensors.
A sample is (caption, video): sentence (D), word (L, D), triplet (M, D), frame (N, D), patch (N, P, D).
"""

import io
import itertools
import tarfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import torch

WORDS, TRIPLETS = 32, 8  # formats that cannot hold ragged rows pad to these


class Samples:
    """The tensors that all formats hold, in RAM, and padded rows of them."""

    def __init__(self, tensors: dict[str, np.ndarray], video_of: np.ndarray):
        self.tensors, self.video_of = tensors, video_of

    def padded(self, name: str, row: int) -> np.ndarray:
        """The rows of one caption, padded with zeros."""
        most = WORDS if name == "word" else TRIPLETS
        first, last = self.tensors[f"{name}_offset"][row : row + 2]
        rows = np.zeros((most, self.tensors[name].shape[1]), np.float16)
        rows[: last - first] = self.tensors[name][first:last]
        return rows

    def text(self, row: int) -> dict[str, np.ndarray]:
        """Tensors of a caption."""
        return {"sentence": self.tensors["sentence"][row]} | {
            name: self.padded(name, row) for name in ("word", "triplet")
        }

    def video(self, row: int) -> dict[str, np.ndarray]:
        """Tensors of a video."""
        return {name: self.tensors[name][row] for name in ("frame", "patch")}


def stack(items: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """What a default collate does."""
    return {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}


class H5py:
    """One dataset a tensor, a chunk a sample, read item by item through h5py and stacked."""

    def write(self, folder: Path, samples: Samples) -> None:
        with h5py.File(folder / "all.h5", "w") as file:
            for name in ("frame", "patch"):
                rows = samples.tensors[name]
                file.create_dataset(name, data=rows, chunks=(1, *rows.shape[1:]))
            first = samples.text(0)
            out = {
                name: file.create_dataset(name, (len(samples.video_of), *rows.shape), "f2", chunks=(1, *rows.shape))
                for name, rows in first.items()
            }
            for row in range(len(samples.video_of)):
                for name, rows in samples.text(row).items():
                    out[name][row] = rows
            file["video_of"] = samples.video_of

    def batches(self, folder: Path, order: np.ndarray, batch: int) -> Iterator[dict[str, torch.Tensor]]:
        items = Items(folder / "all.h5")
        for first in range(0, len(order) - batch + 1, batch):
            yield stack([items[row] for row in order[first : first + batch].tolist()])


class Items(torch.utils.data.Dataset):
    """The dataset that everyone writes over an HDF5 file: opened when first asked, one item at a time."""

    def __init__(self, path: Path):
        self.path, self.file = path, None

    def __len__(self) -> int:
        with h5py.File(self.path) as file:
            return len(file["video_of"])

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        if self.file is None:
            self.file = h5py.File(self.path)
            self.video_of = self.file["video_of"][:]
        text = {name: self.file[name][row] for name in ("sentence", "word", "triplet")}
        return text | {name: self.file[name][self.video_of[row]] for name in ("frame", "patch")}


class DataLoader(H5py):
    """torch's DataLoader over the same items."""

    def __init__(self, workers: int):
        self.workers = workers

    def write(self, folder: Path, samples: Samples) -> None:
        """It reads what H5py wrote."""

    def batches(self, folder: Path, order: np.ndarray, batch: int) -> Iterator[dict[str, torch.Tensor]]:
        items = Items(folder.parent / "h5py" / "all.h5")
        order = order[: len(order) // batch * batch].tolist()
        yield from torch.utils.data.DataLoader(items, batch, sampler=order, num_workers=self.workers)


class Keyed:
    """Formats that give back one record's bytes for a key."""

    def record(self, tensors: dict[str, np.ndarray]) -> bytes:
        return b"".join(rows.tobytes() for rows in tensors.values())

    def shapes(self, samples: Samples) -> None:
        self.text_shape = {name: rows.shape for name, rows in samples.text(0).items()}
        self.video_shape = {name: rows.shape for name, rows in samples.video(0).items()}
        self.video_of = samples.video_of

    def parse(self, record, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        flat, found, first = np.frombuffer(record, np.float16), {}, 0
        for name, shape in shapes.items():
            size = int(np.prod(shape))
            found[name] = flat[first : first + size].reshape(shape)
            first += size
        return found

    def item(self, get, row: int) -> dict[str, np.ndarray]:
        text = self.parse(get("text", row), self.text_shape)
        return text | self.parse(get("video", int(self.video_of[row])), self.video_shape)

    def batches(self, folder: Path, order: np.ndarray, batch: int) -> Iterator[dict[str, torch.Tensor]]:
        with self.reader(folder) as get:
            for first in range(0, len(order) - batch + 1, batch):
                yield stack([self.item(get, row) for row in order[first : first + batch].tolist()])


class Lmdb(Keyed):
    """A record a video and a record a caption."""

    def write(self, folder: Path, samples: Samples) -> None:
        import lmdb

        self.shapes(samples)
        with lmdb.open(str(folder), map_size=1 << 36) as store, store.begin(write=True) as transaction:
            for row in range(len(samples.tensors["frame"])):
                transaction.put(b"video%08d" % row, self.record(samples.video(row)))
            for row in range(len(samples.video_of)):
                transaction.put(b"text%08d" % row, self.record(samples.text(row)))

    def reader(self, folder: Path):
        import contextlib

        import lmdb

        @contextlib.contextmanager
        def opened():
            with lmdb.open(str(folder), readonly=True, lock=False, readahead=False) as store:
                with store.begin(buffers=True) as transaction:
                    yield lambda kind, row: transaction.get(b"%s%08d" % (kind.encode(), row))

        return opened()


class Arrow(Keyed):
    """Two memory-mapped Arrow files with a binary column each."""

    def write(self, folder: Path, samples: Samples) -> None:
        import pyarrow as pa

        self.shapes(samples)
        counts = {"video": len(samples.tensors["frame"]), "text": len(samples.video_of)}
        for kind, count in counts.items():
            schema = pa.schema([("data", pa.large_binary())])
            with pa.OSFile(str(folder / f"{kind}.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                for first in range(0, count, 256):
                    rows = range(first, min(first + 256, count))
                    records = [self.record(getattr(samples, kind)(row)) for row in rows]
                    writer.write_batch(pa.record_batch([pa.array(records, pa.large_binary())], schema=schema))

    def reader(self, folder: Path):
        import contextlib

        import pyarrow as pa

        @contextlib.contextmanager
        def opened():
            with contextlib.ExitStack() as stack_:
                files = {
                    kind: stack_.enter_context(pa.memory_map(str(folder / f"{kind}.arrow")))
                    for kind in ("text", "video")
                }
                batches = {kind: [] for kind in files}
                for kind, file in files.items():
                    opened_file = pa.ipc.open_file(file)
                    batches[kind] = [opened_file.get_batch(at)["data"] for at in range(opened_file.num_record_batches)]
                yield lambda kind, row: batches[kind][row // 256][row % 256].as_buffer()

        return opened()


class Safetensors:
    """One file of stacked tensors, a slice an item."""

    def write(self, folder: Path, samples: Samples) -> None:
        from safetensors.numpy import save_file

        text = [samples.text(row) for row in range(len(samples.video_of))]
        tensors = {name: np.stack([one[name] for one in text]) for name in text[0]}
        save_file(tensors | {name: samples.tensors[name] for name in ("frame", "patch")}, folder / "all.safetensors")
        self.video_of = samples.video_of

    def batches(self, folder: Path, order: np.ndarray, batch: int) -> Iterator[dict[str, torch.Tensor]]:
        from safetensors import safe_open

        with safe_open(folder / "all.safetensors", "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
            for first in range(0, len(order) - batch + 1, batch):
                rows = order[first : first + batch].tolist()
                videos = self.video_of[rows].tolist()
                yield {
                    name: torch.stack([part[row] for row in (videos if name in ("frame", "patch") else rows)])
                    for name, part in slices.items()
                }


class WebDataset:
    """Tar files of one .npz-free record a sample, read in file order through a shuffle buffer; it cannot read at random."""

    def write(self, folder: Path, samples: Samples) -> None:
        order = np.random.default_rng(0).permutation(len(samples.video_of))
        order = order[np.unique(samples.video_of[order], return_index=True)[1]]  # one caption a video
        for part, rows in enumerate(np.array_split(order, 8)):
            with tarfile.open(folder / f"{part:02d}.tar", "w") as tar:
                for row in rows.tolist():
                    for name, value in (samples.text(row) | samples.video(int(samples.video_of[row]))).items():
                        content = io.BytesIO()
                        np.save(content, value)
                        entry = tarfile.TarInfo(f"{row:08d}.{name}.npy")
                        entry.size = content.tell()
                        content.seek(0)
                        tar.addfile(entry, content)

    def batches(self, folder: Path, order: np.ndarray, batch: int) -> Iterator[dict[str, torch.Tensor]]:
        import webdataset

        paths = [str(path) for path in sorted(folder.glob("*.tar"))]
        items = webdataset.WebDataset(paths, shardshuffle=False).shuffle(4 * batch).decode()
        waiting = []
        for item in itertools.islice(itertools.chain.from_iterable(itertools.repeat(items)), len(order)):
            waiting.append({key.removesuffix(".npy"): value for key, value in item.items() if key.endswith(".npy")})
            if len(waiting) == batch:
                yield stack(waiting)
                waiting = []


class Ram:
    """The limit: rows already in RAM, copied one by one into the same buffer for every batch."""

    def write(self, folder: Path, samples: Samples) -> None:
        self.samples = samples

    def batches(self, folder: Path, order: np.ndarray, batch: int) -> Iterator[dict[str, torch.Tensor]]:
        tensors, video_of = self.samples.tensors, self.samples.video_of
        out = {name: np.empty((batch, *tensors[name].shape[1:]), np.float16) for name in ("sentence", "frame", "patch")}
        out |= {
            name: np.empty((batch, most, tensors[name].shape[1]), np.float16)
            for name, most in (("word", WORDS), ("triplet", TRIPLETS))
        }
        result = {name: torch.from_numpy(rows) for name, rows in out.items()}
        for first in range(0, len(order) - batch + 1, batch):
            for at, row in enumerate(order[first : first + batch].tolist()):
                video = video_of[row]
                out["sentence"][at] = tensors["sentence"][row]
                out["frame"][at], out["patch"][at] = tensors["frame"][video], tensors["patch"][video]
                for name in ("word", "triplet"):
                    begin, end = tensors[f"{name}_offset"][row : row + 2]
                    out[name][at, : end - begin] = tensors[name][begin:end]
            yield result
