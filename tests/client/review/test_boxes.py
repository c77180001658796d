"""Boxes that a reviewer draws: what reaches the file, what stands in the records, and what is no box."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.deid.boxes import EVERY_FRAME, MOST_BOXES, Shape, check_boxes, on_frames
from client.deid.quarantine import Decision
from client.deid.report import FileRecord, Status
from client.deid.single import Processed, Processor
from client.deid.streams import FrameBox
from shared.errors import UsageError
from tests.client.review.hospital import WHY, Review, film

PICTURE = Shape(frames=3, rows=192, columns=256)
BOX: FrameBox = (0, 10, 14, 26, 140)

Released = list[tuple[str, str, tuple[FrameBox, ...]]]


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> Released:
    """What is asked of the processor, which here releases everything."""
    asked: Released = []

    def release(_: Processor, path: str, lifted: str, boxes: tuple[FrameBox, ...] = ()) -> Processed:
        asked.append((path, lifted, boxes))
        return Processed(FileRecord(path, Status.RELEASED, frames=1, boxes=len(boxes)), "somewhere")

    monkeypatch.setattr(Processor, "release", release)
    return asked


def test_boxes_go_to_the_file_and_into_the_record(review: Review, released: Released) -> None:
    name = review.named("burned.dcm")
    review.propose("burned.dcm", (0, 1, 2, 3, 4))
    status, _, body = review.send({"id": name, "decision": "cleared", "boxes": [BOX, [-1, 0, 0, 192, 256], BOX]})
    assert status == 200, body
    assert released == [("burned.dcm", WHY, ((0, 0, 0, 192, 256), BOX))]
    held = review.quarantine.get(name)
    assert held.decision is Decision.CLEARED
    assert held.blanked == (BOX, (EVERY_FRAME, 0, 0, 192, 256), BOX)
    assert held.boxes == ((0, 1, 2, 3, 4),)  # what was proposed stays on record
    assert json.loads(body)["blanked"] == [list(box) for box in held.blanked]


def test_the_log_has_their_number_and_not_where_they_are(review: Review, released: Released) -> None:
    review.send({"id": review.named("burned.dcm"), "decision": "cleared", "boxes": [[0, 111, 123, 131, 143]]})
    started, ended = review.entries()
    assert started["detail"]["boxes"] == 1  # type: ignore[index]
    assert ended["outcome"] == "ok"
    assert "123" not in json.dumps([row["detail"] for row in (started, ended)]).replace(review.profile.sha256, "")


def test_without_boxes_nothing_is_blanked(review: Review, released: Released) -> None:
    assert review.decide(review.named("burned.dcm"), "cleared")[0] == 200
    assert [boxes for _, _, boxes in released] == [()]
    assert review.entries()[0]["detail"]["boxes"] == 0  # type: ignore[index]


def test_a_box_on_every_frame_is_on_every_frame(tmp_path: Path, released: Released) -> None:
    review = Review(tmp_path, film=film(frames=3))
    try:
        name = review.named("film.dcm")
        status, _, body = review.send({"id": name, "decision": "cleared", "boxes": [[-1, 8, 10, 54, 230]]})
    finally:
        review.close()
    assert status == 200, body
    assert released[0][2] == tuple((frame, 8, 10, 54, 230) for frame in range(3))


def test_a_file_that_is_refused_has_no_boxes(review: Review) -> None:
    name = review.named("burned.dcm")
    assert review.send({"id": name, "decision": "refused", "boxes": [BOX]})[0] == 400
    assert review.quarantine.get(name).decision is Decision.PENDING
    assert not review.entries()


def test_boxes_lift_no_other_reason(review: Review, released: Released) -> None:
    assert review.send({"id": review.named("report.dcm"), "decision": "cleared", "boxes": [BOX]})[0] == 403
    assert not released


@pytest.mark.parametrize(
    "boxes",
    [
        [[0, 0, 0, 193, 10]], [[0, 0, 0, 10, 257]], [[1, 0, 0, 10, 10]], [[-2, 0, 0, 10, 10]], [[0, -1, 0, 10, 10]],
        [[0, 0, -1, 10, 10]], [[0, 10, 0, 10, 10]], [[0, 20, 0, 10, 10]], [[0, 0, 9, 10, 9]], [[0, 0, 0, 10.0, 10]],
        [[0, 0, 0, 10.5, 10]], [[0, 0, 0, True, 10]], [[0, 0, 0, "10", 10]], [[0, 0, 0, None, 10]],
        [[0, 0, 0, [10], 10]], [[0, 0, 0, 10]], [[0, 0, 0, 10, 10, 10]], [0, 0, 0, 10, 10], "00000", {"0": [0]}, 7,
        None, [[]], [None], [[0, 0, 0, 10**9, 10]], [[0, 0, 0, 10**40, 10]], [[10**40, 0, 0, 10, 10]],
        [[0, 0, 0, 10, 10]] * (MOST_BOXES + 1), [list(BOX), [0, 0, 0, 0, 0]],
    ],
)  # fmt: skip
def test_what_is_no_box_does_nothing(review: Review, released: Released, boxes: object) -> None:
    name = review.named("burned.dcm")
    status, _, body = review.send({"id": name, "decision": "cleared", "boxes": boxes})
    assert status == 400, body
    assert review.quarantine.get(name).decision is Decision.PENDING
    assert not released
    assert not review.entries()


@pytest.mark.parametrize(
    "text",
    [
        "[[0,0,0,NaN,10]]", "[[0,0,0,Infinity,10]]", "[[-Infinity,0,0,10,10]]", "[[0,0,0,1e1,10]]",
        "[[0,0,0,1e999,10]]", "[[0,0,0,0x10,10]]", "[[0,0,0,010,10]]", f"[[0,0,0,{'9' * 9000},10]]",
        "[" * 8000, "[" * 8000 + "]" * 8000, '{"a":' * 3000, "[[0,0,0,10,10],]", "\ud83d",
    ],
)  # fmt: skip
def test_json_with_teeth_does_nothing(review: Review, released: Released, text: str) -> None:
    name = review.named("burned.dcm")
    body = f'{{"id":"{name}","decision":"cleared","boxes":{text}}}'.encode("utf-8", "surrogatepass")
    assert review.send(body)[0] == 400
    assert not released
    assert not review.entries()
    assert review.get("/api/held")[0] == 200  # the server is still there


@pytest.mark.parametrize(
    "more", [{"profile": "none"}, {"reviewer": "somebody else"}, {"__proto__": {}}, {"boxes ": []}], ids=str
)
def test_a_decision_has_nothing_else_in_it(review: Review, released: Released, more: dict[str, object]) -> None:
    assert review.send({"id": review.named("burned.dcm"), "decision": "cleared", **more})[0] == 400
    assert not released


@pytest.mark.parametrize("length", ["9" * 20, "9" * 5000, "16385", "-1", "1e3", "\u0661", " ", "0x10"])
def test_a_length_that_is_none_is_turned_away_unread(review: Review, length: str) -> None:
    import http.client

    from client.review.server import LOOPBACK, SECRET

    connection = http.client.HTTPConnection(LOOPBACK, review.server.server_address[1], timeout=5)
    connection.putrequest("POST", "/api/decide")
    for name, value in {"Origin": review.server.origin, SECRET: review.server.secret}.items():
        connection.putheader(name, value)
    connection.putheader("Content-Length", length.encode())
    connection.endheaders()
    assert connection.getresponse().status == 400
    connection.close()
    assert review.get("/api/held")[0] == 200


def test_most_boxes_of_the_largest_numbers_fit_into_a_request(review: Review) -> None:
    rows = [[-1, 65535, 65535, 65535, 65535]] * MOST_BOXES
    body = json.dumps({"id": "0" * 32, "decision": "cleared", "boxes": rows})
    assert review.send(body.encode())[0] == 404  # read, and there is no such record


def test_older_records_have_no_blanked_boxes(review: Review) -> None:
    name = review.named("burned.dcm")
    record = review.reports / "quarantine" / f"{name}.json"
    row = json.loads(record.read_text())
    del row["blanked"]
    record.write_text(json.dumps(row))
    assert review.quarantine.get(name).blanked == ()


edges = st.integers(-2, 300)
any_box = st.tuples(st.integers(-2, 4), edges, edges, edges, edges)


@given(any_box)
def test_a_box_that_passes_has_pixels_and_only_pixels_of_the_picture(box: FrameBox) -> None:
    frame, top, left, bottom, right = box
    inside = [(y, x) for y in (top, bottom - 1) for x in (left, right - 1)]
    good = (
        top < bottom
        and left < right
        and all(0 <= y < PICTURE.rows and 0 <= x < PICTURE.columns for y, x in inside)
        and (frame == EVERY_FRAME or 0 <= frame < PICTURE.frames)
    )
    if good:
        check_boxes([box], PICTURE)
    else:
        with pytest.raises(UsageError):
            check_boxes([box], PICTURE)


@given(st.lists(st.tuples(st.integers(-1, 2), *[st.integers(0, 3)] * 4), max_size=12))
def test_spread_boxes_cover_the_same_pixels(boxes: list[FrameBox]) -> None:
    spread = on_frames(boxes, PICTURE)
    assert len(set(spread)) == len(spread)
    wanted = {(f, *box[1:]) for box in boxes for f in (range(3) if box[0] == EVERY_FRAME else [box[0]])}
    assert set(spread) == wanted


def test_a_long_film_takes_no_flood_of_boxes() -> None:
    film_of_hours = Shape(frames=100_000, rows=100, columns=100)
    assert len(on_frames([(EVERY_FRAME, 0, 0, 1, 1)], Shape(99_999, 10, 10))) == 99_999
    with pytest.raises(UsageError, match="too many"):
        on_frames([(EVERY_FRAME, 0, 0, 1, n + 1) for n in range(3)], film_of_hours)
