"""The tree of texts: every beginning once, every text by its own path."""

from pipeline.encoders.prefix_tree import PrefixTree

TEXTS = [[9, 1, 2, 8], [9, 1, 3, 8], [9, 1, 2, 8], [9, 8], [9, 2, 1, 2, 8]]


def test_each_distinct_beginning_is_one_node():
    tree = PrefixTree.of(TEXTS)
    beginnings = {tuple(text[: end + 1]) for text in TEXTS for end in range(len(text))}
    assert len(tree) == len(beginnings) == 11


def test_a_texts_path_spells_the_text():
    tree = PrefixTree.of(TEXTS)
    for text, path in zip(TEXTS, tree.ends):
        assert tree.token[path].tolist() == text
        assert tree.depth[path].tolist() == list(range(len(text)))


def test_paths_lead_from_the_first_token_to_each_node_by_depth():
    tree = PrefixTree.of(TEXTS)
    assert [len(path) for path in tree.paths] == [1, 3, 3, 3, 1]
    rows = [row for path in tree.paths for row in path[:, -1].tolist()]
    assert rows == list(range(len(tree)))
    for depth, path in enumerate(tree.paths):
        assert path.shape[1] == depth + 1
        assert tree.depth[path].tolist() == [list(range(depth + 1))] * len(path)
    spelled = {tuple(tree.token[row].tolist()) for path in tree.paths for row in path}
    assert spelled == {tuple(text[: end + 1]) for text in TEXTS for end in range(len(text))}


def test_one_token_is_a_tree():
    tree = PrefixTree.of([[5]])
    assert len(tree) == 1 and tree.ends[0].tolist() == [0]
