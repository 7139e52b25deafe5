"""What the resident server costs, and whether its answers are those of the evaluation.

    python -m tests.bench.search [--run cache/demo/runs/max_sim] [--only queries joint fits large folder] [--files 10000]

queries  one sentence at a time over HTTP, 2,580 items of demo, the text tower and the ten best counted; memory over 1,000 more;
         taking turns with it one matrix product of its words and all patches, by one thread, which says how fast the machine is
joint    the joint list of demo's test split, captions of which the evaluation has ranks: recall from the server's answers
fits     captions whose answer is there, and the same with it, and with its look-alikes too, put aside: what the page would say
large    the same queries over 100,000 synthetic items (90,000 photos, 10,000 videos of 12 frames: demo's rows with noise), with
         an index of the run and without (`_plain`); how many candidates it takes is chosen on val, and what share of the ten
         best images and videos by the method's own scores of everything an answer lists is measured on test (`recall10`)
folder   a folder of photos: the first start until the page answers, a full index, and five photos more; CPU time of the indexer

Absolute times say something of this machine only. The last line is JSON.
"""

import argparse
import dataclasses
import http.client
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from eval.index import store
from eval.index.build import fewest
from eval.index.coarse import Coarse, join
from eval.index.search import COARSE, save_tensors
from eval.index.tokens import pack
from eval.load import load_run
from eval.search import Search
from eval.search.answers import Query
from eval.search.calibration import Asked
from eval.search.engine import Scored
from eval.search.gallery import Gallery, Segment
from eval.search.recall import Recall, mark_of
from eval.search.sentences import sentences
from eval.search.server import Server
from eval.search.view import View
from eval.similarity import ROWS, Scorer, item_kinds
from pipeline.files import read_table, write
from pipeline.shards import StoredVideo
from tests.support import album, tiny
from train import checkpoint

ROOT = Path(__file__).parents[2]
PARTS = ("queries", "joint", "fits", "large", "folder")
ITEMS, LARGE, PHOTOS = 2580, 100_000, 90_000
WORDS = 25  # tokens of demo's captions, on average
PICTURES = 200  # that the photos of a folder show
TOP, RECALL, CHOICES = 10, 0.99, 40  # of how many val captions the wanted share of the exact ten is looked at
ALARMS = (0.05, 0.1, 0.2, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("cache/demo/runs/max_sim"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--captions", type=int, default=500, help="of joint and fits")
    parser.add_argument("--more", type=int, default=1000, help="queries over which memory is watched")
    parser.add_argument("--large", type=int, default=100, help="queries over the synthetic items")
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # a part that is done stays said, whatever becomes of the next
    result: dict[str, float] = {}
    for part in args.only:
        result |= globals()[f"measure_{part}"](args)
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


def captions(shards: Path, count: int, split: str = "test") -> list[tuple[str, str, str]]:
    """(caption id, item, text) of some captions of a split, always the same ones."""
    rows = [row for row in read_table(shards / "manifest" / "captions.parquet").to_pylist() if row["split"] == split]
    chosen = np.random.default_rng(1).permutation(len(rows))[:count]
    return [(rows[at]["caption_id"], rows[at]["video_id"], rows[at]["text"]) for at in chosen]


class Client:
    """One connection to a server of its own thread."""

    def __init__(self, search: Search):
        self.server = Server(search, None)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.connection = http.client.HTTPConnection("127.0.0.1", self.server.server_address[1])

    def ask(self, **body: object) -> tuple[dict, float]:
        """An answer and the milliseconds that it took."""
        began = time.perf_counter()
        self.connection.request("POST", "/api/search", json.dumps(body), {"Content-Type": "application/json"})
        answer = json.loads(self.connection.getresponse().read())
        return answer, 1000 * (time.perf_counter() - began)

    def close(self) -> None:
        """End both."""
        self.connection.close()
        self.server.shutdown()
        self.server.server_close()


def time_queries(search: Search, shards: Path, beside: Callable[[], None] | None = None, count: int = 200) -> tuple:
    """Milliseconds of sentences that were never asked before, ten results of the joint list each: by the clock, and of CPU time.

    `beside` takes turns with them and is not counted. With the client, to go on with.
    """
    client = Client(search)
    texts = [text for _, _, text in captions(shards, count + 20)]
    for text in texts[:20]:
        client.ask(text=text, lists=["joint"], top=10)
    took, cpu = [], []
    for text in texts[20:]:
        began = time.process_time()
        took.append(client.ask(text=text, lists=["joint"], top=10)[1])
        cpu.append(1000 * (time.process_time() - began))
        if beside:
            beside()
    return took, cpu, client


class Product:
    """CPU milliseconds of a product of a sentence's words with all patches of all videos, in one piece, by one thread."""

    def __init__(self, search: Search):
        import torch

        config = search.method.config
        patch = torch.cat([one.blocks["video"]["patch"].float().flatten(0, 1) for one in search.view.segments])
        self.patch = patch[: ITEMS * config.frames * config.patches].T
        self.word = torch.nn.functional.normalize(torch.randn(WORDS, len(self.patch)), dim=-1)
        self.made, self.took, self.workers = self.word @ self.patch, [], search.workers

    def __call__(self) -> None:
        """Once more."""
        self.workers.run(self.multiply)

    def multiply(self) -> None:
        import torch

        began = time.thread_time()
        torch.mm(self.word, self.patch, out=self.made)
        self.took.append(1000 * (time.thread_time() - began))


def said(took: list[float]) -> str:
    """Median and p95 of milliseconds."""
    return f"median {np.median(took):.1f} ms, p95 {np.percentile(took, 95):.1f} ms"


def resident() -> float:
    """MiB of this process that are its own."""
    with open("/proc/self/statm") as file:
        _, pages, shared = file.read().split()[:3]
    return (int(pages) - int(shared)) * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure_queries(args: argparse.Namespace) -> dict[str, float]:
    """Over ITEMS of demo."""
    shards = args.run.parent.parent
    search = Search(args.run, shards)
    search.show(search.view.items[:ITEMS])
    product = Product(search)
    took, cpu, client = time_queries(search, shards, product)
    of_product = float(np.median(np.array(cpu) / np.array(product.took)))
    del product.patch, product.made
    texts = [text for _, _, text in captions(shards, args.more, "train")]
    for text in texts[:100]:
        client.ask(text=text, top=10)
    before = resident()
    for text in texts:
        client.ask(text=f"{text} again", top=10)
    growth = resident() - before
    client.close()
    print(f"{ITEMS} items: {said(took)}, CPU time {said(cpu)}; {of_product:.2f} of a bare product; {growth:+.1f} MiB")
    return {
        "query_ms_demo": float(np.median(took)),
        "query_p95_ms_demo": float(np.percentile(took, 95)),
        "query_cpu_ms_demo": float(np.median(cpu)),
        "query_of_product": of_product,
        "rss_growth_mib": growth,
    }


def measure_joint(args: argparse.Namespace) -> dict[str, float]:
    """Recall of the server's joint list beside the ranks that the evaluation wrote."""
    shards = args.run.parent.parent
    client = Client(Search(args.run, shards, "test"))
    ranks = read_table(shards / "scores" / args.run.name / "ranks.parquet").to_pylist()
    known = {row["caption_id"]: row for row in ranks}
    found = {"server": [], "evaluation": []}
    same = []
    for name, item, text in captions(shards, args.captions):
        answer, _ = client.ask(sentences=[text], lists=["joint"], top=10, fold=False)
        listed = [f"{'video' if hit['kind'] == 'video' else 'image'}:{hit['id']}" for hit in answer["joint"]]
        for who, top in (("server", listed), ("evaluation", known[name]["joint_top"])):
            found[who].append([f"{kind}:{item}" in top[:cut] for kind in ("video", "image") for cut in (1, 5, 10)])
        same.append(len(set(listed) & set(known[name]["joint_top"])))
    client.close()
    result = {}
    for who, hits in found.items():
        one = np.array(hits).reshape(-1, 2, 3)
        figures = [*one.any(1).mean(0), *one.all(1).mean(0)[1:]]
        names = ("either_r1", "either_r5", "either_r10", "both_r5", "both_r10")
        result |= {f"{who}_{name}": 100 * float(value) for name, value in zip(names, figures)}
        print(f"{who}: " + ", ".join(f"{name} {100 * value:.1f}" for name, value in zip(names, figures)))
    print(f"of the ten best {np.mean(same):.2f} are the same")
    return result | {"same_of_ten": float(np.mean(same))}


def measure_fits(args: argparse.Namespace) -> dict[str, float]:
    """False alarms and misses; the bank is other captions of the split, or the list that a library without captions has."""
    shards = args.run.parent.parent
    search = Search(args.run, shards, "test")
    view = search.view
    groups = read_table(shards / "manifest" / "items.parquet", ["video_id", "group"]).to_pylist()
    group = {row["video_id"]: row["group"] or row["video_id"] for row in groups}
    alike: dict[str, set[str]] = {}
    for name, of in group.items():
        alike.setdefault(of, set()).add(name)
    rows = captions(shards, args.captions + 200)
    asked, others = rows[: args.captions], rows[args.captions :]
    heights = [search.score_sentence(view, text) for _, _, text in asked]
    banks = {"captions": [Asked(text, frozenset(alike[group[item]])) for _, item, text in others]}
    banks["list"] = [Asked(text) for text in sentences(200)]
    result = {}
    for source, bank in banks.items():
        search.calibrated_for = ""
        made = search.calibrate(bank)
        gone = {"there": lambda item: set(), "item": lambda item: {item}, "group": lambda item: alike[group[item]]}
        fits = {
            how: np.array([best_fit(made, view, height, aside(row[1])) for height, row in zip(heights, asked)])
            for how, aside in gone.items()
        }
        for alarm in ALARMS:
            line = made.threshold(alarm)
            rates = [np.mean(fits["item"] >= line), np.mean(fits["group"] >= line), np.mean(fits["there"] < line)]
            names = ("false_alarm_item", "false_alarm_group", "miss")
            result |= {f"{source}_{alarm:g}_{name}": float(rate) for name, rate in zip(names, rates)}
            said = ", ".join(f"{name} {100 * rate:.0f} %" for name, rate in zip(names, rates))
            print(f"bank of {source}, asked for {100 * alarm:.0f} %: {said}")
    search.calibrated_for = ""
    (search.gallery.folder / "calibration.json").unlink(missing_ok=True)
    return result


def best_fit(made: object, view: View, height: dict[str, np.ndarray], aside: set[str]) -> float:
    """The fit of the best hit, some items put aside."""
    out = np.array([view.by_id[name] for name in aside if name in view.by_id], np.int64)
    fits = [
        made.fit(kind, np.array([np.nanmax(np.where(np.isin(view.rows[kind], out), np.nan, value))]))[0]
        for kind, value in height.items()
        if len(value)
    ]
    return float(max(fits))


def measure_large(args: argparse.Namespace) -> dict[str, float]:
    """Over LARGE synthetic items, mapped from files; also how much of the whole list a shortlist finds."""
    shards = args.run.parent.parent
    search = Search(args.run, shards)
    result = {"shortlist_at_ten": compare_shortlist(search, shards)}
    with tempfile.TemporaryDirectory(dir=shards.parent) as place:
        items, gallery = synthetic(search, Path(place))
        search.gallery = Gallery(Path(place), search.gallery.key)
        search.gallery.read()
        search.show(items)
        assert len(search.view.items) == len(items) and not search.view.exact
        search.view.whole()
        built, truth = build_index(search, args.run, shards, Path(place) / "index"), best_of_all(search, shards, "test")
        for name, index in (("", built), ("_plain", Recall(Path(place), "", search.scorer))):
            search.recall = index
            search.answers.clear()
            took, cpu, client = time_queries(search, shards, count=args.large)
            client.close()
            share = np.mean([found_of(search, *one) for one in truth])
            print(
                f"{len(items)} items, {'no ' * bool(name)}index: {said(took)}, CPU time {said(cpu)}; "
                f"{100 * share:.1f} % of the ten best"
            )
            result |= {
                f"query_ms_100k{name}": float(np.median(took)),
                f"query_p95_ms_100k{name}": float(np.percentile(took, 95)),
                f"query_cpu_ms_100k{name}": float(np.median(cpu)),
                f"recall10_100k{name}": float(share),
            }
    return result


def build_index(search: Search, run: Path, shards: Path, folder: Path) -> Recall:
    """The index that `python -m eval.index` would write of the items, as far as a search reads it; candidates chosen on val."""
    method, cache, record = load_run(run, shards, "cpu")
    real, view = Scorer(method, cache, "cpu"), search.view
    weights = record.get("checkpoint") or checkpoint.digest(run / "checkpoint.pt")
    train = cache.videos("train")
    photo, _ = item_kinds(cache, train)
    for kind, own in (("image", train), ("video", train[~photo])):
        coarse = Coarse.fit(real, kind, cache.captions("train"), own)
        save_tensors(folder / kind / COARSE, coarse.tensors())
        for number, segment in enumerate(view.segments):
            ids = [segment.marks[place] for place in (segment.films if kind == "video" else range(len(segment.marks)))]
            if ids:
                vectors, packed = [], []
                for at in range(0, len(ids), ROWS):
                    block = view.block(kind, number, np.arange(at, min(at + ROWS, len(ids))), "cpu")
                    vectors.append(coarse.items(real, block))
                    packed.append(pack(block))
                marks = [mark_of(view, view.by_id[name]) for name in ids]
                path = folder / kind / f"{number:05d}.safetensors"
                store.write_part(path, ids, marks, np.concatenate(vectors), join(packed))
    write(folder / "index.json", json.dumps({"weights": weights, "kinds": {"image": {}, "video": {}}}))
    made = Recall(folder, weights, search.scorer)
    for kind, index in made.index.items():
        assert (made.places(view, kind) >= 0).all() and len(index) == len(view.rows[kind])
    found = best_of_all(search, shards, "val", CHOICES)
    for kind, index in made.index.items():
        row = {place: number for number, place in enumerate(made.places(view, kind).tolist())}
        texts = [text for text, _, _ in found]
        best = np.array([[row[place] for place in best[kind].tolist()] for _, _, best in found])
        chosen = fewest(index, texts, best, RECALL)
        index.candidates, index.close = chosen["candidates"], chosen["close"]
        print(f"index of {len(index)} {kind}s: {index.candidates} candidates find {chosen['recall']:.1%} on val")
    return made


def best_of_all(search: Search, shards: Path, split: str, count: int = 30) -> list[tuple[dict, str, dict]]:
    """Of some captions: encoded, as they are, and by kind the places of the TOP best items by the method's own scores of all."""
    view, found = search.view, []
    for _, _, sentence in captions(shards, count, split):
        text = search.workers.run(lambda sentence=sentence: search.reader.encode(sentence)[0])
        best = {}
        for kind, rows in view.rows.items():
            score = view.score(search.scorer, text, kind, rows, search.workers)[0]
            best[kind] = rows[np.argsort(-score, kind="stable")[:TOP]]
        found.append((text, sentence, best))
    return found


def found_of(search: Search, text: dict, sentence: str, best: dict) -> float:
    """Share of the best items of both kinds that an answer lists."""
    answer = search(sentence, TOP)
    listed = {"image": [hit.id for hit in answer.images], "video": [hit.id for hit in answer.videos]}
    shares = [
        len({search.view.items[place].id for place in places.tolist()} & set(listed[kind])) / TOP
        for kind, places in best.items()
    ]
    return float(np.mean(shares))


def compare_shortlist(search: Search, shards: Path, count: int = 100) -> float:
    """Share of the ten best of all of demo that a shortlist of a tenth of it has among its ten best."""
    from eval.search import recall

    whole, short = search.view, dataclasses.replace(search.view, exact=False, number=search.view.number + 1)
    before, recall.SHORT = recall.SHORT, len(whole.items) // 10
    shares = []
    for _, _, text in captions(shards, count):
        tops = []
        for view in (whole, short):
            scored: Scored = search.score(view, Query((text,)))
            tops.append(set(np.argsort(-np.nan_to_num(scored.standing["video"], nan=-1e9))[:10].tolist()))
        shares.append(len(tops[0] & tops[1]) / 10)
    recall.SHORT = before
    print(f"a shortlist of a tenth has {100 * np.mean(shares):.1f} % of the ten best videos")
    return float(np.mean(shares))


class OneFrame(StoredVideo):
    """The first frame of a video, in place of a photo."""

    @property
    def frames(self) -> slice:
        first = super().frames.start
        return slice(first, first + 1)


def synthetic(search: Search, place: Path) -> tuple[list, Gallery]:
    """Demo's encoded rows again and again, each with noise of its own, kept as a gallery of segments."""
    import torch

    gallery, sources = Gallery(place, search.gallery.key), search.view
    made, random = [], torch.Generator().manual_seed(0)
    row_of = sources.place[:, 1] + np.cumsum([0, *(len(one.marks) for one in sources.segments)])[sources.place[:, 0]]
    films = [len(one.films) for one in sources.segments]
    film_of = sources.film[sources.place[:, 0], sources.place[:, 1]] + np.cumsum([0, *films])[sources.place[:, 0]]
    whole = torch.cat([one.whole for one in sources.segments])
    blocks = {
        kind: {
            name: torch.cat([one.blocks[kind][name] for one in sources.segments])
            for name in sources.segments[0].blocks[kind]
        }
        for kind in ("image", "video")
    }
    drawn = [place for place, item in enumerate(sources.items) if not item.photo]
    for at in range(0, LARGE, 1000):
        photo = at < PHOTOS
        marks = [f"synthetic {number}" for number in range(at, at + 1000)]
        rows = [drawn[place] for place in torch.randint(len(drawn), (1000,), generator=random).tolist()]
        taken = {"image": torch.from_numpy(row_of[rows]), "video": torch.from_numpy(film_of[rows])}
        own = {
            kind: {name: noisy(tensor[taken[kind]], random) for name, tensor in blocks[kind].items()}
            for kind in (("image",) if photo else ("image", "video"))
        }
        films = [] if photo else list(range(1000))
        small = [sources.small_pictures(source)[: 1 if photo else None] for source in rows]
        ends = torch.tensor([len(one) for one in small]).cumsum(0)
        pictures = torch.from_numpy(np.concatenate(small))
        gallery.keep(Segment(marks, films, {"video": {}} | own, noisy(whole[taken["image"]], random), pictures, ends))
        made += [
            dataclasses.replace(
                one := sources.items[source],
                id=mark,
                key=f"{number:016x}",
                mark=mark,
                photo=photo,
                keyframe=0 if photo else one.keyframe,
                row=OneFrame(one.row.shard, one.row.row) if photo else one.row,
            )
            for number, (source, mark) in enumerate(zip(rows, marks), at)
        ]
    return made, gallery


def noisy(tensor: object, random: object) -> object:
    """Unit vectors, each turned a little; masks as they are."""
    import torch

    if not tensor.is_floating_point():
        return tensor
    value = tensor.float() + 0.3 / tensor.shape[-1] ** 0.5 * torch.randn(tensor.shape, generator=random)
    return torch.nn.functional.normalize(value, dim=-1).half()


def measure_folder(args: argparse.Namespace) -> dict[str, float]:
    """A folder of photos."""
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        media = base / "media"
        media.mkdir()
        add_photos(media, range(args.files))
        tiny.clip(base / "model", size=96, patch=32, width=192, dimension=128)
        (base / "params.yaml").write_text(album.PARAMS.format(clip=base / "model").replace("shards: 4", "shards: 64"))
        start = first_start(base, media)
        shutil.rmtree(base / "cache", ignore_errors=True)
        full = index(base, media, args.files)
        idle = index(base, media, 0)
        add_photos(media, range(args.files, args.files + 5))
        more = index(base, media, 5)
    print(
        f"{args.files} photos: {full:.1f} s of CPU; nothing new {idle:.1f} s, five more {more:.1f} s; page after {start:.1f} s"
    )
    share = {"plus_five_share": more / full, "nothing_new_share": idle / full}
    return share | {"first_page_s": start, "full_index_s": full}


def add_photos(media: Path, numbers: range) -> None:
    """A photo a number, of PICTURES pictures: no two files have the same bytes, for a few stand behind the picture's end."""
    for number in numbers:
        picture = media.parent / f"picture {number % PICTURES}.jpg"
        if not picture.exists():
            album.photo(picture, number, tuple((37 * number) % 200 + 40 for _ in range(3)))
        (media / f"{number:05d}.jpg").write_bytes(picture.read_bytes() + number.to_bytes(8, "big"))


def index(base: Path, media: Path, fresh: int) -> float:
    """CPU seconds of bringing the library up to date, workers counted; it must encode as many files as are new."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [sys.executable, "-m", "eval.search.library", "--folder", str(media), "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(words, cwd=base, env=environment, capture_output=True, text=True, check=True)
    assert f" {fresh} encoded" in ran.stdout, ran.stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def first_start(base: Path, media: Path) -> float:
    """Seconds until the page of a folder that was never indexed answers."""
    began = time.perf_counter()
    words = [sys.executable, "-m", "eval.search", "--folder", str(media), "--no-browser", "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, cwd=base, env=environment, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if " at http://" in line:
            port = int(line.split("127.0.0.1:")[1].split("/")[0])
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
            break
    took = time.perf_counter() - began
    process.terminate()
    process.wait()
    process.stderr.close()
    return took


if __name__ == "__main__":
    main()
