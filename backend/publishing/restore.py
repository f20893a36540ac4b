"""Keeps Label Studio serving the published order.

Connecting an ML backend sets a project's model version to the backend's title. No prediction has
that version, so Label Studio would serve tasks at random and ask the backend about each of them.
"""

from __future__ import annotations

import logging
import threading
import time

from backend.errors import HardestFirstError
from backend.label_studio.client import Studio
from backend.label_studio.publish import restore_order
from backend.settings import Settings
from backend.store.scores import Store

logger = logging.getLogger(__name__)

# Label Studio calls /setup in the middle of connecting; it is done by then.
_DELAY_SECONDS = 3.0
# A Label Studio that hangs is not waited for longer than this when the server ends.
_GRACE_SECONDS = 10.0


class OrderKeeper:
    """Checks, a moment after each request, that a project still serves its published order."""

    def __init__(self, settings: Settings, store: Store, *, delay: float = _DELAY_SECONDS) -> None:
        self._settings = settings
        self._store = store
        self._delay = delay
        self._lock = threading.Lock()
        self._waiting: dict[int, threading.Timer] = {}
        self._looked_at: dict[int, threading.Thread] = {}
        self._is_stopped = False

    def schedule_check(self, project_id: int) -> None:
        """Check in a moment; further requests until then change nothing."""
        with self._lock:
            if self._is_stopped or project_id in self._waiting:
                return
            timer = threading.Timer(self._delay, self._look_and_log, [project_id])
            timer.daemon = True
            self._waiting[project_id] = timer
            timer.start()

    def stop(self) -> None:
        """Drop scheduled checks, and wait for running ones: they read the store."""
        with self._lock:
            self._is_stopped = True
            for timer in self._waiting.values():
                timer.cancel()
            self._waiting.clear()
            looks = list(self._looked_at.values())
        until = time.monotonic() + _GRACE_SECONDS
        for look in looks:
            look.join(max(until - time.monotonic(), 0.0))

    def _look_and_log(self, project_id: int) -> None:
        with self._lock:
            self._waiting.pop(project_id, None)
            if self._is_stopped:
                return
            is_looked_at = project_id in self._looked_at
            if not is_looked_at:
                self._looked_at[project_id] = threading.current_thread()
        if is_looked_at:
            # Label Studio is slow: another thread would not make it faster.
            self.schedule_check(project_id)
            return
        try:
            self._look(project_id)
        except HardestFirstError as error:
            logger.warning("project %s: the order could not be checked: %s", project_id, error)
        finally:
            with self._lock:
                del self._looked_at[project_id]

    def _look(self, project_id: int) -> None:
        live = self._store.publication(project_id)
        if live is None:
            return
        with Studio.from_settings(self._settings) as studio:
            served = restore_order(studio, project_id, live.model_version)
        if not served:
            logger.warning(
                "project %s does not serve its published order %s: "
                "run `python -m backend doctor %s`",
                project_id,
                live.model_version,
                project_id,
            )
