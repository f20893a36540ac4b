"""Which scored images are embedded: those scored for someone who waits are embedded later."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the mark; what is there was embedded before it was scored."""
    embedded = sa.Column("embedded", sa.Boolean, nullable=False, server_default=sa.true())
    op.add_column("scores", embedded)


def downgrade() -> None:
    """Drop the mark, and the scores without embeddings with it."""
    op.execute(sa.text("DELETE FROM scores WHERE NOT embedded"))
    with op.batch_alter_table("scores") as scores:
        scores.drop_column("embedded")
