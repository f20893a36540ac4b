"""The tables of the store. A change here needs a migration beside it (`migrations/versions`)."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
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
    text,
    true,
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
    # JSON: the public score by each measure of backend/uncertainty.py.
    Column("measures", Text, nullable=False),
    # Of its boxes' classes: see backend/selection/class_weights.py. 1: not weighed.
    Column("class_weight", Float, nullable=False, server_default="1"),
    # Whether the image and its objects are embedded too: only then it is ranked.
    Column("embedded", Boolean, nullable=False, server_default=true()),
    Column("scored_at", DateTime(timezone=True), nullable=False),
)

# One row for one detector, so that its boxes can be named without loading it.
detectors = Table(
    "detectors",
    metadata,
    Column("version", String(64), primary_key=True),
    Column("class_names", Text, nullable=False),  # JSON list
)

# One row for one vector of one image content. `view` is "image", or "objects"
# where the encoder is a detector.
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
    Column("state", String(20), nullable=False),  # see store/sent_versions.py
    Column("detector", String(64), nullable=False),
    Column("encoder", String(200), nullable=False),
    Column("strategy", String(40), nullable=False),
    Column("diversity_weight", Float, nullable=False),
    Column("strategy_weights", Text, nullable=False),  # JSON
    Column("ranked", Integer, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    # At the latest, by Label Studio's clock; null: not replaced, or not known yet.
    Column("replaced_at", DateTime(timezone=True), nullable=True),
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

# One row for one project: its tasks as they were last ranked.
pools = Table(
    "pools",
    metadata,
    Column("project_id", Integer, primary_key=True),
    Column("ranked_at", DateTime(timezone=True), nullable=False),
    Column("detector", String(64), nullable=False),
    Column("encoder", String(200), nullable=False),
    Column("options", Text, nullable=False),  # JSON, see ranking/candidates.py
    Column("validation_share", Float, nullable=False),
    Column("tasks", LargeBinary, nullable=False),  # columns, see ranking/ranked_pool.py
)

# One row for one job.
jobs = Table(
    "jobs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", Integer, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("state", String(12), nullable=False),  # queued, running, done, failed, cancelled
    Column("payload", Text, nullable=False),  # JSON: what it was asked to do
    # Jobs that share it never run at the same time.
    Column("exclusive", String(60), nullable=False),
    Column("due_at", DateTime(timezone=True), nullable=False),
    Column("owner", String(120), nullable=False),  # the process that runs it; "" for none
    Column("heartbeat_at", DateTime(timezone=True), nullable=True),
    Column("attempts", Integer, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("doing", String(60), nullable=False),  # the phase that done and total count
    Column("done", Integer, nullable=False),
    Column("total", Integer, nullable=False),
    Column("phase_started_at", DateTime(timezone=True), nullable=True),
    Column("phase_started_with", Integer, nullable=False),  # `done` at that moment
    Column("notes", Text, nullable=False),  # JSON: what a repeated attempt has to know
    Column("result", Text, nullable=False),  # JSON
    Column("error", Text, nullable=False),
    Column("log", Text, nullable=False),  # its last lines
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=True),
    Column("finished_at", DateTime(timezone=True), nullable=True),
    Index(
        "one_job_waits",
        "project_id",
        "kind",
        unique=True,
        # One that was interrupted keeps its place beside a new one: it has notes to finish by.
        sqlite_where=text("state = 'queued' AND started_at IS NULL"),
        postgresql_where=text("state = 'queued' AND started_at IS NULL"),
    ),
    Index(
        "one_job_runs",
        "exclusive",
        unique=True,
        sqlite_where=text("state = 'running'"),
        postgresql_where=text("state = 'running'"),
    ),
    Index("jobs_of_project", "project_id", "id"),
    # Rounds name their job: the id of a forgotten one must not come back.
    sqlite_autoincrement=True,
)

# One row for one project that the loop looks after.
watched = Table(
    "watched",
    metadata,
    Column("project_id", Integer, primary_key=True),
    Column("polled_at", DateTime(timezone=True), nullable=True),
    # Tasks that changed in Label Studio up to this moment have been read.
    Column("read_until", DateTime(timezone=True), nullable=True),
)

# One row for one annotation, as last read.
answers = Table(
    "answers",
    metadata,
    Column("annotation_id", Integer, primary_key=True),
    Column("project_id", Integer, nullable=False),
    Column("task_id", Integer, nullable=False),
    Column("annotator", Integer, nullable=True),
    Column("was_cancelled", Boolean, nullable=False),
    Column("ground_truth", Boolean, nullable=False),
    Column("lead_time", Float, nullable=True),  # seconds
    Column("result", Text, nullable=False),  # JSON: its regions
    # JSON: the regions of the prediction it began from; null: it began from none.
    Column("shown", Text, nullable=True),
    Column("updated_at", DateTime(timezone=True), nullable=True),
    Index("answers_of_task", "project_id", "task_id"),
)

# The hold-out: tasks that were served at random, and are never trained on.
held_out = Table(
    "held_out",
    metadata,
    Column("project_id", Integer, primary_key=True),
    Column("task_id", Integer, primary_key=True),
    Column("marked_at", DateTime(timezone=True), nullable=False),
)

# One row for one training and what became of it.
rounds = Table(
    "rounds",
    metadata,
    Column("project_id", Integer, primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("job_id", Integer, nullable=False),
    Column("state", String(12), nullable=False),  # training, judged
    Column("version", String(40), nullable=False),  # "" until it is trained
    Column("content_hash", String(64), nullable=False),
    Column("detector", String(64), nullable=False),  # as in scores
    Column("labels", Integer, nullable=False),  # images it was trained on
    Column("boxes", Integer, nullable=False),
    Column("judged_on", Integer, nullable=False),  # images of the hold-out
    Column("judgement", Text, nullable=False),  # JSON, see learning/evaluate.py
    Column("promoted", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
)

# Which model serves: the last row of a project that was not withdrawn.
promotions = Table(
    "promotions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", Integer, nullable=False),
    Column("version", String(40), nullable=False),  # "base": the weights that MODEL names
    Column("promoted_at", DateTime(timezone=True), nullable=False),
    Column("withdrawn", Boolean, nullable=False),
    Index("promotions_of_project", "project_id", "id"),
)

# Single values, such as the secret of the webhooks.
kept = Table(
    "kept",
    metadata,
    Column("name", String(60), primary_key=True),
    Column("value", Text, nullable=False),
)

# One row for one key of the API. Rows stay when keys are revoked: once a key was made, the API
# asks for one for good.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(12), primary_key=True),  # the public part of the key
    Column("name", String(100), nullable=False),
    Column("secret_hash", String(64), nullable=False),  # SHA-256 of the secret part
    Column("may_write", Boolean, nullable=False),
    Column("projects", Text, nullable=False),  # JSON list; null: all
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=True),
    Column("revoked_at", DateTime(timezone=True), nullable=True),
    Column("last_used_at", DateTime(timezone=True), nullable=True),  # to some ten minutes
    Index(
        "one_key_of_a_name",
        "name",
        unique=True,
        sqlite_where=text("revoked_at IS NULL"),
        postgresql_where=text("revoked_at IS NULL"),
    ),
)
