"""The tables of the store. A change here needs a migration beside it (`migrations/versions`)."""

from __future__ import annotations

from sqlalchemy import (
    Column,
    DateTime,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

# One row for what one detector saw in one task's image.
scores = Table(
    "scores",
    metadata,
    Column("project_id", Integer, primary_key=True),
    Column("task_id", Integer, primary_key=True),
    Column("detector", String(64), primary_key=True),
    Column("image_uri", Text, nullable=False),
    Column("image_hash", String(64), nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("boxes", Integer, nullable=False),
    Column("classes", Integer, nullable=False),
    Column("peak_score", Float, nullable=False),
    # zlib over float16: boxes (N, 4) relative to the image, then class scores (N, C).
    Column("detections", LargeBinary, nullable=False),
    Column("lowest_confidence", Float, nullable=False),
    Column("margin_sampling", Float, nullable=False),
    Column("entropy", Float, nullable=False),
    Column("scored_at", DateTime(timezone=True), nullable=False),
)

# One row for one detector, so that its boxes can be named without loading it.
detectors = Table(
    "detectors",
    metadata,
    Column("version", String(64), primary_key=True),
    Column("class_names", Text, nullable=False),  # JSON list
)

# One row for one vector of one image content. `view` is "image", or which detector's crops.
embeddings = Table(
    "embeddings",
    metadata,
    Column("image_hash", String(64), primary_key=True),
    Column("encoder", String(200), primary_key=True),
    Column("view", String(100), primary_key=True),
    Column("vector", LargeBinary, nullable=False),  # float16, unit length
)

# One row for one order that was sent to Label Studio.
publications = Table(
    "publications",
    metadata,
    Column("model_version", String(100), primary_key=True),
    Column("project_id", Integer, nullable=False),
    Column("state", String(20), nullable=False),  # preparing, live, superseded
    Column("detector", String(64), nullable=False),
    Column("encoder", String(200), nullable=False),
    Column("strategy", String(40), nullable=False),
    Column("diversity_weight", Float, nullable=False),
    Column("strategy_weights", Text, nullable=False),  # JSON
    Column("ranked", Integer, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Index("publications_of_project", "project_id", "state"),
)

# The ranks of a publication: rank 1 is served first.
ranks = Table(
    "ranks",
    metadata,
    Column("model_version", String(100), primary_key=True),
    Column("rank", Integer, primary_key=True),
    Column("task_id", Integer, nullable=False),
    Column("uncertainty_score", Float, nullable=False),
    Index("ranks_of_task", "model_version", "task_id"),
)
