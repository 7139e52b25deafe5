"""Draw a scene of the demo world frame by frame."""

import math
from functools import lru_cache
from random import Random

import numpy
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from pipeline.datasets.demo.world import COLOURS, SIZES, ZONES, Scene, Thing, after

RIM = (10, 10, 10)
# ---- pictures


@lru_cache(maxsize=4096)
def mask(shape: str, size: int) -> Image.Image:
    """A shape in a square of `size` pixels, filled."""
    image = Image.new("L", (size, size))
    draw, last, middle = ImageDraw.Draw(image), size - 1, (size - 1) / 2
    third = size * 0.33
    if shape in ("ball", "ring"):
        inset = size * 0.06 if shape == "ball" else 0
        draw.ellipse((inset, inset, last - inset, last - inset), fill=255)
    if shape == "ring":
        hole = size * 0.25
        draw.ellipse((hole, hole, last - hole, last - hole), fill=0)
    if shape in ("bar", "cross"):
        draw.rectangle((0, third, last, last - third), fill=255)
    if shape in ("pole", "cross"):
        draw.rectangle((third, 0, last - third, last), fill=255)
    if shape == "triangle":
        draw.polygon([(middle, 0), (last, last), (0, last)], fill=255)
    draw.rectangle((0, 0, last, last), outline=0)  # so that a rim can be cut from every side
    return image


@lru_cache(maxsize=4096)
def sprite(shape: str, colour: str, size: int) -> tuple[Image.Image, Image.Image]:
    """Pixels and mask of one thing: its colour within a black rim, by which its shape shows whatever the colours are."""
    outline = mask(shape, size)
    inner = outline.filter(ImageFilter.MinFilter(2 * max(1, round(size * 0.07)) + 1))
    return Image.composite(
        Image.new("RGB", (size, size), COLOURS[colour]), Image.new("RGB", (size, size), RIM), inner
    ), outline


@lru_cache(maxsize=64)
def ground(place: str, width: int) -> Image.Image:
    """The picture of a place, empty: muted, so that things stand out."""
    y, x = numpy.mgrid[0:width, 0:width] / width
    colour, grain = {
        "sand": ((206, 186, 144), 6 * numpy.sin(9 * x + 5 * y)),
        "grass": ((150, 186, 130), 8 * numpy.sin(40 * x)),
        "snow": ((224, 230, 238), -14 * y),
        "water": ((140, 182, 206), 8 * numpy.sin(30 * y + 2 * numpy.sin(12 * x))),
        "bricks": (
            (150, 104, 90),
            16.0 * (((y * 8) % 1 < 0.14) | ((x * 4 + 0.5 * ((y * 8).astype(int) % 2)) % 1 < 0.07)),
        ),
    }[place]
    pixels = numpy.array(colour)[None, None, :] + grain[:, :, None]
    return Image.fromarray(pixels.clip(0, 255).astype(numpy.uint8))


def picture(place: str, shown: list[tuple[Thing, float, float, float]], width: int) -> Image.Image:
    """Draw things at (x, y) with a scale, all in shares of the picture's width; drawn at twice the size, then halved."""
    canvas = ground(place, 2 * width).copy()
    for thing, x, y, scale in shown:
        size = max(6, round(2 * width * SIZES[thing.size] * scale))
        paint, outline = sprite(thing.shape, thing.colour, size)
        canvas.paste(paint, (round(2 * width * x - size / 2), round(2 * width * y - size / 2)), outline)
    return canvas.reduce(2)


def state(scene: Scene, moment: float, jitter: list[tuple[float, float]]) -> list[tuple[Thing, float, float, float]]:
    """What is to be seen at `moment` (0 to 1): each visible thing with x, y and scale. `jitter` shifts each thing."""
    things = scene.things
    zones = [thing.zone for thing in things]
    where = [ZONES[zone] for zone in zones]
    scale = [1.0] * len(things)
    lift = [0.0] * len(things)
    visible = [
        not any(s.actor == i and s.event in ("appear", "flash") for s in scene.steps) for i in range(len(things))
    ]
    for number, step in enumerate(scene.steps):
        share = progress(moment, number, len(scene.steps), step.pace)
        i, j = step.actor, step.other
        begin, zones = zones, after(step, zones)
        if step.event in ("move", "swap", "follow"):
            for who in (i, j) if j >= 0 else (i,):
                lag = 0.3 if step.event == "follow" else 0.0  # the follower sets out later
                own = min(max((share - lag) / (1 - lag), 0), 1) if who == i else min(share / (1 - lag), 1)
                (x0, y0), (x1, y1) = ZONES[begin[who]], ZONES[zones[who]]
                bend = 0.22 * math.sin(math.pi * own) if step.event == "swap" else 0.0  # they pass each other
                way = math.hypot(x1 - x0, y1 - y0)
                if share > 0:
                    where[who] = (
                        x0 + own * (x1 - x0) - bend * (y1 - y0) / way,
                        y0 + own * (y1 - y0) + bend * (x1 - x0) / way,
                    )
        elif step.event == "grow":
            scale[i] *= 1 + 0.8 * share
        elif step.event == "shrink":
            scale[i] *= 1 - 0.5 * share
        elif step.event == "appear":
            visible[i] = share >= 0.5
        elif step.event == "vanish":
            visible[i] = visible[i] and share < 0.5
        elif step.event == "flash":
            visible[i] = 0.3 <= share < 0.7
        elif step.event == "blink":
            visible[i] = not (0 < share < 1 and int(share * 6) % 2 == 1)
        elif step.event == "bounce":
            lift[i] = 0.16 * abs(math.sin(3 * math.pi * share))
    return [
        (thing, min(max(x + dx, 0.1), 0.9), min(max(y + dy - up, 0.1), 0.9), size)
        for thing, (x, y), (dx, dy), up, size, seen in zip(things, where, jitter, lift, scale, visible)
        if seen
    ]


def progress(moment: float, number: int, count: int, pace: str) -> float:
    """How far step `number` of `count` has come at `moment`: quick ones take a third of the time that slow ones do."""
    begin, end = (0.1, 0.9) if count == 1 else ((0.06, 0.48), (0.52, 0.94))[number]
    length = (end - begin) * {"slowly": 1.0, "": 0.7, "quickly": 0.35}[pace]
    start = (begin + end - length) / 2
    return min(max((moment - start) / length, 0.0), 1.0)


def frames(scene: Scene, random: Random, count: int, width: int) -> list[numpy.ndarray]:
    """The clip: `count` pictures, (width, width, 3) uint8."""
    jitter = [(random.uniform(-0.03, 0.03), random.uniform(-0.03, 0.03)) for _ in scene.things]
    light = random.uniform(-14, 14)
    base = ImageChops.add if light > 0 else ImageChops.subtract
    shade = Image.new("RGB", (width, width), (int(abs(light)),) * 3)
    return [
        numpy.asarray(base(picture(scene.place, state(scene, number / (count - 1), jitter), width), shade))
        for number in range(count)
    ]
