"""A server over an album, as the tests of its API and of its page use it."""

import threading
from pathlib import Path

import pytest
import torch

from eval.search.engine import Search
from eval.search.indexing import Indexing
from eval.search.library import library_name, require_folder
from eval.search.server import Server
from pipeline import params
from tests.support import album
from tests.support.album import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server over an album, indexed by its own process."""
    torch.set_num_threads(1)
    base = tmp_path_factory.mktemp("album")
    media = album.build(base)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        patch.setenv("PYTHONPATH", str(ROOT))
        root = require_folder(str(media))
        home = params.cache_folder(library_name(root))
        search = Search(None, home, refresh=False)
        search.root = str(root)
        indexing = Indexing(root, home, "cpu", search.take_up, search.calibrate)
        server = Server(search, indexing)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        indexing.start()
        assert indexing.ended.wait(120)
        wait_until(lambda: not indexing.progress.running)
        yield server
        server.shutdown()
        server.server_close()
        with search.measuring:
            pass
