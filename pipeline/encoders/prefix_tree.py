"""Texts as a tree of their beginnings: in a causal tower a token depends on what stands before it, so texts share its work.

Captions begin alike ("a man is ..."). Each distinct beginning is one node, encoded once, whatever follows it.
"""

# Axes: T texts, N nodes.

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class PrefixTree:
    """Distinct beginnings of texts, the short ones first."""

    token: Tensor  # (N,) int64, the last token of each beginning
    depth: Tensor  # (N,) int64, tokens before it
    paths: list[Tensor]  # for each depth d: (n, d + 1) int64, nodes from the first token to the one at hand
    ends: list[Tensor]  # for each text its path, (L,)

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]]) -> "PrefixTree":
        """The tree of texts given as token ids, none of them empty."""
        known: dict[tuple[int, int], int] = {}
        token: list[int] = []
        levels: list[list[int]] = []
        parent: list[int] = []
        last = []
        for text in texts:
            node = -1
            for depth, word in enumerate(text):
                before, node = node, known.get((node, word), -1)
                if node < 0:
                    node = known[before, word] = len(token)
                    token.append(word)
                    parent.append(before)
                    if depth == len(levels):
                        levels.append([])
                    levels[depth].append(node)
            last.append(node)
        order = [node for level in levels for node in level]  # by depth
        place = [0] * len(order)
        for row, node in enumerate(order):
            place[node] = row
        paths: list[Tensor] = []
        first = 0
        for level in levels:
            own = torch.arange(first, first + len(level))[:, None]
            if paths:
                above = torch.tensor([place[parent[node]] for node in level]) - (first - len(paths[-1]))
                own = torch.cat([paths[-1][above], own], 1)
            paths.append(own)
            first += len(level)
        depth = torch.tensor([depth for depth, level in enumerate(levels) for _ in level])
        starts = [int(path[0, -1]) for path in paths]
        ends = [paths[len(text) - 1][place[node] - starts[len(text) - 1]] for text, node in zip(texts, last)]
        return cls(torch.tensor([token[node] for node in order]), depth, paths, ends)

    def __len__(self) -> int:
        return len(self.token)
