"""What people say of a scene: captions of clips in three ways of speaking, and captions of stills.

The ways `train`, `val` and `test` share the words for colours and shapes and differ in verbs, syntax, joints and some adjectives.
"""

from dataclasses import dataclass
from random import Random

from pipeline.datasets.demo.world import LONGEST, Scene, Step, Thing, after

# {a} who acts, {b} the second thing, {f} and {t} from and to, {p} the pace with a space before it
CLAUSES = {
    "train": {
        "move": (
            "{a} moves{p} from {f} to {t}",
            "{a} goes{p} from {f} to {t}",
            "{a} slides{p} to {t}",
            "{a} that is at {f} moves{p} to {t}",
            "{a} is pushed{p} from {f} to {t}",
        ),
        "grow": ("{a} grows{p}", "{a} gets larger{p}", "{a} at {f} grows{p}"),
        "shrink": ("{a} shrinks{p}", "{a} gets smaller{p}", "{a} at {f} shrinks{p}"),
        "appear": ("{a} appears at {f}", "{a} shows up at {f}"),
        "vanish": ("{a} vanishes", "{a} at {f} disappears"),
        "flash": ("{a} flashes at {f}", "{a} is seen at {f} for a moment"),
        "blink": ("{a} blinks{p}", "{a} at {f} turns on and off"),
        "bounce": ("{a} bounces{p}", "{a} at {f} hops up and down"),
        "follow": ("{a} follows {b}{p} to {t}", "{b} is followed by {a}{p} to {t}"),
        "swap": ("{a} and {b} swap places{p}", "{a} swaps with {b}{p}"),
    },
    "val": {
        "move": (
            "{a} travels{p} from {f} to {t}",
            "{a} leaves {f} and reaches {t}{p}",
            "{a} is carried{p} from {f} to {t}",
        ),
        "grow": ("{a} becomes bigger{p}", "{a} that is at {f} becomes bigger{p}"),
        "shrink": ("{a} becomes tiny{p}", "{a} that is at {f} becomes tiny{p}"),
        "appear": ("{a} comes into view at {f}",),
        "vanish": ("{a} goes away", "{a} that is at {f} goes away"),
        "flash": ("{a} is briefly shown at {f}",),
        "blink": ("{a} flickers{p}", "{a} that is at {f} flickers{p}"),
        "bounce": ("{a} jumps up and down{p}",),
        "follow": ("{a} goes after {b}{p} to {t}",),
        "swap": ("{a} and {b} trade places{p}",),
    },
    "test": {
        "move": (
            "{a} drifts{p} from {f} over to {t}",
            "{a} is dragged{p} from {f} to {t}",
            "from {f} to {t}{p} goes {a}",
            "{a} that starts at {f} heads{p} to {t}",
        ),
        "grow": ("{a} swells{p}", "{a} is enlarged{p}", "{a} near {f} swells{p}"),
        "shrink": ("{a} dwindles{p}", "{a} is made smaller{p}", "{a} near {f} dwindles{p}"),
        "appear": ("{a} turns up at {f}", "at {f} emerges {a}"),
        "vanish": ("{a} is removed", "{a} near {f} fades away"),
        "flash": ("{a} pops up at {f} for an instant", "for an instant {a} pops up at {f}"),
        "blink": ("{a} twinkles{p}", "{a} near {f} twinkles{p}"),
        "bounce": ("{a} leaps again and again{p}", "{a} near {f} leaps again and again"),
        "follow": ("{a} chases {b}{p} to {t}", "{b} is chased by {a}{p} to {t}"),
        "swap": ("{a} and {b} exchange positions{p}", "{a} takes the position of {b} and the other way round"),
    },
}
JOINTS = {
    "train": ("first {x}, then {y}", "{x} and then {y}", "{x} before {y}"),
    "val": ("at first {x}, and later {y}", "{x}, and afterwards {y}"),
    "test": ("to begin with {x}, and finally {y}", "{x}, and at the end {y}"),
}
STANDING = {
    "train": ("{s} while {c} stays at {z}", "{s}, and {c} is at {z}"),
    "val": ("{s} as {c} rests at {z}",),
    "test": ("{s} next to {c} that remains at {z}", "beside {c} at {z} {s}"),
}
GROUND = {"train": ("{s} on the {g}", "on the {g} {s}"), "val": ("{s} over the {g}",), "test": ("{s} upon the {g}",)}
SAID = {  # words that one way of speaking puts in the place of another's
    "train": {},
    "val": {"small": "little", "large": "big", "middle": "center"},
    "test": {"small": "tiny", "large": "huge", "top": "upper", "bottom": "lower"},
}
WAYS = tuple(CLAUSES)


def article(words: str) -> str:
    """`words` after the indefinite article."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def zone_words(zone: str, way: str, random: Random) -> str:
    """A zone as said: "the top left corner", "the upper left", "the left side"."""
    said = " ".join(SAID[way].get(word, word) for word in zone.split())
    if way == "test" and " " not in zone and zone != "middle":
        return f"the {said} edge" if random.random() < 0.5 else f"the {zone}"
    if " " in zone and random.random() < 0.4:
        said += " corner"
    return f"the {said}"


@dataclass
class Speaker:
    """Says one scene; remembers what it has named, so that a second mention is definite or a pronoun."""

    scene: Scene
    way: str
    random: Random
    brief: bool  # leave out whatever does not tell the scene from its look-alikes

    def name(self, index: int) -> str:
        """One thing with its telling attributes and some others."""
        thing = self.scene.things[index]
        said = SAID[self.way]
        words = []
        for attribute in ("size", "colour", "shape"):
            word = getattr(thing, attribute)
            always = attribute in ("colour", "shape") or attribute in self.scene.telling
            if always or (not self.brief and self.random.random() < 0.4):
                words.append(said.get(word, word))
        phrase = " ".join(words)
        if index in self.named:
            return f"the {' '.join(words[-2:])}"
        self.named.add(index)
        return article(phrase) if self.random.random() < 0.6 else f"the {phrase}"

    def clause(self, step: Step, zones: list[str], pronoun: bool) -> str:
        """One step as a clause, `zones` being where the things are as it begins."""
        pattern = self.random.choice(CLAUSES[self.way][step.event])
        pronoun = pronoun and pattern.startswith("{a} ") and not pattern.startswith(("{a} that", "{a} at", "{a} near"))
        values = {
            "a": "it" if pronoun else self.name(step.actor),
            "b": self.name(step.other) if step.other >= 0 else "",
            "f": zone_words(zones[step.actor], self.way, self.random),
            "t": zone_words(step.zone, self.way, self.random) if step.zone else "",
            "p": f" {step.pace}" if step.pace and not self.brief else "",
        }
        return pattern.format(**values)

    def say(self) -> str:
        """The whole scene as one sentence."""
        self.named: set[int] = set()
        random, scene = self.random, self.scene
        zones, clauses = [thing.zone for thing in scene.things], []
        for number, step in enumerate(scene.steps):
            alone = number > 0 and step.actor == scene.steps[0].actor and step.other < 0 and scene.steps[0].other < 0
            clauses.append(self.clause(step, zones, alone and random.random() < 0.6))
            zones = after(step, zones)
        sentence = clauses[0]
        if len(clauses) > 1:
            sentence = random.choice(JOINTS[self.way]).format(x=clauses[0], y=clauses[1])
        standing = [i for i in range(len(scene.things)) if i not in self.named]
        for index in standing:
            if index in scene.pair or (not self.brief and random.random() < 0.5):
                pattern = random.choice(STANDING[self.way])
                zone = zone_words(scene.things[index].zone, self.way, random)
                sentence = pattern.format(s=sentence, c=self.name(index), z=zone)
        if not self.brief and random.random() < 0.3:
            sentence = random.choice(GROUND[self.way]).format(s=sentence, g=scene.place)
        return sentence


def caption(scene: Scene, way: str, random: Random) -> str:
    """One sentence on a clip, at most `LONGEST` words and commas; what does not fit is left out."""
    for attempt in range(40):
        sentence = Speaker(scene, way, random, brief=attempt > 5).say()
        if len(sentence.replace(",", " ,").split()) <= LONGEST:
            return sentence
    return " ".join(sentence.split()[:LONGEST])


def thing_words(thing: Thing, way: str, random: Random, share: float = 0.5) -> str:
    """A thing as a noun phrase without article, each attribute said with probability `share`, its shape always."""
    said = SAID[way]
    words = [getattr(thing, a) for a in ("size", "colour") if random.random() < share]
    return " ".join([said.get(word, word) for word in words] + [thing.shape])


def still_captions(things: list[tuple[Thing, str]], place: str, random: Random) -> list[str]:
    """What is said of a picture, given each thing with its zone: a description in each way of speaking, and a phrase."""
    texts = []
    for way in WAYS:
        parts = []
        for thing, zone in random.sample(things, len(things)):
            at = random.choice(("at", "near")) if way == "test" else "at"
            parts.append(f"{article(thing_words(thing, way, random, 0.85))} {at} {zone_words(zone, way, random)}")
        ground = f" {random.choice(('on', 'over', 'upon'))} the {place}" if random.random() < 0.5 else ""
        texts.append(" ".join((" and ".join(parts) + ground).split()[:LONGEST]))
    return [*texts, still_phrase(things, random.choice(WAYS), random)]


def still_phrase(things: list[tuple[Thing, str]], way: str, random: Random) -> str:
    """A few words on a picture, as triplets are: "star color red", "small bar", "ball at left", "a ball and a bar"."""
    (thing, zone), *rest = random.sample(things, len(things))
    name, where = thing_words(thing, way, random), zone_words(zone, way, random).removeprefix("the ")
    size = SAID[way].get(thing.size, thing.size)
    forms = [
        name,
        f"{thing.shape} color {thing.colour}",
        f"{thing.shape} size {size}",
        f"{thing.colour} {thing.shape}",
        f"{thing.shape} at {where}",
    ]
    if rest:
        forms.append(f"{article(name)} and {article(thing_words(rest[0][0], way, random, 0.7))}")
    return random.choice(forms)


def script_phrase(scene: Scene, way: str, random: Random) -> str:
    """One step of a script in a few words, as triplets are: "ball moves to left"."""
    number = random.randrange(len(scene.steps))
    zones = [thing.zone for thing in scene.things]
    for step in scene.steps[:number]:
        zones = after(step, zones)
    step = scene.steps[number]
    said = {zone: zone_words(zone, way, random).removeprefix("the ") for zone in (zones[step.actor], step.zone) if zone}
    values = {"a": scene.things[step.actor].shape, "b": scene.things[step.other].shape, "p": ""}
    values |= {"f": said[zones[step.actor]], "t": said.get(step.zone, "")}
    return random.choice(CLAUSES[way][step.event]).format(**values)
