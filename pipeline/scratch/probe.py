"""Linear probes: what can be read from a trained CLIP's embeddings.

python -m pipeline.scratch.probe --dataset demo
"""

from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline import params, stage
from pipeline.scratch.stills import draw, still_scene


def ridge_regression(features: Tensor, target: Tensor, half: int) -> Tensor:
    """Fit a linear map on the first `half` rows; its answer for the rest."""
    features = F.normalize(features, dim=-1).double()
    features = torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], 1)
    known = features[:half]
    weight = torch.linalg.solve(known.T @ known + 1e-3 * torch.eye(known.shape[1]), known.T @ target[:half].double())
    return features[half:] @ weight


def r_squared(features: Tensor, values: list[float]) -> float:
    """R² of a number, on rows that the map was not fitted on."""
    target, half = torch.tensor(values)[:, None], len(values) * 2 // 3
    rest = target[half:].double()
    error = (ridge_regression(features, target, half) - rest).square().sum()
    return 1 - (error / (rest - rest.mean()).square().sum()).item()


def read_out(features: Tensor, labels: list[str]) -> tuple[float, float]:
    """Share of labels that a linear map names right, and the share of the commonest label, which is chance."""
    names, half = sorted(set(labels)), len(labels) * 2 // 3
    target = F.one_hot(torch.tensor([names.index(label) for label in labels]), len(names))
    right = ridge_regression(features, target, half).argmax(1) == target[half:].argmax(1)
    return right.double().mean().item(), target[half:].double().mean(0).max().item()


@torch.inference_mode()
def probe(folder: Path, count: int = 1500, seed: int = 1) -> list[tuple[str, str, str, str]]:
    """Rows of (features, what is asked of them, answer, chance), by linear maps on stills and scripts never trained on."""
    from pipeline.datasets.demo import captions, world
    from pipeline.encoders.towers import FrozenCLIP

    towers = FrozenCLIP.load(folder, precision="fp32")
    random, rows = Random(f"probe {seed}"), []

    def add(source: str, asked: str, features: Tensor, labels: list[str]) -> None:
        right, chance = read_out(features, labels)
        rows.append((source, asked, f"{100 * right:.0f} %", f"{100 * chance:.0f} %"))

    for things, source in ((1, "frame, one thing"), (3, "frame, three things")):
        scenes = [still_scene(random, things) for _ in range(count)]
        pixels = np.stack([draw(scene, towers.size, random) for scene in scenes])
        frame = torch.cat(
            [towers.encode_images(torch.from_numpy(some))[0] for some in np.array_split(pixels, count // 50)]
        )
        if things == 1:
            thing, x, y, scale = zip(*(scene.shown[0] for scene in scenes))
            rows.append((source, "x", f"R² {r_squared(frame, x):.2f}", "0"))
            rows.append((source, "y", f"R² {r_squared(frame, y):.2f}", "0"))
            width = [world.SIZES[t.size] * s for t, s in zip(thing, scale)]
            rows.append((source, "width", f"R² {r_squared(frame, width):.2f}", "0"))
            for name in ("shape", "colour"):
                add(source, name, frame, [getattr(t, name) for t in thing])
        else:
            add(
                source, "is there a ring", frame, [str("ring" in {s[0].shape for s in scene.shown}) for scene in scenes]
            )
            add(
                source,
                "is there a red thing",
                frame,
                [str("red" in {s[0].colour for s in scene.shown}) for scene in scenes],
            )
            red = [(i, s[0]) for i, scene in enumerate(scenes) for s in scene.shown if s[0].colour == "red"]
            add(source, "shape of the red thing", frame[[i for i, _ in red]], [t.shape for _, t in red])
        add(source, "place", frame, [scene.place for scene in scenes])
    scenes = [scene for _ in range(count) for scene in world.draw_group(random)[:1]]
    texts = [captions.caption(scene, random.choice(captions.WAYS), random) for scene in scenes]
    sentence = torch.stack([word[-1] for _, word in towers.encode_texts(texts)])
    add("sentence", "first event", sentence, [scene.steps[0].event for scene in scenes])
    two = [i for i, scene in enumerate(scenes) if len(scene.steps) == 2]
    add("sentence", "second event", sentence[two], [scenes[i].steps[1].event for i in two])
    moves = []
    while len(moves) < count:
        scene = world.draw_group(random)[0]
        if len(scene.steps) == 1 and scene.steps[0].event == "move":
            moves.append(scene)
    actors = [scene.things[scene.steps[0].actor] for scene in moves]
    texts = [captions.caption(scene, "train", random) for scene in moves]
    sentence = torch.stack([word[-1] for _, word in towers.encode_texts(texts)])
    add("sentence", "start zone of a move", sentence, [actor.zone for actor in actors])
    add("sentence", "end zone of a move", sentence, [scene.steps[0].zone for scene in moves])
    add("sentence", "shape that moves", sentence, [actor.shape for actor in actors])
    add("sentence", "colour that moves", sentence, [actor.colour for actor in actors])
    return rows


@stage.command
def main() -> None:
    arguments = stage.parse_arguments(
        __doc__, probe={"action": "store_true", "help": "print what the features of a trained CLIP hold"}
    )
    config = params.read_dataset(arguments.dataset)
    folder = params.cache_folder(config["name"], "clip")
    if not arguments.probe:
        raise SystemExit(
            f"nothing to do; train it with: python -m pipeline.clip --dataset {config['name']}, or add --probe"
        )
    stage.require(folder / "clip.json", "clip", config["name"])
    print(f"{'features':<22}{'asked':<26}{'answer':>9}{'chance':>9}")
    for source, asked, answer, chance in probe(folder):
        print(f"{source:<22}{asked:<26}{answer:>9}{chance:>9}")


if __name__ == "__main__":
    main()
