"""A small rendered world with a known truth: things, scripts of events, pictures, and sentences that say what happens.

A scene is a place and one to three things; a script is one or two steps that happen one after the other. Three scenes make
a group of look-alikes: the same things in another event or order (`motion`), or the same script with attributes swapped
between the things (`swap`). Every function is a pure function of the random generator or the scene that it is given.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

import numpy
from PIL import Image, ImageChops, ImageDraw, ImageFilter

VERSION = 9  # raise it when a clip's pixels or a caption's words change
SHAPES = ("ball", "bar", "pole", "ring", "cross", "triangle")
COLOURS = {
    "red": (214, 30, 38),
    "green": (24, 158, 52),
    "blue": (30, 64, 220),
    "yellow": (246, 220, 30),
    "purple": (146, 40, 182),
    "orange": (250, 128, 14),
    "white": (250, 250, 250),
    "pink": (255, 150, 190),
}
RIM = (10, 10, 10)
SIZES = {"small": 0.24, "large": 0.38}  # of the picture's width
PLACES = ("sand", "grass", "snow", "water", "bricks")
ZONES = {
    "top left": (0.18, 0.18),
    "top": (0.5, 0.18),
    "top right": (0.82, 0.18),
    "left": (0.18, 0.5),
    "middle": (0.5, 0.5),
    "right": (0.82, 0.5),
    "bottom left": (0.18, 0.82),
    "bottom": (0.5, 0.82),
    "bottom right": (0.82, 0.82),
}
LONE = ("move", "grow", "shrink", "appear", "vanish", "flash", "blink", "bounce")  # events of one thing
PAIRED = ("follow", "swap")  # events of two things
REVERSED = {"grow": "shrink", "shrink": "grow", "appear": "vanish", "vanish": "appear"}
SYMMETRIC = ("flash", "blink", "bounce", "swap")
LONGEST = 30  # words and commas of a caption, so that 32 tokens with start and end hold it


@dataclass(frozen=True)
class Thing:
    """One thing and the zone in which it is when the clip begins."""

    shape: str
    colour: str
    size: str
    zone: str


@dataclass(frozen=True)
class Step:
    """One event: who does it, the zone it leads to (move, follow), the second thing (follow, swap), and the pace."""

    event: str
    actor: int
    zone: str = ""
    other: int = -1
    pace: str = ""  # "", "slowly" or "quickly"


@dataclass(frozen=True)
class Scene:
    """Everything there is to know of one clip; `telling` names the attributes that set it apart from its look-alikes."""

    things: tuple[Thing, ...]
    place: str
    steps: tuple[Step, ...]
    telling: tuple[str, ...] = ()
    kind: str = "motion"
    pair: tuple[int, ...] = ()  # the things between which attributes were swapped


# ---- scenes


def draw_things(random: Random, count: int) -> tuple[Thing, ...]:
    """`count` things in different zones, no two of the same shape or of the same colour."""
    shapes, colours = random.sample(SHAPES, count), random.sample(sorted(COLOURS), count)
    zones = random.sample(sorted(ZONES), count)
    return tuple(
        Thing(shape, colour, random.choice(sorted(SIZES)), zone) for shape, colour, zone in zip(shapes, colours, zones)
    )


def draw_steps(random: Random, things: tuple[Thing, ...], count: int) -> tuple[Step, ...]:
    """A script that the things can play: nobody acts while hidden, no two end in one zone."""
    while True:
        steps, zones = [], [thing.zone for thing in things]
        for _ in range(count):
            paired = len(things) > 1 and random.random() < 0.25
            actor, *rest = random.sample(range(len(things)), len(things))
            event = random.choice(PAIRED) if paired else random.choice((*LONE, "move", "move", "flash"))
            free = [zone for zone in ZONES if zone not in zones]
            steps.append(
                Step(
                    event,
                    actor,
                    zone=random.choice(free) if event in ("move", "follow") else "",
                    other=rest[0] if paired else -1,
                    pace=random.choice(("", "", "slowly", "quickly")),
                )
            )
            zones = after(steps[-1], zones)
        if playable(tuple(steps)):
            return tuple(steps)


def after(step: Step, zones: list[str]) -> list[str]:
    """Where everything is once a step is over; who follows ends where the leader began."""
    zones = list(zones)
    if step.event == "move":
        zones[step.actor] = step.zone
    elif step.event == "follow":
        zones[step.actor], zones[step.other] = zones[step.other], step.zone
    elif step.event == "swap":
        zones[step.actor], zones[step.other] = zones[step.other], zones[step.actor]
    return zones


def playable(steps: tuple[Step, ...]) -> bool:
    """Whether every actor is there when it acts, and no step repeats the one before."""
    hidden = {step.actor for step in steps if step.event in ("appear", "flash")}
    busy = [actor for step in steps for actor in (step.actor, step.other) if actor >= 0]
    gone = {step.actor for step in steps[:-1] if step.event == "vanish"}
    alone = all(busy.count(actor) == 1 for actor in hidden)
    late = {actor for step in steps[1:] for actor in (step.actor, step.other)}
    return alone and not gone & late and len({(step.event, step.actor) for step in steps}) == len(steps)


def reverse(scene: Scene) -> Scene:
    """The scene played backwards, as one would tell it: steps in the other order, each undone."""
    zones, steps = [thing.zone for thing in scene.things], []
    for step in scene.steps:
        before, zones = zones, after(step, zones)
        if step.event == "move":
            steps.append(replace(step, zone=before[step.actor]))
        elif step.event == "follow":  # backwards, the leader follows
            steps.append(replace(step, actor=step.other, other=step.actor, zone=before[step.actor]))
        else:
            steps.append(replace(step, event=REVERSED.get(step.event, step.event)))
    things = tuple(replace(thing, zone=zone) for thing, zone in zip(scene.things, zones))
    return replace(scene, things=things, steps=tuple(reversed(steps)))


def draw_group(random: Random) -> tuple[Scene, Scene, Scene]:
    """Three look-alikes, in random order."""
    kind = random.choice(("motion", "swap"))
    while True:
        things = draw_things(random, random.choice((2, 2, 3)) if kind == "swap" else random.choice((1, 2, 2, 3)))
        scene = Scene(things, random.choice(PLACES), draw_steps(random, things, random.choice((1, 2))), kind=kind)
        group = motions(random, scene) if kind == "motion" else swaps(random, scene)
        if len(set(group)) == 3 and all(playable(member.steps) for member in group):
            random.shuffle(group)
            return tuple(group)


def motions(random: Random, scene: Scene) -> list[Scene]:
    """The scene, the scene backwards, and the same things with another script of as many steps."""
    if len(scene.steps) == 1 and scene.steps[0].event in SYMMETRIC:  # backwards it would be the same clip
        return []
    other = draw_steps(random, scene.things, len(scene.steps))
    if {(s.event, s.actor, s.zone) for s in other} == {(s.event, s.actor, s.zone) for s in scene.steps}:
        return []
    return [scene, reverse(scene), replace(scene, steps=other)]


def swaps(random: Random, scene: Scene) -> list[Scene]:
    """The scene and twice the same script with one attribute exchanged between its first actor and another thing."""
    one = scene.steps[0].actor
    others = [index for index in range(len(scene.things)) if index != one]
    acting = [index for index in others if any(index in (step.actor, step.other) for step in scene.steps)]
    two = scene.steps[0].other if scene.steps[0].other >= 0 else random.choice(acting or others)
    a, b = scene.things[one], scene.things[two]
    differing = [name for name in ("colour", "shape", "size") if getattr(a, name) != getattr(b, name)]
    chosen = random.sample(differing, 2)  # shape and colour always differ
    group = [replace(scene, telling=tuple(chosen), pair=(one, two))]
    for name in chosen:
        things = list(scene.things)
        things[one], things[two] = (
            replace(a, **{name: getattr(b, name)}),
            replace(b, **{name: getattr(a, name)}),
        )
        group.append(replace(scene, things=tuple(things), telling=tuple(chosen), pair=(one, two)))
    return group


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
