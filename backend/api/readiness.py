"""Whether this server is ready: the store, Label Studio and the models, each within a limit."""

from __future__ import annotations

import asyncio
import logging

from pydantic import BaseModel

from backend.api.probes import Probe
from backend.errors import AccessError, HardestFirstError, StoreError, UnreachableError
from backend.label_studio.client import Studio
from backend.scoring.batching import ScoringWorker
from backend.settings import Settings
from backend.store.database import Database

logger = logging.getLogger(__name__)

# All checks together: they are made side by side.
LIMIT_SECONDS = 2.0
# Probes come every few seconds, from several places; Label Studio is asked this rarely.
STUDIO_KEEP_SECONDS = 10.0
STORE_KEEP_SECONDS = 1.0
_STUDIO_TIMEOUT_SECONDS = 1.5


class Check(BaseModel):
    """The result of one check."""

    name: str
    ok: bool
    detail: str


class ReadinessCheck:
    """The checks of one server.

    Anybody may ask, so that details name no address: the log has the whole line.

    Args:
        settings: where Label Studio is.
        store: what is kept.
        worker: the thread that owns the models.
    """

    def __init__(self, settings: Settings, store: Database, worker: ScoringWorker) -> None:
        self._settings = settings
        self._store = store
        self._worker = worker
        self._studio: Studio | None = None
        self._probes = (
            Probe("store", self._look_at_store, keep_seconds=STORE_KEEP_SECONDS),
            Probe("label_studio", self._look_at_studio, keep_seconds=STUDIO_KEEP_SECONDS),
        )

    def close(self) -> None:
        """Release the connection to Label Studio."""
        if self._studio is not None:
            self._studio.close()

    async def checks(self) -> list[Check]:
        """Store, Label Studio and models; after `LIMIT_SECONDS` at the latest."""
        found = await asyncio.gather(*(probe.answer(LIMIT_SECONDS) for probe in self._probes))
        return [
            check or Check(name=probe.name, ok=False, detail=_LATE)
            for probe, check in zip(self._probes, found, strict=True)
        ] + [self._look_at_models()]

    def _look_at_store(self) -> Check:
        try:
            self._store.check()
        except StoreError as error:
            logger.warning("not ready: %s", error)
            return Check(
                name="store",
                ok=False,
                detail="the store does not answer: see DATABASE_URL or DATA_DIR, and the log",
            )
        return Check(name="store", ok=True, detail="answers")

    def _look_at_studio(self) -> Check:
        try:
            if self._studio is None:
                self._studio = Studio.from_settings(
                    self._settings, timeout=_STUDIO_TIMEOUT_SECONDS, retries=0
                )
            self._studio.whoami()
        except HardestFirstError as error:
            logger.warning("not ready: %s", error)
            return Check(name="label_studio", ok=False, detail=_studio_trouble(error))
        return Check(name="label_studio", ok=True, detail="knows the token")

    def _look_at_models(self) -> Check:
        try:
            version = self._worker.base_detector(timeout=0)
        except HardestFirstError as error:
            return Check(name="weights", ok=False, detail=str(error))
        except Exception as error:  # loading runs other people's code; the log has it
            detail = f"the models cannot be loaded ({type(error).__name__}): see the log"
            return Check(name="weights", ok=False, detail=detail)
        return Check(name="weights", ok=True, detail=f"detector {version}")


_LATE = f"no answer within {LIMIT_SECONDS:g} s: see the log"


def _studio_trouble(error: HardestFirstError) -> str:
    if isinstance(error, UnreachableError):
        return "Label Studio does not answer: start it, or correct LABEL_STUDIO_URL"
    if isinstance(error, AccessError):
        return "Label Studio does not take the token: make a new one for LABEL_STUDIO_API_KEY"
    return "Label Studio answers with an error: see the log"
