"""The diverse pick against plain greedy selection, and groups and ranks against their promises."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.diversity import gamma_of, near_duplicate_groups, pick_diverse, rank
from backend.errors import ScoreError
from backend.selection import lazy_greedy, near_duplicates

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 40)
diversity_weights = st.sampled_from([0.0, 0.05, 0.1, 0.4, 0.7, 0.95, 1.0])
thresholds = st.sampled_from([0.5, 0.8, 0.95, 1.0])

SMALL_STEPS = {
    lazy_greedy: {"BLOCK": 16, "POOL": 5, "BATCH": 2, "SURVEY": 3},
    near_duplicates: {"BLOCK": 16, "READ": 7, "TILE": 4, "SAMPLE": 6},
}
REAL_STEPS = {
    module: {name: getattr(module, name) for name in steps} for module, steps in SMALL_STEPS.items()
}


def set_steps(patch, chosen):
    for module, steps in chosen.items():
        for name, value in steps.items():
            patch.setattr(module, name, value)


@pytest.fixture(scope="module", autouse=True)
def small_steps():
    """Shrink blocks, pools and samples, so that small data pass through every branch."""
    with pytest.MonkeyPatch.context() as patch:
        set_steps(patch, SMALL_STEPS)
        yield


@pytest.fixture
def real_steps(monkeypatch):
    set_steps(monkeypatch, REAL_STEPS)


# Data


def normal(rng, n, dims):
    return rng.standard_normal((n, dims)).astype(np.float32)


def repeated(rng, n, dims):
    """Few different directions, some at another length."""
    rows = normal(rng, max(n // 6, 1), dims)[rng.integers(max(n // 6, 1), size=n)]
    return rows * rng.choice([0.5, 1.0, 3.0], size=(n, 1)).astype(np.float32)


def lattice(rng, n, dims):
    """Small whole numbers: many pairs of different rows stand at equal distances."""
    rows = rng.integers(-1, 2, size=(n, dims)).astype(np.float32)
    rows[:, 0] += ~rows.any(axis=1)
    return rows


def neighbours(rng, n, dims):
    """Clusters so tight that float32 products cannot tell their distances apart."""
    centres = normal(rng, max(n // 8, 1), dims)
    return centres[rng.integers(len(centres), size=n)] + 0.001 * normal(rng, n, dims)


kinds = st.sampled_from([normal, repeated, lattice, neighbours])


def pool_of(seed, n, kind, dims=None):
    """Embeddings, utilities with ties, and labelled embeddings in half of the cases."""
    rng = np.random.default_rng(seed)
    dims = int(rng.integers(1, 24)) if dims is None else dims
    utilities = rng.choice([rng.random(n), rng.integers(0, 4, size=n) / 3])
    labels = int(rng.integers(0, 9))
    rows = kind(rng, n + labels, dims)
    return rows[:n], utilities, rows[n:] if labels > 4 else None


# The reference


def unit_rows(embeddings):
    rows = np.array(embeddings, dtype=np.float64)
    rows /= np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return np.rint(rows * 2**24) / 2**24


def pick_diverse_plain(embeddings, utilities, n, *, diversity_weight, labelled=None):
    """Compute every gain again after every choice."""
    units = unit_rows(embeddings)
    if diversity_weight == 0:
        indices = sorted(range(len(units)), key=lambda i: (-utilities[i], i))[:n]
        return indices, [utilities[i] for i in indices]
    weights = utilities ** gamma_of(diversity_weight)
    reach = np.full(len(units), np.inf)

    def go_from(reference):
        distances = 1 - units @ reference
        np.minimum(reach, np.where(distances < 1e-6, 0, distances), out=reach)

    for reference in () if labelled is None else unit_rows(labelled):
        go_from(reference)
    left = np.ones(len(units), dtype=bool)
    indices, gains = [], []
    for _ in range(n):
        nothing_known = np.isinf(reach).all()
        current = weights if nothing_known else weights * reach
        worth = utilities if nothing_known or not current[left].any() else current
        best = int(np.where(left, worth, -1).argmax())  # the first of equals
        indices.append(best)
        gains.append(current[best])
        left[best] = False
        go_from(units[best])
    return indices, gains


# Weights


@pytest.mark.parametrize(
    ("weight", "gamma"), [(0, np.inf), (0.1, 9), (0.4, 1.5), (0.5, 1), (0.75, 1 / 3), (1, 0)]
)
def test_gamma_by_hand(weight, gamma):
    assert gamma_of(weight) == pytest.approx(gamma)


@pytest.mark.parametrize("weight", [-0.1, 1.1, np.nan, np.inf])
def test_a_weight_outside_0_to_1_is_refused(weight):
    with pytest.raises(ScoreError, match="diversity_weight"):
        gamma_of(weight)


# The pick, by hand

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (0.0, [0, 1, 2, 3]),  # by utility
        (0.5, [0, 3, 2, 1]),  # 0.9; then 0.4 * 2 beats 0.7 * 1 and 0.8 * 0; then 0.7 * 1
        (1.0, [0, 3, 2, 1]),  # the most useful, then the farthest
    ],
)
def test_a_pick_by_hand(weight, expected):
    embeddings = np.array([EAST, EAST, NORTH, WEST], dtype=np.float32)
    pick = pick_diverse(embeddings, [0.9, 0.8, 0.7, 0.4], 4, diversity_weight=weight)
    assert pick.indices.tolist() == expected


def test_gains_by_hand():
    embeddings = np.array([EAST, EAST, NORTH, WEST], dtype=np.float32)
    pick = pick_diverse(embeddings, [0.9, 0.8, 0.7, 0.4], 4, diversity_weight=0.5)
    assert pick.gains == pytest.approx([0.9, 0.8, 0.7, 0.0])


def test_the_pick_keeps_away_from_what_is_labelled():
    embeddings = np.array([EAST, NORTH], dtype=np.float32)
    useful_east = [0.9, 0.5]
    free = pick_diverse(embeddings, useful_east, 2, diversity_weight=0.5)
    assert free.indices.tolist() == [0, 1]
    known = np.array([EAST])
    pick = pick_diverse(embeddings, useful_east, 2, diversity_weight=0.5, labelled=known)
    assert pick.indices.tolist() == [1, 0]
    assert pick.gains == pytest.approx([0.5, 0.0])


def test_no_labelled_rows_are_as_none():
    embeddings, utilities, _ = pool_of(1, 20, normal, dims=5)
    nothing = np.empty((0, 5), dtype=np.float32)
    assert (
        pick_diverse(embeddings, utilities, 9, labelled=nothing).indices.tolist()
        == pick_diverse(embeddings, utilities, 9).indices.tolist()
    )


def test_with_nothing_labelled_the_most_useful_comes_first_even_at_weight_1():
    embeddings = np.array([EAST, NORTH, WEST], dtype=np.float32)
    pick = pick_diverse(embeddings, [0.1, 0.2, 0.15], 1, diversity_weight=1.0)
    assert pick.indices.tolist() == [1]


def test_without_gain_the_rest_follow_by_utility_then_row():
    embeddings = np.array([EAST] * 5, dtype=np.float32)
    pick = pick_diverse(embeddings, [0.1, 0.5, 0.3, 0.5, 0.3], 5, diversity_weight=1.0)
    assert pick.indices.tolist() == [1, 3, 2, 4, 0]
    assert pick.gains.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_useless_images_are_picked_in_the_order_of_rows():
    pick = pick_diverse(normal(np.random.default_rng(0), 4, 3), np.zeros(4), 4)
    assert pick.indices.tolist() == [0, 1, 2, 3]


# The pick, against the reference


@settings(max_examples=300)
@given(seeds, sizes, kinds, diversity_weights)
def test_lazy_is_identical_to_plain(seed, n, kind, weight):
    embeddings, utilities, labelled = pool_of(seed, n, kind)
    pick = pick_diverse(embeddings, utilities, n, diversity_weight=weight, labelled=labelled)
    indices, gains = pick_diverse_plain(
        embeddings, utilities, n, diversity_weight=weight, labelled=labelled
    )
    assert pick.indices.tolist() == indices
    assert pick.gains.tolist() == gains


@pytest.mark.usefixtures("real_steps")
@pytest.mark.parametrize("weight", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("kind", [normal, repeated, lattice, neighbours])
@pytest.mark.parametrize("labels", [0, 100])
def test_lazy_is_identical_to_plain_at_full_steps(kind, weight, labels):
    rng = np.random.default_rng(7)
    rows = kind(rng, 9000, 48)
    utilities = rng.integers(1, 50, size=len(rows) - labels) / 50
    embeddings, labelled = rows[labels:], rows[:labels] if labels else None
    pick = pick_diverse(embeddings, utilities, 120, diversity_weight=weight, labelled=labelled)
    indices, gains = pick_diverse_plain(
        embeddings, utilities, 120, diversity_weight=weight, labelled=labelled
    )
    assert pick.indices.tolist() == indices
    assert pick.gains.tolist() == gains


@settings(max_examples=50)
@given(seeds, st.integers(1, 40), diversity_weights)
def test_rows_that_tie_at_every_step_are_picked_as_plain_picks_them(seed, n, weight):
    # Rows of unit vectors: all gains that are not 0 are equal, long after the first choices.
    rng = np.random.default_rng(seed)
    embeddings = np.eye(24, dtype=np.float32)[rng.integers(24, size=n)]
    labelled = -np.ones((1, 24), dtype=np.float32)
    utilities = np.full(n, 0.5)
    options = {"diversity_weight": weight, "labelled": labelled}
    pick = pick_diverse(embeddings, utilities, n, rng=np.random.default_rng(seed), **options)
    drawn = np.argsort(np.random.default_rng(seed).permutation(n))
    indices, gains = pick_diverse_plain(embeddings[drawn], utilities[drawn], n, **options)
    assert pick.indices.tolist() == drawn[indices].tolist()
    assert pick.gains.tolist() == gains


@given(seeds, sizes, kinds, diversity_weights, st.floats(0, 1))
def test_the_first_picks_of_a_longer_pick_are_the_shorter_pick(seed, n, kind, weight, share):
    embeddings, utilities, labelled = pool_of(seed, n, kind)
    fewer = max(int(share * n), 1)
    longer, shorter = (
        pick_diverse(embeddings, utilities, m, diversity_weight=weight, labelled=labelled)
        for m in (n, fewer)
    )
    assert longer.indices[:fewer].tolist() == shorter.indices.tolist()
    assert longer.gains[:fewer].tolist() == shorter.gains.tolist()


@given(seeds, sizes, kinds, diversity_weights)
def test_a_full_pick_holds_every_row_once_and_gains_fall(seed, n, kind, weight):
    embeddings, utilities, labelled = pool_of(seed, n, kind)
    pick = pick_diverse(embeddings, utilities, n, diversity_weight=weight, labelled=labelled)
    assert sorted(pick.indices.tolist()) == list(range(n))
    assert (pick.gains >= 0).all()
    # The first distance counts as 1 where nothing is labelled, though the next may be 2.
    falling = pick.gains if labelled is not None or weight == 0 else pick.gains[1:]
    assert (np.diff(falling) <= 0).all()


@given(seeds, sizes, diversity_weights, st.booleans())
def test_the_pick_follows_its_rows_when_they_change_places(seed, n, weight, with_labels):
    rng = np.random.default_rng(seed)
    embeddings, utilities = normal(rng, n, 8), rng.random(n)
    options = {"diversity_weight": weight, "labelled": normal(rng, 3, 8) if with_labels else None}
    shuffled = rng.permutation(n)
    pick = pick_diverse(embeddings, utilities, n, **options)
    moved = pick_diverse(embeddings[shuffled], utilities[shuffled], n, **options)
    assert shuffled[moved.indices].tolist() == pick.indices.tolist()


@given(seeds, sizes, diversity_weights)
def test_the_length_of_a_row_does_not_matter(seed, n, weight):
    rng = np.random.default_rng(seed)
    embeddings, utilities = normal(rng, n, 6), rng.random(n)
    scale = 2.0 ** rng.integers(-8, 9, size=(n, 1)).astype(np.float32)
    plain, scaled = (
        pick_diverse(rows, utilities, n, diversity_weight=weight)
        for rows in (embeddings, embeddings * scale)
    )
    assert scaled.indices.tolist() == plain.indices.tolist()


@given(seeds, sizes, kinds, diversity_weights)
def test_a_generator_breaks_ties_in_one_drawn_order(seed, n, kind, weight):
    embeddings, utilities, labelled = pool_of(seed, n, kind)
    options = {"diversity_weight": weight, "labelled": labelled}
    pick = pick_diverse(embeddings, utilities, n, rng=np.random.default_rng(seed), **options)
    drawn = np.argsort(np.random.default_rng(seed).permutation(n))
    indices, gains = pick_diverse_plain(embeddings[drawn], utilities[drawn], n, **options)
    assert pick.indices.tolist() == drawn[indices].tolist()
    assert pick.gains.tolist() == gains


def test_a_generator_makes_every_tied_row_come_first_at_times():
    embeddings = np.array([EAST] * 3 + [NORTH], dtype=np.float32)
    firsts = {
        int(
            pick_diverse(
                embeddings, [0.9, 0.9, 0.9, 0.1], 1, rng=np.random.default_rng(seed)
            ).indices[0]
        )
        for seed in range(40)
    }
    assert firsts == {0, 1, 2}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_types_that_hold_the_same_numbers_give_the_same_pick(dtype):
    rng = np.random.default_rng(3)
    half = normal(rng, 60, 12).astype(np.float16)
    utilities = rng.random(60)
    pick = pick_diverse(half.astype(dtype), utilities, 60)
    assert pick.indices.tolist() == pick_diverse(half, utilities, 60).indices.tolist()


def test_rows_in_column_order_or_on_disk_give_the_same_pick(tmp_path):
    rng = np.random.default_rng(4)
    embeddings, utilities = repeated(rng, 60, 12), np.ones(60)
    np.save(tmp_path / "embeddings.npy", embeddings)
    expected = pick_diverse(embeddings, utilities, 60).indices.tolist()
    for rows in (np.asfortranarray(embeddings), np.load(tmp_path / "embeddings.npy", "r")):
        assert pick_diverse(rows, utilities, 60).indices.tolist() == expected


@pytest.mark.usefixtures("real_steps")
def test_embeddings_are_neither_changed_nor_copied():
    rng = np.random.default_rng(5)
    embeddings, utilities = 3 * normal(rng, 40_000, 128), rng.random(40_000)
    before = embeddings.copy()
    tracemalloc.start()
    try:
        pick_diverse(embeddings, utilities, 50)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.4 * embeddings.nbytes
    assert (embeddings == before).all()


GOOD = {"embeddings": np.eye(3, dtype=np.float32), "utilities": [0.1, 0.2, 0.3], "n": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "n must be at least 1"),
        ({"n": -1}, "n must be at least 1"),
        ({"n": 4}, "only 3 images"),
        ({"n": 1.5}, "whole number"),
        ({"utilities": [0.1, 0.2]}, r"shape \(3,\)"),
        ({"utilities": [[0.1, 0.2, 0.3]]}, "shape"),
        ({"utilities": [0.1, 0.2, 1.1]}, "0..1"),
        ({"utilities": [0.1, 0.2, -0.1]}, "0..1"),
        ({"utilities": [0.1, 0.2, np.nan]}, "NaN"),
        ({"embeddings": np.ones(3)}, r"shape \(N, D\)"),
        ({"embeddings": np.ones((3, 0))}, "D > 0"),
        ({"embeddings": np.ones((3, 2), dtype=int)}, "floats"),
        ({"embeddings": np.array([[1.0], [0.0], [1.0]])}, "row 1 of embeddings is zero"),
        ({"embeddings": np.array([[1.0], [1.0], [np.nan]])}, "row 2 of embeddings"),
        ({"embeddings": np.array([[np.inf], [1.0], [1.0]])}, "row 0 of embeddings"),
        ({"embeddings": np.full((3, 2), 1e300)}, "row 0"),
        ({"labelled": np.eye(2, dtype=np.float32)}, "2 dims but embeddings 3"),
        ({"labelled": np.zeros((1, 3))}, "row 0 of labelled is zero"),
        ({"labelled": np.ones(3)}, "labelled must have shape"),
        ({"diversity_weight": 2}, "diversity_weight"),
        ({"diversity_weight": np.nan}, "diversity_weight"),
    ],
)
def test_what_cannot_be_picked_from_is_refused(change, message):
    with pytest.raises(ScoreError, match=message) as refusal:
        pick_diverse(**{**GOOD, **change})
    assert "\n" not in str(refusal.value)


def test_a_bad_row_is_named_by_its_number_beyond_the_first_block():
    embeddings = np.ones((50, 2), dtype=np.float32)
    embeddings[37] = 0
    with pytest.raises(ScoreError, match="row 37"):
        pick_diverse(embeddings, np.ones(50), 1)


# Groups


def groups_plain(embeddings, order, threshold):
    units = unit_rows(embeddings)
    leaders, groups = [], {}
    for row in order:
        near = [leader for leader in leaders if units[row] @ units[leader] >= threshold - 1e-6]
        groups[row] = near[0] if near else row
        if not near:
            leaders.append(row)
    return [groups[row] for row in range(len(units))]


def test_no_images_make_no_groups():
    assert near_duplicate_groups(np.empty((0, 3))).tolist() == []


def test_groups_by_hand():
    degrees = np.radians([0, 10, 20, 30, 90])
    embeddings = np.column_stack([np.cos(degrees), np.sin(degrees)])
    # cos 18.19 = 0.95: 0 leads 10; 20 is near 10 but not near 0, so it leads 30.
    assert near_duplicate_groups(embeddings).tolist() == [0, 0, 2, 2, 4]
    backwards = [4, 3, 2, 1, 0]
    assert near_duplicate_groups(embeddings, order=backwards).tolist() == [1, 1, 3, 3, 4]
    assert near_duplicate_groups(embeddings, threshold=0.999).tolist() == [0, 1, 2, 3, 4]


def test_keys_make_groups_and_carry_them_along():
    degrees = np.radians([0, 45, 90, 91, 200])
    embeddings = np.column_stack([np.cos(degrees), np.sin(degrees)])
    keys = ["film", "film", "burst", None, "burst"]
    # 91 degrees is near the leader of the burst, and the burst's other image far from it.
    assert near_duplicate_groups(embeddings, keys=keys).tolist() == [0, 0, 2, 2, 2]


def test_a_film_does_not_chain_into_one_group():
    degrees = np.radians(np.arange(0, 90, 3))
    embeddings = np.column_stack([np.cos(degrees), np.sin(degrees)])
    groups = near_duplicate_groups(embeddings)
    assert len(set(groups.tolist())) == 5  # 0..18, 21..39, 42..60, 63..81, 84..87


@settings(max_examples=200)
@given(seeds, st.integers(1, 60), kinds, thresholds, st.sampled_from([2, 5, 40]))
def test_groups_are_those_of_the_definition(seed, n, kind, threshold, dims):
    embeddings, _, _ = pool_of(seed, n, kind, dims)
    order = np.random.default_rng(seed).permutation(n)
    groups = near_duplicate_groups(embeddings, threshold=threshold, order=order)
    assert groups.tolist() == groups_plain(embeddings, order.tolist(), threshold)


@given(seeds, st.integers(1, 60), kinds, thresholds)
def test_groups_keep_what_they_promise(seed, n, kind, threshold):
    embeddings, _, _ = pool_of(seed, n, kind, 40)
    groups = near_duplicate_groups(embeddings, threshold=threshold)
    units = unit_rows(embeddings)
    leaders = np.unique(groups)
    assert (groups[leaders] == leaders).all()
    assert (groups <= np.arange(n)).all()
    assert ((units * units[groups]).sum(axis=1) >= threshold - 2e-6).all()
    between = units[leaders] @ units[leaders].T
    assert (between[~np.eye(len(leaders), dtype=bool)] < threshold).all()


@given(seeds, st.integers(1, 60), kinds, thresholds, st.integers(1, 6))
def test_whoever_shares_a_key_shares_a_group(seed, n, kind, threshold, films):
    embeddings, _, _ = pool_of(seed, n, kind, 5)
    drawn = np.random.default_rng(seed).integers(0, films + 1, size=n)
    keys = [None if film == films else int(film) for film in drawn]
    groups = near_duplicate_groups(embeddings, threshold=threshold, keys=keys)
    for film in range(films):
        assert len(set(groups[drawn == film].tolist())) <= 1
    heads = [row for row in range(n) if keys[row] is None or keys.index(keys[row]) == row]
    alone = near_duplicate_groups(embeddings[heads], threshold=threshold)
    assert groups[heads].tolist() == np.array(heads)[alone].tolist()


@given(seeds, kinds, st.sampled_from([0.0, 1e-3, 1.0]))
def test_a_sketch_never_makes_a_cosine_smaller(seed, kind, outside):
    rng = np.random.default_rng(seed)
    embeddings = kind(rng, 50, 8) @ normal(rng, 8, 40)
    embeddings += outside * rng.random((50, 1)).astype(np.float32) * normal(rng, 1, 40)
    rows = lazy_greedy.UnitRows(embeddings)
    sketch = near_duplicates._Sketch(rows, 0.95)
    directions = np.linalg.eigh(embeddings.T @ embeddings)[1][:, -8:] * np.float32(1 - 1e-5)
    sketch.basis = np.ascontiguousarray(directions)
    drawn = sketch.of(rows.rough(slice(None))).astype(np.float64)
    units = unit_rows(embeddings)
    assert (drawn @ drawn.T >= units @ units.T - rows.slack).all()


def test_a_sketch_is_used_where_it_pays():
    rng = np.random.default_rng(6)
    flat = normal(rng, 60, 4) @ normal(rng, 4, 40)
    basis = near_duplicates._Sketch(lazy_greedy.UnitRows(flat), 0.95).basis
    assert basis is not None
    assert basis.shape == (40, 16)
    assert near_duplicates._Sketch(lazy_greedy.UnitRows(normal(rng, 60, 40)), 0.1).basis is None


@pytest.mark.usefixtures("real_steps")
def test_groups_at_full_steps():
    rng = np.random.default_rng(8)
    scenes = normal(rng, 1500, 64)
    scene = rng.integers(1500, size=6000)
    embeddings = scenes[scene] + 0.02 * normal(rng, 6000, 64)
    groups = near_duplicate_groups(embeddings)
    first = np.full(1500, 6000)
    np.minimum.at(first, scene, np.arange(6000))
    assert groups.tolist() == first[scene].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.0}, "threshold"),
        ({"threshold": 1.1}, "threshold"),
        ({"threshold": np.nan}, "threshold"),
        ({"keys": ["a", "b"]}, "keys must be 3"),
        ({"order": [0, 1]}, "order"),
        ({"order": [0, 1, 1]}, "order"),
        ({"order": [1, 2, 3]}, "order"),
    ],
)
def test_what_cannot_be_grouped_is_refused(options, message):
    with pytest.raises(ScoreError, match=message):
        near_duplicate_groups(np.eye(3), **options)


# Ranks


def test_an_empty_pool_has_an_empty_order():
    ranking = rank(np.empty((0, 3)), [], limit=5)
    assert (ranking.order.tolist(), ranking.groups.tolist(), ranking.picked) == ([], [], 0)


def test_a_rank_by_hand():
    embeddings = np.array([EAST, EAST, NORTH, WEST, NORTH], dtype=np.float32)
    utilities = [0.8, 0.9, 0.5, 0.2, 0.6]
    ranking = rank(embeddings, utilities, limit=2, diversity_weight=0.5)
    assert ranking.groups.tolist() == [1, 1, 4, 3, 4]
    assert ranking.order.tolist() == [1, 4, 3, 0, 2]
    assert ranking.picked == 2


def test_near_duplicates_of_labelled_images_come_last():
    embeddings = np.array([EAST, NORTH, WEST], dtype=np.float32)
    known = np.array([NORTH, EAST], dtype=np.float32)
    ranking = rank(embeddings, [0.9, 0.8, 0.1], limit=3, labelled=known)
    assert ranking.order.tolist() == [2, 0, 1]
    assert ranking.groups.tolist() == [-2, -1, 2]
    assert ranking.picked == 1


def test_when_all_repeat_what_is_labelled_the_order_is_by_utility():
    embeddings = np.array([EAST, EAST, EAST], dtype=np.float32)
    ranking = rank(embeddings, [0.1, 0.3, 0.2], limit=3, labelled=embeddings[:1])
    assert ranking.order.tolist() == [1, 2, 0]
    assert ranking.picked == 0


def test_keys_count_without_a_threshold():
    embeddings = np.array([EAST, EAST, NORTH], dtype=np.float32)
    ranking = rank(
        embeddings, [0.5, 0.4, 0.9], limit=3, duplicate_threshold=None, keys=["a", None, "a"]
    )
    assert ranking.groups.tolist() == [2, 1, 2]
    assert ranking.order.tolist() == [2, 1, 0]


def test_without_threshold_and_keys_every_image_stands_for_itself():
    embeddings = np.array([EAST, EAST], dtype=np.float32)
    ranking = rank(embeddings, [0.5, 0.4], limit=1, duplicate_threshold=None)
    assert ranking.groups.tolist() == [0, 1]


def test_a_generator_orders_equal_utilities():
    embeddings = np.eye(6, dtype=np.float32)
    orders = {
        tuple(rank(embeddings, np.ones(6), limit=1, rng=np.random.default_rng(seed)).order)
        for seed in range(20)
    }
    assert len(orders) > 1


@settings(max_examples=200)
@given(seeds, sizes, kinds, diversity_weights, st.integers(1, 50), st.sampled_from([None, 0.8, 1]))
def test_a_rank_keeps_what_it_promises(seed, n, kind, weight, limit, threshold):
    embeddings, utilities, labelled = pool_of(seed, n, kind)
    drawn = np.random.default_rng(seed).integers(0, 6, size=n)
    keys = [int(key) or None for key in drawn] if seed % 2 else None
    ranking = rank(
        embeddings,
        utilities,
        limit=limit,
        diversity_weight=weight,
        labelled=labelled,
        duplicate_threshold=threshold,
        keys=keys,
    )
    order, groups, picked = ranking.order, ranking.groups, ranking.picked
    assert sorted(order.tolist()) == list(range(n))

    # Three sections, the last two by utility, then row.
    represents = groups == np.arange(n)
    representatives = int(represents.sum())
    assert picked == min(limit, representatives)
    assert represents[order[:representatives]].all()
    for section in (order[picked:representatives], order[representatives:]):
        assert section.tolist() == sorted(section.tolist(), key=lambda i: (-utilities[i], i))

    # The picks are those among the representatives alone.
    alone = np.flatnonzero(represents)
    if picked:
        pick = pick_diverse(
            embeddings[alone], utilities[alone], picked, diversity_weight=weight, labelled=labelled
        )
        assert order[:picked].tolist() == alone[pick.indices].tolist()

    # A representative is the most useful of its group, or labelled.
    led = groups >= 0
    assert represents[groups[led]].all()
    assert (utilities[groups[led]] >= utilities[led]).all()
    if labelled is None or threshold is None:
        assert led.all()
    else:
        near = unit_rows(embeddings) @ unit_rows(labelled).T >= threshold - 1e-6
        assert near[represents].sum() == 0
        if keys is None:
            assert (~led == near.any(axis=1)).all()
            assert near[~led, -1 - groups[~led]].all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit must be at least 1"),
        ({"duplicate_threshold": 0.0}, "threshold"),
        ({"duplicate_threshold": 2.0}, "threshold"),
        ({"diversity_weight": -1}, "diversity_weight"),
        ({"keys": []}, "keys must be 3"),
        ({"labelled": np.eye(2)}, "dims"),
    ],
)
def test_what_cannot_be_ranked_is_refused(options, message):
    with pytest.raises(ScoreError, match=message):
        rank(np.eye(3), [0.1, 0.2, 0.3], **{"limit": 2, **options})
