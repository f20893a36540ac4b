"""Records on disk, and the report a person reads."""

from __future__ import annotations

import dataclasses
import json

import pytest
from PIL import Image

from backend.errors import ScoreError, StoreError
from backend.simulate.analysis import analyse, analyse_otherwise, rare_classes
from backend.simulate.records import RoundPoint, Run, read_run, read_runs, run_path, write_run
from backend.simulate.report import Facts, as_markdown, write_report

CLASS_BOXES = {"car": 900, "bus": 90, "tram": 9}

FACTS = Facts(
    name="streets",
    pool_images=1000,
    test_images=250,
    class_boxes=CLASS_BOXES,
    settings={"initial": 100, "batch": 100},
    command="python -m backend simulate streets.yaml",
    date="2025-03-01",
    machine="2 cores",
)

# mAP50 of the full pool is 0.8: the targets are 0.56, 0.64, 0.72 and 0.76.
FULL = [0.8]
SLOW = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
QUICK = [0.1, 0.4, 0.6, 0.7, 0.74, 0.75, 0.77]


def run(arm, seed, quality, *, done=True, boxes_each=3):
    labels = [1000] if arm == "full" else [100 * (i + 1) for i in range(len(quality))]
    points = [
        RoundPoint(
            labels=n,
            boxes=boxes_each * n,
            map50=q,
            map50_95=q / 2,
            per_class={"car": q, "bus": q / 2, "tram": q / 4},
            seconds=1.5,
        )
        for n, q in zip(labels, quality, strict=True)
    ]
    return Run(arm, seed, done, tuple(points))


def shifted(quality, seed):
    return [q + 0.004 * seed for q in quality]


def replay(*arms, seeds=3):
    """Runs of random, of the full pool, and of the given arms: (name, quality)."""
    everyone = [("random", SLOW, 1), *((arm, quality, -1) for arm, quality in arms)]
    return [
        run("full", 0, FULL),
        *(run(arm, s, shifted(q, way * s)) for arm, q, way in everyone for s in range(seeds)),
    ]


def markdown(runs, cost="images"):
    counted = {"cost": cost, "class_boxes": CLASS_BOXES}
    return as_markdown(analyse(runs, **counted), analyse_otherwise(runs, **counted), FACTS)


def rows(text, arm):
    """The cells of all rows of an arm, without its name."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {arm} |")]
    return [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines]


# Records


def test_no_folder_holds_no_runs(tmp_path):
    assert read_runs(tmp_path / "nothing") == []


def test_records_come_back_as_they_were_written(tmp_path):
    runs = [run("entropy", 1, QUICK), run("random", 0, SLOW[:2], done=False)]
    runs[0] = dataclasses.replace(
        runs[0],
        rounds=(
            *runs[0].rounds[:-1],
            dataclasses.replace(runs[0].rounds[-1], per_class={"a": None}),
        ),
    )
    for each in reversed(runs):
        write_run(each, tmp_path)
    assert read_runs(tmp_path) == runs
    assert [path.name for path in sorted((tmp_path / "runs").iterdir())] == [
        "entropy-s1.json",
        "random-s0.json",
    ]


def damage(data, change):
    data = json.loads(json.dumps(data))
    change(data)
    return data


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.clear(),
        lambda data: data.update(rounds=[]),
        lambda data: data["rounds"][1].pop("map50"),
        lambda data: data["rounds"][1].update(map50=1.5),
        lambda data: data["rounds"][1].update(map50=float("nan")),
        lambda data: data["rounds"][1].update(per_class={"car": "good"}),
        lambda data: data["rounds"][1].update(labels=100),
        lambda data: data["rounds"][1].update(boxes=1),
        lambda data: data["rounds"][0].update(labels=0),
        lambda data: data.update(rounds=None),
        lambda data: data.update(seed=4),
    ],
)
def test_a_damaged_record_is_named_with_its_remedy(tmp_path, change):
    path = write_run(run("entropy", 1, QUICK), tmp_path)
    path.write_text(json.dumps(damage(json.loads(path.read_text()), change)))
    with pytest.raises(StoreError, match=r"entropy-s1\.json .*delete it") as caught:
        read_runs(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"arm": "entr', b"\xff\xfe"])
def test_a_file_that_holds_no_record_is_named(tmp_path, content):
    path = run_path(tmp_path, "entropy", 1)
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        read_run(path)


def test_a_record_that_cannot_be_written_is_said_so(tmp_path):
    (tmp_path / "runs").write_text("a file in the way")
    with pytest.raises(StoreError, match="name another folder"):
        write_run(run("entropy", 1, QUICK), tmp_path)


# Analysis


@pytest.mark.parametrize(
    ("runs", "match"),
    [
        ([], "full pool"),
        ([run("random", 0, SLOW)], "full pool"),
        ([run("full", 0, FULL)], "random"),
        ([run("full", 0, FULL), run("random", 0, SLOW, done=False)], "random"),
        ([run("full", 0, FULL), run("random", 0, SLOW), run("random", 0, SLOW)], "twice"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs, match):
    with pytest.raises(ScoreError, match=match):
        analyse(runs, cost="images", class_boxes=CLASS_BOXES)


def test_a_run_without_boxes_cannot_be_counted_in_boxes():
    empty = run("entropy", 0, QUICK, boxes_each=0)
    with pytest.raises(ScoreError, match=r"arm entropy, seed 0, in boxes: .*count images"):
        analyse([*replay(), empty], cost="boxes", class_boxes=CLASS_BOXES)


def test_the_order_of_runs_does_not_matter():
    runs = replay(("entropy", QUICK), ("most_boxes", SLOW))
    forwards = analyse(runs, cost="images", class_boxes=CLASS_BOXES)
    assert analyse(runs[::-1], cost="images", class_boxes=CLASS_BOXES) == forwards
    assert [arm.arm for arm in forwards.arms] == ["random", "entropy", "most_boxes"]


@pytest.mark.parametrize(("cost", "first", "last"), [("boxes", 300, 2100), ("effort", 2600, 18200)])
def test_labels_are_counted_as_asked(cost, first, last):
    # 100 images with 300 boxes: 100 * 5 s + 300 * 7 s.
    assert analyse(replay(), cost=cost, class_boxes=CLASS_BOXES).shared == (first, last)


def test_areas_are_compared_where_all_runs_have_rounds():
    runs = [*replay(), run("entropy", 0, QUICK[:3])]
    found = analyse(runs, cost="images", class_boxes=CLASS_BOXES)
    assert found.shared == (100, 300)
    assert [arm.area.value for arm in found.arms] == pytest.approx([0.204, 0.375])


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ({}, ()),
        ({"car": 5, "bus": 3}, ()),
        ({"car": 5, "bus": 3, "tram": 1}, ("tram",)),
        # A class that nothing teaches or nothing tests is not rare but absent.
        ({"car": 5, "bus": 3, "tram": 0, "bike": 1}, ()),
    ],
)
def test_the_rarest_third_of_the_classes(boxes, expected):
    assert rare_classes(replay(), boxes) == expected


def test_rare_classes_are_evaluated_over_the_same_costs():
    found = analyse(replay(("entropy", QUICK)), cost="images", class_boxes=CLASS_BOXES)
    assert found.rare_classes == ("tram",)
    for arm in found.arms:
        assert arm.rare.value == pytest.approx(arm.area.value / 4)


# The page


def test_the_page_tells_what_was_replayed():
    text = markdown(replay(("entropy", QUICK)))
    for fact in ("streets", "1,000 labelled images", "999 boxes of 3 classes", "250 test images"):
        assert fact in text
    for fact in (FACTS.command, FACTS.date, FACTS.machine, "initial 100", "mAP50 0.800"):
        assert fact in text


def test_savings_and_claims_stand_in_the_page():
    text = markdown(replay(("entropy", QUICK)))
    # Random reaches 0.56 at 560, 556 and 552 images, the arm at 280, 282 and 284: the ratios'
    # geometric mean is 1.972, and the interval 1.903 to 2.043.
    assert rows(text, "entropy")[0] == ["282 images", "2.0x (1.9 to 2.1)", "1.9x", "3"]
    assert rows(text, "random")[0] == ["556 images", "1x", "", "3"]


def test_what_was_not_reached_is_said_so():
    text = markdown(replay(("entropy", QUICK), ("most_boxes", [*SLOW[:5], 0.5, 0.5])))
    # 0.72, 90%: random ends at 0.70 to 0.708.
    assert rows(text, "random")[2][0] == "not reached with 700 images"
    assert rows(text, "entropy")[2][1].startswith("≥ 1.")
    assert rows(text, "most_boxes")[0][:3] == [
        "not reached with 700 images",
        "≤ 0.79x (up to 0.81)",
        "worse",
    ]
    assert rows(text, "most_boxes")[2][1:3] == ["not known", "none"]


def test_a_saving_of_images_may_be_none_of_boxes():
    crowded = [run("entropy", s, shifted(QUICK, -s), boxes_each=6) for s in range(3)]
    slow = [q + 0.04 for q in SLOW]
    randoms = [run("random", s, shifted(slow, s)) for s in range(3)]
    text = markdown([run("full", 0, FULL), *randoms, *crowded])
    # Random reaches 0.72 with 680, 676 and 672 images, the arm with 450, 460 and 470.
    images, boxes, effort = rows(text, "entropy")[4]
    assert images == rows(text, "entropy")[2][1] == "1.5x (1.3 to 1.6)"
    assert boxes == "0.73x (0.68 to 0.79)"
    # 26 s for an image of random's, 47 s for one of the arm's.
    assert effort == "0.81x (0.75 to 0.88)"


def test_runs_that_began_without_boxes_are_counted_in_images_and_effort():
    text = markdown([*replay(("entropy", QUICK)), run("diversity", 0, QUICK, boxes_each=0)])
    assert "| arm | in images | in effort |" in text
    assert "Boxes cannot: some run began without any." in text


def test_missing_and_unfinished_seeds_are_said_so():
    runs = [
        *replay(),
        run("entropy", 1, QUICK),
        run("entropy", 2, QUICK),
        run("entropy", 9, QUICK),
        run("entropy", 0, QUICK[:3], done=False),
        run("diversity", 2, QUICK),
        run("combined", 9, QUICK),
    ]
    text = markdown(runs)
    assert rows(text, "entropy")[0][3] == "2"
    assert rows(text, "diversity")[0][1:] == ["2.0x (one seed: no interval)", "none", "1"]
    assert rows(text, "combined")[0][1:] == ["no seed in common with random", "none", "0"]
    assert "Not finished, and not counted: entropy seed 0 (3 rounds)." in text


def test_intervals_are_printed_no_narrower_than_they_are():
    runs = replay(*((f"arm{k}", [q - 0.01 * k for q in QUICK]) for k in range(8)))
    analysis = analyse(runs, cost="images", class_boxes=CLASS_BOXES)
    text = markdown(runs)
    for result in analysis.arms[1:]:
        interval = result.targets[0].saving.interval
        printed = rows(text, result.arm)[0][1]
        low, high = printed.partition("(")[2].rstrip(")").split(" to ")
        assert float(low) <= interval.low <= interval.high <= float(high)


@pytest.mark.parametrize("cost", ["images", "boxes", "effort"])
def test_the_report_is_written_whole(tmp_path, cost):
    runs = replay(("entropy", QUICK), ("most_boxes", SLOW), ("diversity", SLOW[:2]))
    runs.append(run("combined", 0, SLOW[:2], done=False))
    write_report(runs, FACTS, tmp_path / "new", cost=cost)
    names = {"curves.png", "report.json", "report.md", "savings.png"}
    assert {path.name for path in (tmp_path / "new").iterdir()} == names
    data = json.loads((tmp_path / "new" / "report.json").read_text(), parse_constant=pytest.fail)
    assert {(r["arm"], r["seed"], len(r["rounds"])) for r in data["runs"]} == {
        (r.arm, r.seed, len(r.rounds)) for r in runs
    }
    assert data["facts"]["command"] == FACTS.command
    assert set(data["otherwise"]) == {"images", "boxes", "effort"} - {cost}
    # Random does not get to 90%: there is no upper bound, which JSON says by null.
    entropy = next(arm for arm in data["analysis"]["arms"] if arm["arm"] == "entropy")
    assert entropy["targets"][2]["saving"]["ratio"]["high"] is None
    for name in ("curves.png", "savings.png"):
        with Image.open(tmp_path / "new" / name) as picture:
            picture.load()
            assert len(picture.getcolors(1 << 24)) > 50


def test_one_round_of_random_alone_is_reported_too(tmp_path):
    write_report([run("full", 0, FULL), run("random", 0, [0.1])], FACTS, tmp_path, cost="boxes")
    assert "share no range of costs" in (tmp_path / "report.md").read_text()


def test_a_report_that_cannot_be_written_is_said_so(tmp_path):
    (tmp_path / "out").write_text("a file in the way")
    with pytest.raises(StoreError, match="name another folder"):
        write_report(replay(), FACTS, tmp_path / "out", cost="images")
