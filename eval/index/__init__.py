"""An index beside the shards: coarse vectors by which a few candidates are found, compact tokens by which those are ranked."""

from eval.index.build import build_index, score_two_stages
from eval.index.search import Index, read_index

__all__ = ["Index", "build_index", "read_index", "score_two_stages"]
