"""The first tables: scores, detectors, embeddings, publications, ranks."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the five tables."""
    op.create_table(
        "scores",
        sa.Column("project_id", sa.Integer, primary_key=True),
        sa.Column("task_id", sa.Integer, primary_key=True),
        sa.Column("detector", sa.String(64), primary_key=True),
        sa.Column("image_uri", sa.Text, nullable=False),
        sa.Column("image_hash", sa.String(64), nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("boxes", sa.Integer, nullable=False),
        sa.Column("classes", sa.Integer, nullable=False),
        sa.Column("peak_score", sa.Float, nullable=False),
        sa.Column("detections", sa.LargeBinary, nullable=False),
        sa.Column("lowest_confidence", sa.Float, nullable=False),
        sa.Column("margin_sampling", sa.Float, nullable=False),
        sa.Column("entropy", sa.Float, nullable=False),
        sa.Column("scored_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "detectors",
        sa.Column("version", sa.String(64), primary_key=True),
        sa.Column("class_names", sa.Text, nullable=False),
    )
    op.create_table(
        "embeddings",
        sa.Column("image_hash", sa.String(64), primary_key=True),
        sa.Column("encoder", sa.String(200), primary_key=True),
        sa.Column("view", sa.String(100), primary_key=True),
        sa.Column("vector", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "publications",
        sa.Column("model_version", sa.String(100), primary_key=True),
        sa.Column("project_id", sa.Integer, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("detector", sa.String(64), nullable=False),
        sa.Column("encoder", sa.String(200), nullable=False),
        sa.Column("strategy", sa.String(40), nullable=False),
        sa.Column("diversity_weight", sa.Float, nullable=False),
        sa.Column("strategy_weights", sa.Text, nullable=False),
        sa.Column("ranked", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("publications_of_project", "publications", ["project_id", "state"])
    op.create_table(
        "ranks",
        sa.Column("model_version", sa.String(100), primary_key=True),
        sa.Column("rank", sa.Integer, primary_key=True),
        sa.Column("task_id", sa.Integer, nullable=False),
        sa.Column("uncertainty_score", sa.Float, nullable=False),
    )
    op.create_index("ranks_of_task", "ranks", ["model_version", "task_id"])


def downgrade() -> None:
    """Drop the five tables."""
    for name in ("ranks", "publications", "embeddings", "detectors", "scores"):
        op.drop_table(name)
