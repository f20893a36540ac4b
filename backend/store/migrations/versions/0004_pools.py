"""What the last order of each project stood on, so that it can be ranked anew at once."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the table of pools."""
    op.create_table(
        "pools",
        sa.Column("project_id", sa.Integer, primary_key=True),
        sa.Column("ranked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("detector", sa.String(64), nullable=False),
        sa.Column("encoder", sa.String(200), nullable=False),
        sa.Column("options", sa.Text, nullable=False),
        sa.Column("validation_share", sa.Float, nullable=False),
        sa.Column("tasks", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    """Drop the table of pools."""
    op.drop_table("pools")
