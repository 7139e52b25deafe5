"""The frozen CLIP: its weights, its two towers, and what the stages ask of them."""
