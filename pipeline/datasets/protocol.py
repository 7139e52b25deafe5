"""How a dataset stands against its protocol: counts, missing and surplus files, what splits share."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable

from pipeline.datasets import SPLITS, Item
from pipeline.datasets.validate import Manifest

SHOWN = 5  # examples of each finding


def compare(
    expected: dict[str, dict[str, int]] | None, items: list[Item], manifest: Manifest, surplus: list[str]
) -> tuple[list[str], list[str]]:
    """Lines to print, and among them those that say where the protocol is not met.

    `items` is what the annotations list. Where no counts are expected the annotations are the protocol: then every reject
    is a difference. None is a folder that has no protocol, from which nothing can differ.
    """
    counted = {
        "videos": Counter(item.split for item, _, _ in manifest.items if item.kind != "image"),
        "photos": Counter(item.split for item, _, _ in manifest.items if item.kind == "image"),
        "captions": Counter(split for _, split in manifest.captions),
    }
    differences = []
    lines = [f"{'split':8}{'':10}{'expected':>10}{'found':>10}"]
    for split in SPLITS:
        for kind, found in counted.items():
            wanted = expected.get(split, {}).get(kind, 0) if expected else None
            if kind == "photos":
                wanted = wanted or None
            if wanted or found[split]:
                lines.append(f"{split:8}{kind:10}{'-' if wanted is None else wanted:>10}{found[split]:>10}")
            if wanted not in (None, found[split]):
                differences.append(f"{split} {kind}: expected {wanted}, found {found[split]}")
    rejects = [*manifest.rejected_items, *manifest.rejected_captions]
    if expected == {} and rejects:
        differences.append(f"{len(rejects)} rejects, and no protocol that allows for any")
    lines += list_findings(manifest, items, surplus)
    fine = "as the protocol says" if expected is not None else f"no protocol to differ from; {len(rejects)} left out"
    verdict = [f"DIFFERS: {difference}" for difference in differences] or [fine]
    return lines + verdict, differences


def list_findings(manifest: Manifest, items: list[Item], surplus: list[str]) -> list[str]:
    """What else a person should know, each with a few examples."""
    missing = [reject.id for reject in manifest.rejected_items if reject.reason == "missing video"]
    lines = [name_examples("missing files", missing), name_examples("surplus media files", surplus)]
    reasons = defaultdict(list)
    for reject in (*manifest.rejected_items, *manifest.rejected_captions):
        reasons[reject.reason].append(reject.id)
    lines += [
        name_examples(f"rejected: {reason}", ids)
        for reason, ids in sorted(reasons.items())
        if reason != "missing video"
    ]
    lines.append(name_examples("ids in two splits", find_shared((item.video_id, item.split) for item in items)))
    hashes = [(content, item.split) for item, content, _ in manifest.items if content]
    path = {content: item.path for item, content, _ in reversed(manifest.items)}
    lines.append(name_examples("same content in two splits", [path[content] for content in find_shared(hashes)]))
    texts = [(caption.text.strip(), split) for caption, split in manifest.captions]
    lines.append(name_examples("same caption in two splits", find_shared(texts)))
    for split in SPLITS:
        mine = [text for text, own in texts if own == split]
        if repeated := len(mine) - len(set(mine)):
            lines.append(f"{split}: {len(mine)} captions, {len(mine) - repeated} distinct")
    told = {caption.video_id for caption, _ in manifest.captions}
    for kind, what in (("video", "videos"), ("image", "photos")):
        without = Counter(i.split for i, _, _ in manifest.items if i.kind == kind and i.video_id not in told)
        lines += [f"{split}: {count} {what} without a caption" for split, count in sorted(without.items())]
    return lines


def find_shared(pairs: Iterable[tuple[Hashable, str]]) -> list:
    """What occurs in more than one split, in order of first occurrence."""
    splits = defaultdict(set)
    for value, split in pairs:
        splits[value].add(split)
    return [value for value, where in splits.items() if len(where) > 1]


def name_examples(what: str, examples: list[str]) -> str:
    """`what: n (some of them)`."""
    some = ", ".join(repr(example)[:80] for example in examples[:SHOWN])
    return f"{what}: {len(examples)}" + (f" ({some}{', ...' if len(examples) > SHOWN else ''})" if examples else "")
