"""Every setting, once: its name, type, default and meaning.

Read from the environment (and nothing else) by `Settings()`; importing this module reads nothing.
The README's table is checked against this class by a test.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from backend.addresses import AllowedHosts
from backend.errors import ScoreError, SettingsError
from backend.strategies import DEFAULT_WEIGHTS, StrategyName, parse_weights


class Settings(BaseSettings):
    """All settings of the backend. The names below, in capitals, are the environment variables.

    Raises:
        SettingsError: (from `load_settings`) a value is malformed; the line names the setting.
    """

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    label_studio_url: str = Field(
        "http://127.0.0.1:8080", description="Address of Label Studio, with its scheme."
    )
    label_studio_public_url: str = Field(
        "",
        description="Address at which people open Label Studio, where it is another one (behind a "
        "proxy, under a path): links for people begin with it, and images under it are fetched "
        "from LABEL_STUDIO_URL, with the token.",
    )
    label_studio_api_key: SecretStr = Field(
        SecretStr(""),
        description="Personal access token, or a legacy token, of the account that publishes.",
    )
    model: str = Field(
        "yolo11n.pt",
        description="Detector: a file in MODEL_DIR (.pt, .onnx or an OpenVINO folder), "
        "or an official Ultralytics name, fetched once.",
    )
    model_dir: Path = Field(
        Path("models"), description="The only folder that weights are loaded from: a .pt is code."
    )
    clip_model: str = Field(
        "ViT-B-32",
        description="OpenCLIP architecture, or the .json file of one in MODEL_DIR.",
    )
    clip_pretrained: str = Field(
        "laion2b_s34b_b79k", description="OpenCLIP weights: a tag, or a checkpoint in MODEL_DIR."
    )
    encoder: Literal["openclip", "detector"] = Field(
        "openclip",
        description="What embeds images: OpenCLIP, or the detector's own features "
        "where no CLIP weights can be had.",
    )
    device: str = Field(
        "auto", description="auto, cpu, cuda or cuda:N. On a CPU models run in OpenVINO."
    )
    model_score_threshold: float = Field(
        0.25, ge=0.0, le=1.0, description="Annotators are shown boxes from this confidence on."
    )
    strategy: StrategyName = Field("diverse_uncertainty", description="How the queue is ordered.")
    strategy_weights: Annotated[dict[str, float], NoDecode] = Field(
        dict(DEFAULT_WEIGHTS),
        description="Weights of the uncertainty scores, as "
        f"{','.join(f'{name}=1' for name in DEFAULT_WEIGHTS)}.",
    )
    diversity_weight: float = Field(
        0.4, ge=0.0, le=1.0, description="0: pure uncertainty order; 1: pure spread."
    )
    queue_limit: int = Field(
        500, ge=1, description="How many tasks are picked one by one for uncertainty and spread."
    )
    validation_share: float = Field(
        0.15,
        ge=0.0,
        lt=1.0,
        description="Share of the tasks that is served at random instead of by rank: once "
        "labelled, models are evaluated on them and never trained on them.",
    )
    publish: Literal["auto", "all", "queue"] = Field(
        "auto",
        description="all: every unlabelled task gets boxes and a rank; queue: only the queue does; "
        "auto: all below 20,000 tasks, else the queue.",
    )
    train_after: int = Field(
        50, ge=0, description="Newly labelled images that start a training; 0: only when asked."
    )
    train_steps: int = Field(
        0, ge=0, description="Optimiser steps of a training; 0: by the number of images."
    )
    train_image_size: int = Field(
        0, ge=0, description="Longer side, in pixels, of the images trained on; 0: as MODEL was."
    )
    train_batch: int = Field(16, ge=1, description="Images in one optimiser step.")
    train_minutes: float = Field(
        120.0, gt=0.0, description="A training that takes longer is ended, and the job says so."
    )
    target_map50: float = Field(
        0.0, ge=0.0, le=1.0, description="mAP50 to reach before labelling may stop; 0: none set."
    )
    poll_seconds: int = Field(
        60,
        ge=5,
        description="How often the worker polls each project for what no event reported.",
    )
    data_dir: Path = Field(
        Path("var"),
        description="Scores, embeddings, trained models, the image cache and exported models.",
    )
    database_url: SecretStr = Field(
        SecretStr(""),
        description="SQLAlchemy URL of PostgreSQL; empty: SQLite under DATA_DIR.",
    )
    redis_url: SecretStr = Field(
        SecretStr(""),
        description="Redis in which several servers count requests; empty: each counts its own.",
    )
    ray_address: str = Field(
        "",
        description="Ray cluster of `score --engine ray`, such as 10.0.0.5:6379; empty: Ray is "
        "started on this machine.",
    )
    basic_auth_user: str = Field("", description="User that Label Studio connects with.")
    basic_auth_pass: SecretStr = Field(SecretStr(""), description="Its password.")
    api_rate: str = Field(
        "1200/minute",
        description="Requests that a key may make, such as 20/second; more are answered with 429.",
    )
    private_network: bool = Field(
        False,
        description="true: anyone who reaches HOST may call what Label Studio calls; `serve` then "
        "starts there without a key and BASIC_AUTH. The API asks for a key all the same.",
    )
    port: int = Field(9090, ge=1, le=65535, description="Port of `serve`.")
    host: str = Field("127.0.0.1", description="Address `serve` listens on.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="How much is logged."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="text: log lines for people; json: one JSON object a line."
    )
    worker_metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port on which `worker` gives Prometheus its figures, on loopback; 0: none.",
    )
    image_cache_mb: int = Field(
        2048, ge=0, description="Size of the image cache on disk, in MB; 0 keeps none."
    )
    local_files_root: str = Field(
        "",
        description="Label Studio's document root, where this machine sees it too: local files are "
        "then read from disk instead of over HTTP.",
    )
    allowed_image_hosts: str = Field(
        "",
        description="Private hosts that images may be fetched from, besides Label Studio: names, "
        "IP addresses and networks such as 10.1.0.0/16, separated by commas.",
    )
    max_request_mb: int = Field(
        64,
        ge=1,
        description="Largest body of a request, in MB: Label Studio sends all selected tasks in "
        "one.",
    )
    sequence_field: str = Field(
        "",
        description="Task data field that names an image's sequence (video, burst); "
        "images of one sequence count as near-duplicates.",
    )

    @field_validator("strategy_weights", mode="before")
    @classmethod
    def _parse_weights(cls, value: Any) -> Any:
        return parse_weights(value) if isinstance(value, str) else value

    @field_validator("label_studio_url", "label_studio_public_url")
    @classmethod
    def _check_url(cls, value: str, info: ValidationInfo) -> str:
        if not value and info.field_name == "label_studio_public_url":
            return value
        parts = urlsplit(value.strip())
        if parts.scheme not in ("http", "https"):
            raise ValueError("must begin with http:// or https://")
        if not parts.hostname or parts.port == 0:
            raise ValueError("must name a host")
        if parts.query or parts.fragment:
            raise ValueError("must end before ? and #")
        if page := _PAGES.search(parts.path):
            raise ValueError(f"must be Label Studio's own address: leave out {page[0]}")
        # It is shown in messages, and Label Studio takes a token instead.
        if "@" in parts.netloc:
            raise ValueError("must hold no user and no password")
        return urlunsplit(parts).rstrip("/")

    @field_validator("basic_auth_user")
    @classmethod
    def _check_user(cls, value: str) -> str:
        _check_sendable(value)
        if ":" in value:
            raise ValueError("must have no colon: it is sent in front of one")
        return value

    @field_validator("basic_auth_pass")
    @classmethod
    def _check_password(cls, value: SecretStr) -> SecretStr:
        _check_sendable(value.get_secret_value())
        return value

    @field_validator("allowed_image_hosts")
    @classmethod
    def _check_hosts(cls, value: str) -> str:
        AllowedHosts.parse(value)
        return value

    @field_validator("api_rate")
    @classmethod
    def _check_rate(cls, value: str) -> str:
        from limits import parse_many

        try:
            amounts = [item.amount for item in parse_many(value)]
        except ValueError:
            amounts = []
        if len(amounts) != 1 or amounts[0] < 1:
            raise ValueError("must be a number and a time, such as 1200/minute or 20/second")
        return value

    @property
    def image_cache_dir(self) -> Path:
        """Where downloaded images are kept."""
        return self.data_dir / "images"

    @property
    def export_dir(self) -> Path:
        """Where models converted for this machine are kept."""
        return self.data_dir / "exports"

    @property
    def trained_dir(self) -> Path:
        """Where trained models are kept."""
        return self.data_dir / "trained"


# What people copy from the address bar of Label Studio, behind its own address.
_PAGES = re.compile(r"/(?:projects|tasks|api|organization|user)(?:/.*)?$")


def _check_sendable(value: str) -> None:
    """What is sent in a header has printed ASCII characters only."""
    for place, character in enumerate(value, start=1):
        if not " " <= character <= "~":
            raise ValueError(
                f"must have printed ASCII characters only; number {place} is U+{ord(character):04X}"
            )


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment; `overrides` (field names) win over it.

    Raises:
        SettingsError: a value is malformed; one line names the setting and what it takes.
    """
    try:
        return Settings(**overrides)
    except (ValidationError, ScoreError) as error:
        raise SettingsError(_first_line(error)) from None


def _first_line(error: ValidationError | ScoreError) -> str:
    if isinstance(error, ScoreError):
        return f"STRATEGY_WEIGHTS: {error}"
    first = error.errors(include_url=False, include_input=False)[0]
    name = str(first["loc"][0]).upper() if first["loc"] else "settings"
    return f"{name}: {first['msg']}. The README's table of settings says what it takes."
