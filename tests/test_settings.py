"""Settings: what is read, and the one line for what is wrong."""

from __future__ import annotations

import pytest

from backend.errors import SettingsError
from backend.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_the_environment_is_read_and_options_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_LIMIT", "7")
    monkeypatch.setenv("STRATEGY_WEIGHTS", "entropy=2, lowest_confidence=1")
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://host:8080/studio/")
    assert load_settings().queue_limit == 7
    assert load_settings(queue_limit=9).queue_limit == 9
    assert load_settings().strategy_weights == {
        "lowest_confidence": 1.0,
        "margin_sampling": 0.0,
        "entropy": 2.0,
    }
    assert load_settings().label_studio_url == "http://host:8080/studio"
    assert load_settings(label_studio_url=" HTTP://host ").label_studio_url == "http://host"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STRATEGY", "hardest"),
        ("STRATEGY_WEIGHTS", "entropy"),
        ("STRATEGY_WEIGHTS", "surprise=1"),
        ("DIVERSITY_WEIGHT", "1.5"),
        ("QUEUE_LIMIT", "0"),
        ("PUBLISH", "some"),
        ("PORT", "99999"),
        ("MODEL_SCORE_THRESHOLD", "x"),
        ("LABEL_STUDIO_URL", "localhost:8080"),
        ("LABEL_STUDIO_URL", "http://"),
        ("LABEL_STUDIO_URL", "http://host:port"),
        ("LABEL_STUDIO_URL", "http://me:password@host"),
        ("LABEL_STUDIO_URL", "http://host:8080/projects/12/data"),
        ("LABEL_STUDIO_URL", "http://host/studio/api/"),
        ("LABEL_STUDIO_URL", "http://host/?tab=4"),
        ("BASIC_AUTH_PASS", "two\nlines"),
        ("BASIC_AUTH_PASS", "pässword"),
        ("BASIC_AUTH_USER", "a:b"),
        ("ALLOWED_IMAGE_HOSTS", "http://minio:9000"),
        ("ALLOWED_IMAGE_HOSTS", "10.0.0.1/8"),
        ("MAX_REQUEST_MB", "0"),
        ("LOG_LEVEL", "LOUD"),
        ("API_RATE", "fast"),
        ("API_RATE", "0/minute"),
        ("API_RATE", "5/minute;9/hour"),
    ],
)
def test_a_malformed_setting_is_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).startswith(name)
    assert "\n" not in str(caught.value)


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LABEL_STUDIO_API_KEY", "BASIC_AUTH_PASS", "DATABASE_URL"):
        monkeypatch.setenv(name, "open-sesame")
    settings = load_settings()
    assert "open-sesame" not in repr(settings)
    assert "open-sesame" not in str(settings.model_dump())
