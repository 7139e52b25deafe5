"""Search: a sentence, or a picture, and the images and videos that match it.

from eval.search import Search
for hit in Search(Path("cache/demo/runs/unitrim"), Path("cache/demo"))("a red ball", top=10).joint:
    print(hit.path, hit.time, hit.score)
"""

from eval.search.answers import Answer, Filters, Hit, Query
from eval.search.engine import Search

__all__ = ["Answer", "Filters", "Hit", "Query", "Search"]
