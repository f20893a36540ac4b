"""The rows that images are compared by."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.selection.embeddings import Whitening, join_rows, near_duplicate_cosine


def detector_like(scenes: int, frames: int) -> NDArray[np.float32]:
    """Features that share a large common part, lie in few directions, and differ a bit by frame."""
    rng = np.random.default_rng(scenes)
    spread = np.geomspace(1.0, 0.01, 64)
    common = rng.random(64) * 5
    rows = np.repeat(rng.standard_normal((scenes, 64)) * spread, frames, axis=0)
    rows = common + rows + 0.2 * spread * rng.standard_normal(rows.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def cosines(images: NDArray[np.float32], *, whitened: bool) -> NDArray[np.float32]:
    rows = join_rows([(images, Whitening.fit(images) if whitened else None)]).astype(np.float32)
    found: NDArray[np.float32] = rows @ rows.T
    return found


@pytest.mark.parametrize("images", [0, 1, 2])
def test_hardly_any_images_are_whitened_too(images: int) -> None:
    found = cosines(detector_like(2, 1)[:images], whitened=True)
    np.testing.assert_allclose(np.diag(found), np.ones(images), atol=2e-3)


@pytest.mark.parametrize("scenes", [4, 60])
def test_whitened_frames_of_one_scene_are_near_duplicates_and_others_are_not(scenes: int) -> None:
    scene = np.repeat(np.arange(scenes), 5)
    same = scene[:, None] == scene[None]
    limit = near_duplicate_cosine(whitened=True, objects=False)
    images = detector_like(scenes, 5)
    raw, found = cosines(images, whitened=False), cosines(images, whitened=True)
    # As they are, nearly all look alike.
    assert np.quantile(raw[~same], 0.05) > near_duplicate_cosine(whitened=False, objects=False)
    assert found[~same].max() < limit
    assert np.median(found[same]) > limit


def test_an_image_that_is_there_twice_stays_so() -> None:
    images = detector_like(30, 1)
    again = np.vstack([images, images[7]])
    assert cosines(again, whitened=True)[7, -1] == pytest.approx(1.0, abs=2e-3)


def test_images_that_are_all_the_same_stay_so() -> None:
    row = detector_like(1, 1)
    assert cosines(np.vstack([row, row]), whitened=True).min() == pytest.approx(1.0, abs=2e-3)


def test_a_part_of_many_images_tells_how_they_vary(monkeypatch: pytest.MonkeyPatch) -> None:
    images = detector_like(100, 3)
    whole = Whitening.fit(images)(images)
    monkeypatch.setattr("backend.selection.embeddings._FIT_ROWS", 150)
    part = Whitening.fit(images)(images)
    assert np.corrcoef((whole @ whole.T).ravel(), (part @ part.T).ravel())[0, 1] > 0.9


def test_a_whitening_is_kept_until_the_pool_has_doubled() -> None:
    whiten = Whitening.fit(detector_like(10, 3))
    assert whiten.still_fits(59)
    assert not whiten.still_fits(60)


def test_objects_count_as_much_as_the_image() -> None:
    image = np.tile(np.eye(4, 3, dtype=np.float32)[0], (4, 1))
    objects = np.eye(4, 5, dtype=np.float32)
    whiten = Whitening.fit(objects)
    rows = join_rows([(image, None), (objects, whiten)]).astype(np.float32)
    alike = whiten(objects)
    np.testing.assert_allclose(rows @ rows.T, 0.5 + 0.5 * alike @ alike.T, atol=2e-3)
    assert (alike @ alike.T)[0, 1] < 0


@pytest.mark.parametrize(
    ("whitened", "objects", "cosine"),
    [(False, False, 0.95), (False, True, 0.825), (True, False, 0.7), (True, True, 0.7)],
)
def test_the_limit_is_that_of_what_is_compared(
    whitened: bool, objects: bool, cosine: float
) -> None:
    assert near_duplicate_cosine(whitened=whitened, objects=objects) == pytest.approx(cosine)
