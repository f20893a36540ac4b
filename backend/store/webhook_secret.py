"""The secret that Label Studio sends with its events."""

from __future__ import annotations

import secrets

from backend.store.annotations import AnnotationStore
from backend.store.scores import Store


def webhook_secret(store: Store) -> str:
    """Made at the first call, the same for all that share the store."""
    return AnnotationStore(store).kept("webhook secret", fresh=secrets.token_urlsafe(24))
