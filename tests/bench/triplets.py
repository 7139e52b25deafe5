"""Triplets against FACTUAL's human scene graphs and our own of video captions, their coverage, and the parsers' speed.

    python -m tests.bench.triplets          a few minutes; the last line is JSON
    python -m tests.bench.triplets --all    also 80,000 real captions in one run, with memory and mismatches

    python -m tests.bench.triplets --gold   our own gold captions alone, with every error of the tuning part

Needs factual/dev.csv and the annotations of the video data sets in UNITRIM_DATA (default ../shared/data).
A triplet counts as found if it equals a human one: lower case, subject and object words as noun lemmas, relation as is.
"""

import argparse
import csv
import functools
import itertools
import json
import os
import pickle
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from lemminflect import getLemma

from pipeline import scene_graph
from pipeline.scene_graph import describe
from pipeline.scene_graph.parsers import corenlp
from pipeline.scene_graph.parsers.trees import Trees

DATA = Path(os.environ.get("UNITRIM_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
TRIPLET = re.compile(r"\(([^()]*)\)")
FACTUAL = {"conventions": "factual", "form": "lemma", "cap": 1000}
Said = set[tuple[str, str, str]]
GOLD = Path(__file__).with_name("captions_gold.txt")


@functools.cache
def lemmas(name: str) -> str:
    """The words of a name as noun lemmas."""
    return " ".join((getLemma(word, "NOUN") or (word,))[0] for word in name.lower().split())


def factual(data: Path, split: str) -> list[tuple[str, Said]]:
    """Captions of FACTUAL with their human triplets of exactly three fields."""
    rows = []
    with open(data / "factual" / f"{split}.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            fields = [
                [field.strip().lower() for field in text.split(",")] for text in TRIPLET.findall(row["scene_graph"])
            ]
            rows.append((row["caption"], {(lemmas(f[0]), f[1], lemmas(f[2])) for f in fields if len(f) == 3}))
    return rows


def corpora(data: Path) -> dict[str, list[str]]:
    """Real captions: MSR-VTT's (of 1,347 videos), all of MSVD's, DiDeMo's of validation and test."""
    msrvtt = json.loads((data / "msrvtt_mini" / "MSRVTT_data.json").read_text(encoding="utf-8"))["sentences"]
    with open(data / "annotations" / "msvd" / "raw-captions.pkl", "rb") as file:
        msvd = pickle.load(file)
    didemo = [
        json.loads((data / "annotations" / "didemo" / f"{split}_data.json").read_text()) for split in ("val", "test")
    ]
    return {
        "msrvtt": [row["caption"] for row in msrvtt],
        "msvd": [" ".join(words) for video in sorted(msvd) for words in msvd[video]],
        "didemo": [row["description"] for rows in didemo for row in rows],
    }


def parsed(captions: list[str], parser: str, rules: str, trees: Trees | None = None) -> list[Said]:
    """Triplets as the command's --text makes them, ready to compare."""
    config = scene_graph.settings(FACTUAL | {"parser": parser, "rules": rules})
    trees = trees or Trees(parser)
    rows = [describe(caption, [caption], trees, config)["triplets"] for caption in captions]
    return [{(lemmas(s), relation.lower(), lemmas(o)) for s, relation, o, _ in row} for row in rows]


def score(truth: list[Said], said: list[Said]) -> dict[str, float]:
    """Micro precision, recall and F1 over triplets, exact sets, and F1 over the nouns that they name."""

    def nouns(triplets: Said) -> set[str]:
        return {name for s, relation, o in triplets for name in ((s,) if relation == "is" else (s, o))}

    right = sum(len(gold & found) for gold, found in zip(truth, said, strict=True))
    named = [(nouns(gold), nouns(found)) for gold, found in zip(truth, said)]
    precision, recall = right / max(sum(map(len, said)), 1), right / max(sum(map(len, truth)), 1)
    return {
        "f1": 2 * precision * recall / max(precision + recall, 1e-9),
        "precision": precision,
        "recall": recall,
        "exact": sum(gold == found for gold, found in zip(truth, said)) / len(truth),
        "noun_f1": 2 * sum(len(g & f) for g, f in named) / max(sum(len(g) + len(f) for g, f in named), 1),
    }


@dataclass
class Judged:
    """A caption with what it says; each item is the set of triplets of which any is right."""

    caption: str
    wanted: list[Said]
    allowed: Said  # right, but not missed

    def right(self, triplet: tuple[str, str, str]) -> bool:
        return triplet in self.allowed or any(triplet in item for item in self.wanted)


def gold(part: str) -> list[Judged]:
    """The captions of one part, `tune` or `test`, of the gold file; its notation is explained there."""
    text = GOLD.read_text(encoding="utf-8").partition(f"## {part}\n")[2].partition("\n## ")[0]
    rows = []
    for line in filter(None, text.split("\n")):
        caption, _, items = line.partition("=>")
        row = Judged(caption.strip(), [], set())
        for item in filter(None, map(str.strip, items.split(";"))):
            spelled = {triplet for one in item.lstrip("?").split("=") for triplet in spellings(one)}
            if item[0] == "?":
                row.allowed |= spelled
            else:
                row.wanted.append(spelled)
        rows.append(row)
    return rows


def spellings(item: str) -> list[tuple[str, str, str]]:
    """ "dog | brings/brings back | stick" is two triplets."""
    fields = [[word.strip() for word in field.split("/")] for field in item.split("|")]
    if len(fields) != 3:
        raise ValueError(f"{GOLD.name}: expected subject | relation | object, got {item!r}")
    return list(itertools.product(*fields))


def judge(rows: list[Judged], trees: Trees, parser: str, show: bool = False) -> dict[str, float]:
    """Micro precision and recall of the default conventions, word for word."""
    config = scene_graph.settings({"parser": parser})
    list(trees.prepare(scene_graph.lines([row.caption for row in rows])))
    said = right = wanted = found = 0
    for row in rows:
        triplets = {triplet[:3] for triplet in describe(row.caption, [row.caption], trees, config)["triplets"]}
        wrong = [triplet for triplet in triplets if not row.right(triplet)]
        missed = [item for item in row.wanted if not item & triplets]
        said, right = said + len(triplets), right + len(triplets) - len(wrong)
        wanted, found = wanted + len(row.wanted), found + len(row.wanted) - len(missed)
        if show and (wrong or missed):
            print(f"{parser}: {row.caption}")
            print("".join(f"  wrong  {' | '.join(triplet)}\n" for triplet in sorted(wrong)), end="")
            print("".join(f"  missed {' | '.join(min(item))}\n" for item in missed), end="")
    return {"precision": right / max(said, 1), "recall": found / max(wanted, 1)}


def gold_table(trees: Trees, show: bool = False) -> dict[str, float]:
    """Both parsers on both parts of the gold captions; the test part's figures by key. Test errors are never shown."""
    result = {}
    rows = []
    for backend in ("corenlp",) * (trees.parser == "corenlp") + ("shallow",):
        source = trees if backend == "corenlp" else Trees("shallow")
        for part in ("tune", "test"):
            judged = gold(part)
            scores = judge(judged, source, backend, show and part == "tune")
            rows.append(f"{f'{part}, {backend}':28} {len(judged):6} {scores['precision']:6.3f} {scores['recall']:6.3f}")
            if part == "test":
                result |= {f"gold_{name}_{backend}": value for name, value in scores.items()}
    print(f"{'gold captions, video':28} {'count':>6} {'P':>6} {'R':>6}")
    print("\n".join(rows))
    return result


def speed(captions: list[str], trees: Trees, config: dict) -> tuple[float, float, float]:
    """Captions a second, parsed and put into phrases; the share without a triplet; captions a second of Python's own CPU.

    The last is fair on a busy machine; of CoreNLP it counts the client and the rules only.
    """
    trees.memory.clear()
    begin, used = time.perf_counter(), time.process_time()
    for _ in trees.prepare(scene_graph.lines(captions)):
        pass
    rows = [describe(caption, [caption], trees, config) for caption in captions]
    wall, used = time.perf_counter() - begin, time.process_time() - used
    return len(captions) / wall, sum(row["fallback"] for row in rows) / len(rows), len(captions) / used


def memory(pid: int) -> float:
    """Resident GB of a process and its children."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,rss"], capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )[1:]
    rows = [tuple(map(int, line.split())) for line in listed if line.strip()]
    family = {pid}
    for _ in range(4):
        family |= {child for child, parent, _ in rows if parent in family}
    return sum(size for child, _, size in rows if child in family) / 2**20


def long_run(data: Path, trees: Trees) -> None:
    """80,000 real captions in one go: mismatches show as failed sentences, memory must stay flat."""
    captions = list(dict.fromkeys(caption for part in corpora(data).values() for caption in part))[:80_000]
    lines = list(dict.fromkeys(scene_graph.lines(captions)))
    done, begin, sizes = 0, time.perf_counter(), []
    for batch in trees.annotate(lines):
        done += len(batch)
        if done // 10_000 != (done - len(batch)) // 10_000:
            sizes.append(memory(os.getpid()))
            rate = done / (time.perf_counter() - begin)
            print(
                f"  {done:6} sentences, {rate:5.0f}/s, {sizes[-1]:.2f} GB with Java, {trees.failed} failed", flush=True
            )
    spread = max(sizes) - min(sizes)
    print(f"{len(captions)} captions, {len(lines)} sentences: {trees.failed} mismatched; memory within {spread:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="80,000 captions in one run as well")
    parser.add_argument("--gold", action="store_true", help="the gold captions alone, with the tuning part's errors")
    args = parser.parse_args()
    if args.gold:
        with Trees("auto") as trees:
            print(json.dumps({name: round(value, 4) for name, value in gold_table(trees, show=True).items()}))
        return
    if not (DATA / "factual").exists():
        raise SystemExit(f"no factual/dev.csv in {DATA}; type: export UNITRIM_DATA=/path/to/data")
    captions, truth = zip(*factual(DATA, "dev"))
    corpus = corpora(DATA)
    result: dict[str, float] = {}
    with Trees("auto") as trees:
        real = trees.parser == "corenlp"
        if real:
            warm = [caption for part in corpus.values() for caption in part[::9]][:4000]
            speed(warm, trees, scene_graph.settings({}))
            list(trees.prepare(scene_graph.lines(list(captions))))
        kinds = [("extended", "corenlp"), ("stanford", "corenlp")] * real + [("extended", "shallow")]
        print(f"{'FACTUAL dev':28} {'F1':>6} {'P':>6} {'R':>6} {'exact':>6} {'nouns':>6}")
        for rules, backend in kinds:
            source = trees if backend == "corenlp" else Trees("shallow")
            scores = score(list(truth), parsed(list(captions), backend, rules, source))
            print(f"{rules + ' over ' + backend:28} " + " ".join(f"{value:6.3f}" for value in scores.values()))
            key = "f1_shallow" if backend == "shallow" else f"f1_{rules}"
            result[key] = scores["f1"]
            if rules == "extended":
                result["noun_f1"] = min(scores["noun_f1"], result.get("noun_f1", 1.0))
        print()
        result |= gold_table(trees)
        print(f"\n{'captions, video conventions':28} {'count':>7} {'zero':>6} {'per s':>7} {'per CPU s':>10}")
        for backend in ("corenlp",) * real + ("shallow",):
            source = trees if backend == "corenlp" else Trees("shallow")
            rates = []
            for name, texts in corpus.items():
                texts = texts[:: max(len(texts) // 4000, 1)][:4000]
                rate, zero, used = max(
                    speed(texts, source, scene_graph.settings({})) for _ in range(1 if backend == "corenlp" else 3)
                )
                print(f"{name + ', ' + backend:28} {len(texts):7} {zero:6.3f} {rate:7.0f} {used:10.0f}", flush=True)
                rates.append(rate)
                result[f"zero_{name}"] = max(zero, result.get(f"zero_{name}", 0.0))
            result[f"{backend}_per_s"] = sum(rates) / len(rates)
        if args.all and real:
            long_run(DATA, trees)
    if not real:
        print(f"CoreNLP was not measured: {corenlp.missing()}")
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


if __name__ == "__main__":
    main()
