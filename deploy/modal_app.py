"""Scores a project on Modal: `modal run deploy/modal_app.py --project 12`.

This machine lists the tasks, ranks and publishes; the models run on Modal, which writes into the
PostgreSQL that both reach. docs/deploying.md says what has to be set up before.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import modal

from backend.engines.shards import Outcome, Shard, ShardScorer

ROOT = Path(__file__).parent.parent
NAME = "hardest-first"

image = (
    modal.Image.debian_slim(python_version="3.12")
    .apt_install("libglib2.0-0", "libgomp1")
    .pip_install("uv")
    .add_local_file(ROOT / "requirements.lock", "/requirements.lock", copy=True)
    .run_commands("uv pip install --system --no-deps -r /requirements.lock")
    .env({"DATA_DIR": "/files/data", "MODEL_DIR": "/files/models"})
    .add_local_python_source("backend")
)
app = modal.App(NAME)


@lru_cache(maxsize=1)
def scorer_here() -> ShardScorer:
    """The models of this container, by the settings in its environment."""
    from backend.settings import load_settings

    return ShardScorer(load_settings())


@app.function(
    image=image,
    secrets=[modal.Secret.from_name(NAME)],
    volumes={"/files": modal.Volume.from_name(NAME, create_if_missing=True)},
    gpu="T4",
    timeout=30 * 60,
    retries=3,
)
def score_shard(shard: Shard) -> Outcome:
    """Score a shard into the database. Called twice, it stores nothing twice."""
    return scorer_here().score(shard)


@app.local_entrypoint()
def main(project: int) -> None:
    """Score a project's tasks on Modal, rank the unlabelled ones here and publish the order."""
    from backend.assembly import build_worker_context
    from backend.engines.shards import Sharded
    from backend.job_kinds import PUBLISH
    from backend.verbs.console import say, settings_with
    from backend.verbs.jobs import run_as_job

    engine = Sharded(lambda shards: score_shard.map(shards, order_outputs=False))
    with build_worker_context(settings_with(), engine) as context:
        job = run_as_job(context, PUBLISH, project)
    say(f"{job.result['scored']} scored, {job.result['ranked']} ranked and published")
