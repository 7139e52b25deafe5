"""A small rendered world with a known truth: things, scripts of events, pictures, and sentences that say what happens.

A scene is a place and one to three things; a script is one or two steps that happen one after the other. Three scenes make
a group of look-alikes: the same things in another event or order (`motion`), or the same script with attributes swapped
between the things (`swap`). Every function is a pure function of the random generator or the scene that it is given.
"""

from dataclasses import dataclass, replace
from random import Random

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
