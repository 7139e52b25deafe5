"""Captioned stills of the demo world, drawn for the scratch CLIP."""

import math
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from pipeline import progress
from pipeline.scratch.corpus import Corpus
from pipeline.scratch.recipe import Recipe

STILLS, SCRIPTS = 20000, 12000  # of `demo`: pictures, and scripts that are told but not rendered
# ---- what it learns from


@dataclass(frozen=True)
class Still:
    """A picture of the world: what is shown where (thing, x, y, scale), the zone nearest to each, and the place."""

    shown: tuple[tuple[Any, float, float, float], ...]
    zones: tuple[str, ...]
    place: str


def still_scene(random: Random, count: int) -> Still:
    """`count` things anywhere, apart from each other, some larger or smaller than their kind."""
    from pipeline.datasets.demo import world

    shown, zones = [], []
    for thing in world.draw_things(random, count):
        while True:
            zone = random.choice(sorted(world.ZONES))
            x, y = (min(max(value + random.uniform(-0.14, 0.14), 0.1), 0.9) for value in world.ZONES[zone])
            if all(math.hypot(x - other[1], y - other[2]) > 0.26 for other in shown):
                break
        shown.append((thing, x, y, random.choice((1.0, 1.0, 1.0, 0.6, 1.5))))
        zones.append(zone)
    return Still(tuple(shown), tuple(zones), random.choice(world.PLACES))


def draw(scene: Still, size: int, random: Random) -> np.ndarray:
    """The picture (S, S, 3) uint8, through one of the widths and lights that clips have."""
    from PIL import Image

    from pipeline.datasets.demo import reader, render

    drawn = render.picture(scene.place, list(scene.shown), random.choice(reader.WIDTHS))
    pixels = np.asarray(drawn.resize((size, size), Image.Resampling.BICUBIC)).astype(np.int16)
    return (pixels + random.randint(-14, 14)).clip(0, 255).astype(np.uint8)


def stills(config: dict[str, Any], recipe: Recipe, seed: int, count: int = STILLS, scripts: int = SCRIPTS) -> Corpus:
    """The corpus of `demo`: stills told in every way of speaking, and scripts that are told so and not rendered."""
    from pipeline.datasets.demo import captions, world

    random = Random(f"stills {seed}")
    pictures, told = np.empty((count, 1, recipe.size, recipe.size, 3), np.uint8), []
    for index in progress.progress(range(count), f"{config['name']}: stills", "picture"):
        scene = still_scene(random, random.choice((1, 1, 2, 2, 3)))
        pictures[index, 0] = draw(scene, recipe.size, random)
        said = [(thing, zone) for (thing, *_), zone in zip(scene.shown, scene.zones)]
        told.append(captions.still_captions(said, scene.place, random))
    scripts_told = [
        [
            *(captions.caption(scene, way, random) for way in captions.WAYS),
            captions.script_phrase(scene, random.choice(captions.WAYS), random),
        ]
        for _ in range(scripts // 3)
        for scene in world.draw_group(random)
    ]
    return Corpus(pictures, told, scripts_told)
