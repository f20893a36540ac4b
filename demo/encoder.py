"""The demo's OpenCLIP model: how it is trained, and how far apart it keeps sequences.

Three pulls at once: two frames of one sequence (and two views of one object) come together and all
others apart; picture and caption come together; neighbours in a sequence are drawn on top of each
other, so that a near-duplicate is known by its cosine.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from demo.scene import BALANCED, CLASSES, MIXED, TRAINING, Frame, generate

SIDE = 128
STEPS, BATCH = 900, 40
SEED = 303
FRAME_SETS = ((480, 303, BALANCED), (480, 304, MIXED), (480, 305, TRAINING))
PICTURE_SCALE, ALIGNMENT = 8.0, 2.0

CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 16},
    # The vocabulary is that of OpenCLIP's own tokenizer; a narrow tower keeps its table small.
    "text_cfg": {
        "context_length": 40,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}

Picture = NDArray[np.float32]


def train_encoder(weights: Path, work: Path) -> None:
    """Train, and write `encoder.json` and `encoder.pt`; goes on where it was stopped."""
    import open_clip
    import torch
    from open_clip.loss import ClipLoss
    from torch.nn.functional import normalize

    torch.manual_seed(0)
    model = _fresh(weights)
    tokenize = open_clip.get_tokenizer("encoder")
    matching = ClipLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=STEPS)
    done = _resume(work / "encoder-state.pt", model, optimizer, schedule)
    model.train()
    for step, (first, second, captions) in enumerate(_batches(work, done), start=done):
        views = normalize(model.encode_image(_tensor(np.concatenate([first, second]))), dim=-1)
        ours, theirs = views[: len(first)], views[len(first) :]
        texts = normalize(model.encode_text(tokenize(captions)), dim=-1)
        apart = matching(ours, theirs, torch.tensor(PICTURE_SCALE))
        together = (1.0 - (ours * theirs).sum(dim=-1)).mean()
        named = matching(ours, texts, model.logit_scale.exp())
        loss = apart + ALIGNMENT * together + 0.3 * named
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.0)
        if step % 25 == 24 or step == STEPS - 1:
            parts = f"apart {apart:.3f} together {together:.3f} named {named:.3f}"
            print(f"step {step + 1}/{STEPS} {parts}", flush=True)
            _save(model, weights / "encoder.pt")
            state = [part.state_dict() for part in (model, optimizer, schedule)]
            torch.save([*state, step + 1], work / "encoder-state.pt")


def _fresh(weights: Path) -> Any:
    import open_clip

    config = weights / "encoder.json"
    config.write_text(json.dumps(CONFIG, indent=2) + "\n")
    open_clip.add_model_config(config)
    return open_clip.create_model("encoder")


def _resume(state: Path, *parts: Any) -> int:
    """Load what was saved half-way; returns the step to go on with."""
    import torch

    if not state.exists():
        return 0
    *saved, step = torch.load(state, map_location="cpu", weights_only=True)
    for part, values in zip(parts, saved, strict=True):
        part.load_state_dict(values)
    return int(step)


def _save(model: Any, to: Path) -> None:
    import torch

    state = {
        name: value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    torch.save(state, to)


def _tensor(pictures: NDArray[np.float32]) -> Any:
    """(B, 128, 128, 3) values 0..255 -> (B, 3, 128, 128) as OpenCLIP normalises them."""
    import open_clip
    import torch

    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(1, 3, 1, 1)
    spread = torch.tensor(open_clip.OPENAI_DATASET_STD).view(1, 3, 1, 1)
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255.0 - mean) / spread


def _batches(work: Path, start: int) -> Iterator[tuple[Picture, Picture, list[str]]]:
    """(B, 128, 128, 3) views of the same things from frames of one sequence, and captions."""
    if start >= STEPS:
        return
    sequences: dict[str, list[Frame]] = {}
    for index, (count, seed, mix) in enumerate(FRAME_SETS):
        for frame in generate(count, seed, mix=mix, lengths=(4, 4), singles=0.0):
            sequences.setdefault(f"{index} {frame.sequence}", []).append(frame)
    films = list(sequences.values())
    for step in range(start, STEPS):
        rng = np.random.default_rng([SEED, step])
        chosen = rng.choice(len(films), BATCH, replace=False)
        views = [
            (_frame_views if place % 5 < 3 else _object_views)(films[index], rng)
            for place, index in enumerate(chosen)
        ]
        first, second, captions = zip(*views, strict=True)
        yield np.stack(first), np.stack(second), list(captions)


def caption(frame: Frame) -> str:
    """What a person would say of a frame: its parts, what it lies on, how it was taken."""
    counts = Counter(CLASSES[i] for i in frame.class_ids)
    things = " and ".join(f"{n} {name}" for name, n in counts.most_common()) or "nothing"
    return f"{things} on a {', '.join(frame.tags)}"


def _frame_views(film: list[Frame], rng: np.random.Generator) -> tuple[Picture, Picture, str]:
    """Two frames of a sequence, whole or their middle square, slightly shifted and relit."""
    a, b = (film[int(i)] for i in rng.choice(len(film), 2, replace=False))
    height, width = a.pixels.shape[:2]
    inset = 0 if rng.random() < 0.4 else (width - height) // 2
    box = np.asarray((inset, 0, width - inset, height), np.float32)
    flip = rng.random() < 0.5
    views = [
        _cut(frame, box + np.asarray((shift, 0, shift, 0), np.float32), rng, 0.03, flip)
        for frame, shift in ((a, 0.0), (b, rng.uniform(-25, 25)))
    ]
    return views[0], views[1], caption(a)


def _object_views(film: list[Frame], rng: np.random.Generator) -> tuple[Picture, Picture, str]:
    """Two views of one object of a frame."""
    frame = film[int(rng.integers(len(film)))]
    if not len(frame.xyxy):
        return _frame_views(film, rng)
    index = int(rng.integers(len(frame.xyxy)))
    box, flip = frame.xyxy[index], rng.random() < 0.5
    name = CLASSES[frame.class_ids[index]]
    text = f"a photo of a {name} on a {frame.tags[0]}"
    return _cut(frame, box, rng, 0.12, flip), _cut(frame, box, rng, 0.12, flip), text


def _cut(
    frame: Frame, box: NDArray[np.float32], rng: np.random.Generator, jitter: float, flip: bool
) -> Picture:
    """(128, 128, 3) values 0..255: a box with moved edges and changed light."""
    height, width = frame.pixels.shape[:2]
    size = np.tile(box[2:] - box[:2], 2)
    moved = box + rng.uniform(-jitter, jitter, 4) * size
    x0, y0, x1, y1 = np.clip(moved, 0, [width, height, width, height]).astype(int)
    x0, y0 = min(x0, width - 6), min(y0, height - 6)
    cut = frame.pixels[y0 : max(y1, y0 + 6), x0 : max(x1, x0 + 6)]
    view = cv2.resize(cut, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    view = view[:, ::-1] if flip else view
    return np.clip(view * rng.uniform(0.92, 1.08) + rng.uniform(-5, 5), 0, 255).astype(np.float32)


def encoder_figures(weights: Path, count: int = 240, seed: int = 404) -> dict[str, Any]:
    """Cosines within and across sequences of fresh frames, prepared as OpenCLIP prepares them."""
    frames = list(generate(count, seed))
    features = embed(weights, [frame.pixels for frame in frames])
    cosines = features @ features.T
    keys = np.asarray([frame.sequence for frame in frames])
    numbers = np.asarray([frame.number for frame in frames])
    lines = np.asarray([key.split("_")[0] for key in keys])
    same = keys[:, None] == keys[None, :]
    upper = np.triu(np.ones_like(same), 1)
    next_to = same & (np.abs(numbers[:, None] - numbers[None, :]) == 1)
    apart = ~same & upper
    in_line = apart & (lines[:, None] == lines[None, :])
    hidden = cosines - 2.0 * np.eye(len(frames))
    partnered = same.sum(axis=1) > 1
    hits = keys[hidden.argmax(axis=1)] == keys
    return {
        "neighbouring frames": _spread(cosines[next_to & upper]),
        "same sequence": _spread(cosines[same & upper]),
        "other sequence, same line": _spread(cosines[in_line]),
        "other sequence": _spread(cosines[apart]),
        "share >= 0.95, same sequence": _share(cosines[same & upper]),
        "share >= 0.95, other sequence": _share(cosines[apart]),
        "nearest is of own sequence": round(float(hits[partnered].mean()), 4),
    }


def embed(weights: Path, pictures: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """(N, 128) unit vectors of RGB pictures from the saved weights."""
    import open_clip
    import torch
    from PIL import Image

    open_clip.add_model_config(weights / "encoder.json")
    model, _, prepare = open_clip.create_model_and_transforms(
        "encoder", pretrained=str(weights / "encoder.pt")
    )
    model.eval()
    rows = []
    with torch.inference_mode():
        for start in range(0, len(pictures), 32):
            batch = [prepare(Image.fromarray(one)) for one in pictures[start : start + 32]]
            rows.append(model.encode_image(torch.stack(batch), normalize=True).numpy())
    return np.asarray(list(chain.from_iterable(rows)), np.float32).reshape(len(pictures), -1)


def _spread(values: NDArray[np.float32]) -> dict[str, float]:
    shares = {"min": 0, "5%": 5, "50%": 50, "95%": 95, "max": 100}
    return {name: round(float(np.percentile(values, at)), 3) for name, at in shares.items()}


def _share(values: NDArray[np.float32]) -> float:
    return round(float((values >= 0.95).mean()), 4)
