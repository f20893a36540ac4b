"""Removes all that is stored of one project: rows, weights, and cached files of its images."""

from __future__ import annotations

from backend.images.cache import ImageCache
from backend.images.source import drop_cached
from backend.learning.curve import curve_file
from backend.scoring.model_files import ModelFiles
from backend.scoring.thumbnails import drop_thumbnail
from backend.settings import Settings
from backend.store.forgetting import forget_rows
from backend.store.scores import Store


def forget(settings: Settings, store: Store, project_id: int) -> None:
    """Remove a project from the store and from DATA_DIR. Label Studio is not asked, nor changed.

    What other projects use too stays.

    Raises:
        QueueError: a job of the project runs.
        StoreError: the store failed; it is as it was.
    """
    from backend.vision.yolo import forget_detector

    # Files last: none is missed while a row still names it.
    forgotten = forget_rows(store, project_id)
    for content_hash in forgotten.weights:
        forget_detector(content_hash, settings.export_dir)
    ModelFiles(settings.trained_dir, project_id).remove()
    curve_file(settings, project_id).unlink(missing_ok=True)
    cache = ImageCache(settings.image_cache_dir, settings.image_cache_mb * 1_000_000)
    for image in forgotten.images:
        drop_cached(cache, settings.label_studio_url, image.image_uri)
        drop_thumbnail(settings, image)
