"""A small CLIP trained here, where no weights can be had."""
