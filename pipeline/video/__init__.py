"""One video or photo file -> sampled frames with their times."""
