"""A small CLIP in the Hugging Face format, random weights, a real byte-level tokenizer: what tests load in place of a hub's."""

import json
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode


def clip(folder: Path, size: int = 32, patch: int = 16, width: int = 32, dimension: int = 24, seed: int = 0) -> Path:
    """Save a CLIP of `size` px, (size/patch)² patches, `dimension` dimensions; every byte is a token, so any text tokenises."""
    characters = sorted(bytes_to_unicode().values())
    entries = [*characters, *(f"{character}</w>" for character in characters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(entries)}
    layers = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 2}
    end = vocabulary["<|endoftext|>"]
    text = layers | {
        "vocab_size": len(entries),
        "max_position_embeddings": 77,
        "eos_token_id": end,
        "bos_token_id": end - 1,
    }
    vision = layers | {"image_size": size, "patch_size": patch}
    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=dimension))
    model.save_pretrained(folder)
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]})
    )
    return folder
