"""Small labelled data sets in YOLO format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog")


def write_part(folder: Path, part: str, count: int, *, side: int = 64, seed: int = 0) -> None:
    """Images 0.png, 1.png .. of one or two rectangles on noise; every fourth is a background."""
    rng = np.random.default_rng([seed, *part.encode()])
    (folder / "images" / part).mkdir(parents=True)
    (folder / "labels" / part).mkdir(parents=True)
    for number in range(count):
        pixels = rng.integers(100, 140, (side, side, 3), dtype=np.uint8)
        lines = []
        for class_id in range(0 if number % 4 == 3 else 1 + number % 2):
            x, y = rng.integers(side // 4, side * 3 // 4, 2)
            half = side // 6
            colour = (220, 40, 40) if class_id else (40, 40, 220)
            pixels[max(0, y - half) : y + half, max(0, x - half) : x + half] = colour
            lines.append(f"{class_id} {x / side:.4f} {y / side:.4f} {2 * half / side:.4f} 0.3")
        Image.fromarray(pixels).save(folder / "images" / part / f"{number}.png")
        text = "".join(f"{line}\n" for line in lines)
        (folder / "labels" / part / f"{number}.txt").write_text(text)


def write_yaml(folder: Path, **parts: Any) -> Path:
    """The data set's YAML; by default with `train` and `test` as `write_part` names them."""
    parts = parts or {"train": "images/train", "test": "images/test"}
    path = folder / "data.yaml"
    path.write_text(json.dumps({"path": ".", "names": list(CLASSES), **parts}))
    return path


def write_set(folder: Path, *, pool: int = 8, test: int = 4) -> Path:
    """A pool and a test set; the path of their YAML."""
    write_part(folder, "train", pool)
    write_part(folder, "test", test)
    return write_yaml(folder)
