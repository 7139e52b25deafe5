"""Sentences about all kinds of things, for a library without captions: what other people look for, and mostly is not there."""

import random

SUBJECTS = (
    "a woman in a yellow raincoat", "two old men", "a child with a kite", "a black dog", "a flock of geese", "a grey cat",
    "a street musician", "a fishing boat", "a red tractor", "a steam train", "three cyclists", "a chef in a white hat",
    "a bride and a groom", "a football team", "a baby in a blue blanket", "a white horse", "a climber", "a crowd of people",
    "a lighthouse", "an orange tent", "a wooden bridge", "a bowl of soup", "a birthday cake", "a stack of books",
    "a laptop", "a bunch of tulips", "a skateboarder", "an empty bench", "a hot air balloon", "a school bus",
    "a surgeon", "a potter", "a herd of sheep", "a snowman", "a motorcycle", "a piano", "a market stall", "a waterfall",
)  # fmt: skip
DOINGS = (
    "waiting", "seen from above", "seen from behind", "in the rain", "at night", "in bright sunlight", "at sunset",
    "covered with snow", "next to a brick wall", "in front of a mountain", "on a beach", "in a kitchen", "in a crowded street",
    "by a river", "in a meadow", "on a stage", "under a tree", "in a car park", "through a window", "on a wooden table",
    "in a harbour", "in a classroom", "falling over", "moving slowly to the left", "turning around", "getting smaller",
    "beside a swimming pool", "in a hospital", "among tall buildings", "in thick fog", "close up", "in an old photograph",
)  # fmt: skip


def sentences(count: int) -> list[str]:
    """`count` different sentences, always the same ones."""
    every = [f"{subject} {doing}" for subject in SUBJECTS for doing in DOINGS]
    return random.Random(0).sample(every, min(count, len(every)))
