"""LoRA adapters for the tiny model."""

import json
import struct
from pathlib import Path

ADAPTERS = ("law", "medicine")
RANK = 8
HIDDEN, LAYERS = 128, 2
"""Of the tiny model."""


def write_adapter(folder: Path) -> Path:
    """One of zeros, which changes nothing, in the files that PEFT writes."""
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": ["q_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps({**config, "task_type": "CAUSAL_LM"}))
    size = 4 * RANK * HIDDEN
    layers = [f"base_model.model.model.layers.{layer}.self_attn.q_proj" for layer in range(LAYERS)]
    shapes = {"lora_A": [RANK, HIDDEN], "lora_B": [HIDDEN, RANK]}
    names = [(f"{layer}.{part}.weight", shape) for layer in layers for part, shape in shapes.items()]
    header = json.dumps(
        {
            name: {"dtype": "F32", "shape": shape, "data_offsets": [place * size, (place + 1) * size]}
            for place, (name, shape) in enumerate(names)
        }
    ).encode()
    weights = struct.pack("<Q", len(header)) + header + bytes(size * len(names))
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder
