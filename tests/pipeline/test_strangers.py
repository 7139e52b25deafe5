"""params.yaml and a kept gallery from strangers: nothing in them is run."""

import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from eval.search.gallery import Segment, read_segment, write_segment
from pipeline import params
from pipeline.files import ParamsError

ROOT = Path(__file__).parents[2]


class Trap:
    """A pickle that leaves a folder behind when it is run."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize(
    "text",
    [
        "enabled: !!python/object/apply:os.mkdir [{witness}]",
        "defaults: !!python/object/new:os.mkdir [{witness}]",
        "datasets: !!python/name:os.mkdir ''",
        "methods: [!!python/module:antigravity '']",
        "enabled: !run mkdir",
    ],
)
def test_a_tag_in_params_is_not_run(tmp_path, text):
    witness = tmp_path / "run"
    path = tmp_path / "params.yaml"
    path.write_text(text.format(witness=witness))
    with pytest.raises(
        ParamsError, match="params.yaml is not valid YAML: could not determine a constructor for the tag"
    ):
        params.read_params(path)
    assert not witness.exists()


def test_aliases_that_double_ten_times_over_are_refused_at_once(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{depth}: &a{depth} [{', '.join([f'*a{depth - 1}'] * 9)}]" for depth in range(1, 12)]
    (tmp_path / "params.yaml").write_text("\n".join([*lines, "enabled: *a11", "datasets: {toy: *a11}", ""]))
    words = [sys.executable, "-m", "pipeline.manifest", "--dataset", "toy"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and "Traceback" not in done.stderr and len(done.stderr) < 2000


@pytest.mark.parametrize("text", ["enabled: &a [*a]", "a: " + "[" * 100_000, "a: &a {b: *a}"])
def test_params_that_hold_themselves_or_never_end_are_refused(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match="unfolds to more than|nested too deeply"):
        params.read_params(path)


def test_a_crafted_gallery_is_not_run(tmp_path):
    witness, path = tmp_path / "run", tmp_path / "x.pt"
    for content in ({"key": "k", "blocks": Trap(witness)}, Trap(witness)):
        torch.save(content, path)
        assert read_segment(path, "k") is None
        path.write_bytes(pickle.dumps(content))
        assert read_segment(path, "k") is None
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", pickle.dumps(Trap(witness)))
        file.writestr("x/code/__torch__.py", f"import os\nos.mkdir({str(witness)!r})")
        file.writestr("x/version", "3\n")
    assert read_segment(path, "k") is None
    assert not witness.exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found | {"whole": torch.zeros(1).expand(1 << 40)},  # a terabyte of one number
        lambda found: found | {"blocks": found["blocks"] | {"image": {"frame": torch.zeros(1).expand(1 << 40)}}},
        lambda found: found | {"blocks": found["blocks"] | {"image": 7}},
        lambda found: found | {"blocks": found["blocks"] | {"video": {"frame": "text"}}},
        lambda found: found | {"blocks": {"image": found["blocks"]["image"]}},
        lambda found: found | {"films": [2]},
        lambda found: found | {"films": [0, 1]},
        lambda found: found | {"marks": ["a"]},
        lambda found: {"key": "k"},
        lambda found: [1, 2],
        lambda found: None,
    ],
)
def test_a_gallery_of_another_shape_is_made_again(tmp_path, spoil):
    path = tmp_path / "x.pt"
    blocks = {"image": {"frame": torch.zeros(2, 3)}, "video": {"frame": torch.zeros(1, 4, 3)}}
    small, ends = torch.zeros(5, 12, dtype=torch.uint8), torch.tensor([1, 5])
    assert write_segment(path, "k", Segment(["a", "b"], [1], blocks, torch.zeros(2, 3), small, ends)) is None
    assert read_segment(path, "k") is not None and read_segment(path, "other") is None
    torch.save(spoil(torch.load(path, weights_only=True)), path)
    assert read_segment(path, "k") is None
