"""When a published order was replaced, by Label Studio's clock."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the moment; for orders replaced before it is set by the next publish."""
    op.add_column("publications", sa.Column("replaced_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    """Drop the moment."""
    with op.batch_alter_table("publications") as publications:
        publications.drop_column("replaced_at")
