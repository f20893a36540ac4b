"""How much an image's doubts count by the classes of its boxes."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the weight to the scores; those that are there are not weighed."""
    weight = sa.Column("class_weight", sa.Float, nullable=False, server_default="1")
    op.add_column("scores", weight)


def downgrade() -> None:
    """Drop the weights."""
    with op.batch_alter_table("scores") as scores:
        scores.drop_column("class_weight")
