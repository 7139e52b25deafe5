"""One sentence -> the images and videos that match it."""
