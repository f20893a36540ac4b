"""The scores by measure in one column, so that a further measure needs no further one."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_MEASURES = ("lowest_confidence", "margin_sampling", "entropy")
_KEY = ("project_id", "task_id", "detector")
_ROWS_AT_ONCE = 5000


def upgrade() -> None:
    """Gather the scores that are there."""
    op.add_column("scores", sa.Column("measures", sa.Text, nullable=False, server_default="{}"))
    _rewrite(
        _MEASURES,
        lambda row: {"measures": json.dumps({name: getattr(row, name) for name in _MEASURES})},
    )
    with op.batch_alter_table("scores") as scores:
        scores.alter_column("measures", server_default=None)
        for name in _MEASURES:
            scores.drop_column(name)


def downgrade() -> None:
    """Give each measure its column again; one that this version does not know is lost."""
    for name in _MEASURES:
        op.add_column("scores", sa.Column(name, sa.Float, nullable=False, server_default="1"))
    _rewrite(
        ("measures",), lambda row: {name: json.loads(row.measures)[name] for name in _MEASURES}
    )
    with op.batch_alter_table("scores") as scores:
        for name in _MEASURES:
            scores.alter_column(name, server_default=None)
        scores.drop_column("measures")


def _rewrite(read: Sequence[str], values: Callable[[Any], dict[str, Any]]) -> None:
    """Set `values(row)` in every row, having read the columns `read`."""
    connection = op.get_bind()
    scores = sa.table("scores", *map(sa.column, (*_KEY, *_MEASURES, "measures")))
    columns = [scores.c[name] for name in (*_KEY, *read)]
    here = sa.and_(*(scores.c[name] == sa.bindparam(f"of_{name}") for name in _KEY))
    rows = connection.execute(sa.select(*columns)).all()
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        new = [values(row) | {f"of_{name}": getattr(row, name) for name in _KEY} for row in part]
        connection.execute(sa.update(scores).where(here), new)
