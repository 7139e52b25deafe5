"""The HDF5 contract between pipeline and trainer: which tensors a shard holds, how it is written and read.

A shard is written once and never edited. Its tensors are contiguous, uncompressed and page-aligned, so that the same
bytes are readable with plain h5py, with mmap and with `preadv` at `Shard.place(name).offset`. `schema.py` has the table.
"""

from pipeline.files import ShardError
from pipeline.shards.identity import TAUGHT, identity
from pipeline.shards.layout import (
    cache_of,
    rebuild_command,
    remove_parts,
    shard_number,
    shard_path,
    shard_paths,
)
from pipeline.shards.proofs import prove, prove_shards
from pipeline.shards.reader import (
    Shard,
    TensorPlace,
    iterate_rows,
    open_cache,
    read,
    read_sound,
    require_dealt,
    require_one_clip,
)
from pipeline.shards.rows import checksum, find_infinite, fingerprint, phrase_key, row_bounds, row_checksums, take_rows
from pipeline.shards.schema import (
    ATTRIBUTES,
    EMBEDDINGS,
    FORMAT,
    KEYS,
    OFFSETS,
    ROWS,
    TENSORS,
    TEXT,
    check_axes,
    check_offsets,
)
from pipeline.shards.videos import StoredVideo, VideoReader, read_columns, stored_videos
from pipeline.shards.writer import write

__all__ = [
    "ATTRIBUTES",
    "EMBEDDINGS",
    "FORMAT",
    "KEYS",
    "OFFSETS",
    "ROWS",
    "Shard",
    "ShardError",
    "StoredVideo",
    "TAUGHT",
    "TENSORS",
    "TEXT",
    "TensorPlace",
    "VideoReader",
    "cache_of",
    "check_axes",
    "check_offsets",
    "checksum",
    "find_infinite",
    "fingerprint",
    "identity",
    "iterate_rows",
    "open_cache",
    "phrase_key",
    "prove",
    "prove_shards",
    "read",
    "read_columns",
    "read_sound",
    "rebuild_command",
    "remove_parts",
    "require_dealt",
    "require_one_clip",
    "row_bounds",
    "row_checksums",
    "shard_number",
    "shard_path",
    "shard_paths",
    "stored_videos",
    "take_rows",
    "write",
]
