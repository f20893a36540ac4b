"""The rows that images are compared by."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.selection.embeddings import join_views, near_duplicate_cosine


def detector_like(scenes: int, frames: int) -> dict[str, NDArray[np.float32]]:
    """Features that share a large common part, lie in few directions, and differ a bit by frame."""
    rng = np.random.default_rng(scenes)
    spread = np.geomspace(1.0, 0.01, 64)
    common = rng.random(64) * 5
    rows = np.repeat(rng.standard_normal((scenes, 64)) * spread, frames, axis=0)
    rows = common + rows + 0.2 * spread * rng.standard_normal(rows.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return {str(number): row.astype(np.float32) for number, row in enumerate(rows)}


def cosines(images: dict[str, NDArray[np.float32]], *, whitened: bool) -> NDArray[np.float32]:
    rows = join_views(images, {}, list(images), whitened=whitened)
    found: NDArray[np.float32] = rows @ rows.T
    return found


@pytest.mark.parametrize("images", [0, 1, 2])
def test_hardly_any_images_are_whitened_too(images: int) -> None:
    found = cosines(dict(list(detector_like(2, 1).items())[:images]), whitened=True)
    np.testing.assert_allclose(np.diag(found), np.ones(images), atol=1e-5)


@pytest.mark.parametrize("scenes", [4, 60])
def test_whitened_frames_of_one_scene_are_near_duplicates_and_others_are_not(scenes: int) -> None:
    scene = np.repeat(np.arange(scenes), 5)
    same = scene[:, None] == scene[None]
    limit = near_duplicate_cosine(whitened=True)
    images = detector_like(scenes, 5)
    raw, found = cosines(images, whitened=False), cosines(images, whitened=True)
    # As they are, nearly all look alike.
    assert np.quantile(raw[~same], 0.05) > near_duplicate_cosine(whitened=False)
    assert found[~same].max() < limit
    assert np.median(found[same]) > limit


def test_an_image_that_is_there_twice_stays_so() -> None:
    images = detector_like(30, 1)
    images["again"] = images["7"]
    assert cosines(images, whitened=True)[7, -1] == pytest.approx(1.0, abs=1e-5)


def test_images_that_are_all_the_same_stay_so() -> None:
    row = next(iter(detector_like(1, 1).values()))
    assert cosines({"a": row, "b": row}, whitened=True).min() == pytest.approx(1.0, abs=1e-5)


def test_objects_count_as_much_as_the_image() -> None:
    image, one, other = np.eye(3, dtype=np.float32)
    rows = join_views({"a": image, "b": image, "c": image}, {"a": one, "b": other}, ["a", "b", "c"],
                      whitened=False)  # fmt: skip
    assert (rows @ rows.T).round(3).tolist() == [[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1]]
