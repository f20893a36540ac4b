"""Objects are embedded by the detector's pass, and no longer as crops by the encoder."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Drop the crops; the next scoring of each task makes what replaces them."""
    op.execute(sa.text("DELETE FROM embeddings WHERE view LIKE 'crops:%'"))
    op.execute(sa.text("UPDATE scores SET embedded = false"))


def downgrade() -> None:
    """Drop what an older version cannot read; its next scoring makes the crops again."""
    op.execute(sa.text("DELETE FROM embeddings WHERE view = 'objects'"))
    op.execute(sa.text("UPDATE scores SET embedded = false"))
