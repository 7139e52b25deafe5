"""Train the demo's CLIP anew, some minutes, and put it into the repository: `python -m pipeline.scratch.release`."""

import shutil

from pipeline.scratch.shipped import SHIPPED, SUMS, checksums
from pipeline.scratch.train import train


def main() -> None:
    shutil.rmtree(SHIPPED, ignore_errors=True)
    train({"name": "demo", "reader": "demo"}, SHIPPED)
    (SHIPPED / SUMS).write_text(checksums(SHIPPED))
    print(f"{SHIPPED} holds the demo's CLIP")


if __name__ == "__main__":
    main()
