"""Which models score which project: the promoted ones, or the weights that MODEL names."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cachetools import LRUCache

from backend.images.source import ImageSource
from backend.scoring.model_files import ModelFiles
from backend.scoring.scorer import Scorer
from backend.settings import Settings
from backend.store.rounds import RoundRow, RoundStore
from backend.store.scores import Store

# Trained detectors that stay loaded: the projects that are worked on right now.
_LOADED = 3


class Scorers:
    """The scorers of this process. Thread-safe: one scorer is lent at a time.

    All share one encoder, so that embeddings of any round can be compared. With ENCODER=detector
    that is the detector MODEL names, whatever was promoted.

    Args:
        settings: which models, where.
        store: where scores go.

    Raises:
        WeightsError: (at the first use) weights that are not there or cannot be loaded.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._rounds = RoundStore(store)
        self._source = ImageSource.from_settings(settings)
        self._lock = threading.RLock()
        self._base: Scorer | None = None
        self._trained: LRUCache[str, Scorer] = LRUCache(_LOADED)

    def close(self) -> None:
        """Close the connections to where images are."""
        self._source.close()

    @property
    def source(self) -> ImageSource:
        """Where images come from."""
        return self._source

    @contextmanager
    def lent(self, project_id: int) -> Iterator[Scorer]:
        """The scorer that serves a project, for as long as the block lasts."""
        with self._lock:
            yield self._of(self._rounds.serving(project_id), project_id)

    def base(self) -> Scorer:
        """The scorer of the weights that MODEL names."""
        from backend.vision.models import load_models  # brings torch: only who scores pays for it

        with self._lock:
            if self._base is None:
                self._base = Scorer(load_models(self._settings), self._store, self._source)
            return self._base

    def weights_of(self, serving: RoundRow | None, project_id: int) -> Path:
        """The weights file of a round, or the one that MODEL names."""
        from backend.vision.weights import find_detector

        if serving is None:
            return find_detector(self._settings.model, self._settings.model_dir)
        files = ModelFiles(self._settings.trained_dir, project_id)
        return files.find(serving.version, serving.content_hash)

    def _of(self, serving: RoundRow | None, project_id: int) -> Scorer:
        if serving is None:
            return self.base()
        key = serving.content_hash
        if key not in self._trained:
            path = self.weights_of(serving, project_id)
            models = self.base().models.with_detector(path, self._settings)
            # Rounds trained before there were class weights do not tell.
            boxes = serving.judgement.get("boxes_by_class")
            self._trained[key] = Scorer(models, self._store, self._source, learned=boxes)
        return self._trained[key]
