"""The ledger of a hospital on disk: what a killed process, a full disk, a damaged or an older file do to it."""

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.mask_ledger import LEDGER, MARK, MaskLedger
from shared.errors import OutputError, PolicyError, RecordError
from tests.shared.secagg.test_ledger import STATE

HOME, OTHER = bytes(range(32)), bytes(range(1, 33))
CONTEXT, ALL = b"c" * 32, (1, 2, 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture
def ledger(folder: Path) -> MaskLedger:
    """In epoch 1, of which round 1 is over and round 2 claimed."""
    made = MaskLedger(folder, HOME)
    made.seed(1)
    made.pin(1, STATE)
    made.claim(1, 1, CONTEXT, ALL)
    made.claim(1, 2, CONTEXT, ALL)
    made.forget(1, 1)
    return made


# --- kill -9 and the disk ---------------------------------------------------------------------------------------------


def test_a_process_that_is_killed_anywhere_leaves_the_old_or_the_new_ledger(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.client.killed_ledger", str(tmp_path)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("killed in") == 7


def test_what_a_killed_process_left_half_written_is_deleted(ledger: MaskLedger, folder: Path) -> None:
    (folder / f".{LEDGER}.abc.part").write_bytes(b"secrets")
    assert ledger.claimed(1, 2) is not None
    assert sorted(path.name for path in folder.iterdir()) == [LEDGER, MARK]


def opened_as(handle: int) -> Path:
    return Path(f"/proc/self/fd/{handle}").readlink()


def test_content_is_synced_before_it_takes_its_place_and_the_folder_and_the_mark_after(
    ledger: MaskLedger, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def noted(name: str) -> None:
        real = getattr(os, name)

        def call(first: int | Path, *others: object) -> object:
            place = opened_as(first) if isinstance(first, int) else Path(first)
            done.append(f"{name} {'part' if place.suffix == '.part' else place.name}")
            return real(first, *others)

        monkeypatch.setattr(os, name, call)

    for name in ("fsync", "replace", "pwrite"):
        noted(name)
    change = ["fsync part", "replace part", "fsync ledger", f"pwrite {MARK}", f"fsync {MARK}"]
    ledger.claim(1, 3, CONTEXT, ALL)
    ledger.confirm(1, 3, ALL)
    ledger.unmask(1, 3, ALL)
    assert done == change * 3
    done.clear()
    # What changes nothing waits for no disk: the mark says that the change before is durable.
    ledger.unmask(1, 3, ALL)
    ledger.confirm(1, 3, ALL)
    ledger.pin(1, STATE.at(3))
    ledger.forget(1, 0)
    ledger.state(1)
    assert done == []


def test_a_change_whose_process_died_before_the_mark_is_made_durable_by_the_next(
    ledger: MaskLedger, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (folder / MARK).read_bytes()
    ledger.confirm(1, 2, ALL)
    after = (folder / MARK).read_bytes()
    (folder / MARK).write_bytes(before)
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(opened_as(handle).name))
    ledger.confirm(1, 2, ALL)
    assert synced == ["ledger", MARK]
    assert (folder / MARK).read_bytes() == after


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("call", ["open", "fsync", "replace", "pwrite"])
def test_nothing_is_claimed_on_a_disk_that_refuses(
    ledger: MaskLedger, folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    before = (folder / LEDGER).read_bytes()
    for _ in range(2):
        monkeypatch.setattr(os, call, refuse)
        with pytest.raises(OutputError, match=os.strerror(code)):
            ledger.claim(1, 3, CONTEXT, ALL)
        monkeypatch.undo()
        assert sorted(path.name for path in folder.iterdir()) == [LEDGER, MARK]
    if call == "pwrite":  # the ledger was written, and nobody was told: the round is used up for nothing
        assert ledger.claimed(1, 3) is not None
        with pytest.raises(PolicyError, match="used up"):
            ledger.claim(1, 3, CONTEXT, ALL)
    else:
        assert (folder / LEDGER).read_bytes() == before
        ledger.claim(1, 3, CONTEXT, ALL)


def test_a_mark_that_fits_only_in_part_is_a_full_disk(ledger: MaskLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda *_: 5)
    with pytest.raises(OutputError, match="No space"):
        ledger.claim(1, 3, CONTEXT, ALL)


def test_the_folder_may_be_unusable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="cannot write"):
        MaskLedger(tmp_path / "file", HOME).seed(1)


# --- one at a time ----------------------------------------------------------------------------------------------------


def test_whoever_comes_second_waits(ledger: MaskLedger, folder: Path) -> None:
    with (folder / MARK).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = threading.Thread(target=ledger.claim, args=(1, 3, CONTEXT, ALL), daemon=True)
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
    waiting.join(10)
    assert ledger.claimed(1, 3) is not None


def test_of_many_at_once_one_has_the_round(ledger: MaskLedger, folder: Path) -> None:
    won: list[int] = []

    def claims(number: int) -> None:
        for one in range(3, 8):
            with contextlib.suppress(PolicyError):
                MaskLedger(folder, HOME).claim(1, one, bytes([number]) * 32, ALL)
                won.append(one)

    threads = [threading.Thread(target=claims, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [3, 4, 5, 6, 7]


# --- what is refused --------------------------------------------------------------------------------------------------


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_only_the_owner_may_read(ledger: MaskLedger, folder: Path) -> None:
    assert [mode(path) for path in (folder, folder / LEDGER, folder / MARK)] == [0o700, 0o600, 0o600]
    for path in (folder, folder / LEDGER, folder / MARK):
        right = mode(path)
        for more in (0o040, 0o004, 0o020):
            path.chmod(right | more)
            with pytest.raises(PolicyError, match=f"others may read {path}") as refused:
                ledger.state(1)
            assert refused.value.hint == f"run: chmod {right:o} {path}"
        path.chmod(right)
    assert ledger.state(1) is not None


def damages(raw: bytes) -> Iterator[bytes]:
    for place in range(len(raw)):
        yield raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        if place:
            yield raw[:place]
    yield raw + b"\0"
    yield raw + raw


@pytest.mark.parametrize("name", [LEDGER, MARK])
def test_a_damaged_file_is_refused_and_the_way_out_is_a_new_epoch(ledger: MaskLedger, folder: Path, name: str) -> None:
    path = folder / name
    raw = path.read_bytes()
    for damaged in damages(raw):
        path.write_bytes(damaged)
        with pytest.raises(RecordError, match=f"{path} is damaged") as refused:
            ledger.seed(2)
        assert "begin a new epoch" in refused.value.hint
        assert path.read_bytes() == damaged
    if name == LEDGER:
        path.unlink()
        assert ledger.state(1) is None
        with pytest.raises(PolicyError, match="epoch 1 is over"):
            ledger.seed(1)
    else:
        shutil.rmtree(folder)
    assert ledger.seed(2)


def test_a_file_that_cannot_be_read_now_is_not_called_damaged(
    ledger: MaskLedger, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fails)
    with pytest.raises(RecordError, match=f"cannot read {folder / MARK}") as refused:
        ledger.state(1)
    assert "delete" not in refused.value.hint
    monkeypatch.undo()
    (folder / LEDGER).unlink()
    (folder / LEDGER).mkdir()
    with pytest.raises(RecordError, match=f"cannot read {folder / LEDGER}"):
        ledger.state(1)


def test_a_ledger_of_another_release_is_damaged_too(ledger: MaskLedger, folder: Path) -> None:
    shutil.copyfile(folder / MARK, folder / LEDGER)
    with pytest.raises(RecordError, match="another release"):
        ledger.state(1)


def test_another_charter_ends_the_epoch_and_not_its_number(ledger: MaskLedger, folder: Path) -> None:
    other = MaskLedger(folder, OTHER)
    assert other.state(1) is None
    assert other.claimed(1, 2) is None
    for refused in (
        lambda: other.seed(1),
        lambda: other.pin(1, STATE),
        lambda: other.claim(1, 3, CONTEXT, ALL),
        lambda: other.confirm(1, 2, ALL),
        lambda: other.unmask(1, 2, ALL),
    ):
        with pytest.raises(PolicyError):
            refused()
    other.forget(1, 9)
    assert ledger.claimed(1, 2) is not None
    other.seed(3)
    for epoch in (1, 2, 3):
        assert ledger.state(epoch) is None
        with pytest.raises(PolicyError, match=f"epoch {epoch} is over"):
            ledger.seed(epoch)
    ledger.seed(4)
    with pytest.raises(PolicyError, match="epoch 4 is over"):
        other.seed(4)
    with pytest.raises(ValueError, match="32 bytes"):
        MaskLedger(folder, b"short")


@pytest.mark.parametrize("step", ["claim", "confirm", "seed"])
def test_an_older_copy_is_refused_for_ever(ledger: MaskLedger, folder: Path, tmp_path: Path, step: str) -> None:
    copy = tmp_path / "copy"
    shutil.copyfile(folder / LEDGER, copy)
    {
        "claim": lambda: ledger.claim(1, 3, CONTEXT, ALL),
        "confirm": lambda: ledger.confirm(1, 2, ALL),
        "seed": lambda: ledger.seed(2),
    }[step]()
    newest = 2 if step == "seed" else 1
    for _ in range(2):
        shutil.copyfile(copy, folder / LEDGER)
        with pytest.raises(PolicyError, match="is an older copy") as refused:
            ledger.state(1)
        assert f"delete {folder / LEDGER}" in refused.value.hint
        assert f"above {newest}" in refused.value.hint
        (folder / LEDGER).unlink()
        with pytest.raises(PolicyError, match=f"epoch {newest} is over"):
            ledger.seed(newest)
        newest += 1
        ledger.seed(newest)


def test_a_copy_from_before_the_folder_was_deleted_is_refused(ledger: MaskLedger, folder: Path, tmp_path: Path) -> None:
    for epoch in (2, 3):
        ledger.seed(epoch)
    shutil.copyfile(folder / LEDGER, tmp_path / "copy")
    shutil.rmtree(folder)
    for epoch in (4, 5):
        ledger.seed(epoch)
    shutil.copyfile(tmp_path / "copy", folder / LEDGER)
    with pytest.raises(PolicyError, match="is an older copy"):
        ledger.state(3)


def test_a_mark_that_is_deleted_or_older_is_refused(ledger: MaskLedger, folder: Path) -> None:
    old = (folder / MARK).read_bytes()
    ledger.confirm(1, 2, ALL)
    ledger.unmask(1, 2, ALL)
    for mark in (old, b""):
        (folder / MARK).write_bytes(mark)
        with pytest.raises(PolicyError, match="is an older copy"):
            ledger.state(1)


def test_a_whole_folder_that_is_put_back_cannot_be_told_apart(ledger: MaskLedger, folder: Path, tmp_path: Path) -> None:
    """The limit that the module and ``docs/secure-aggregation.md`` name."""
    shutil.copytree(folder, tmp_path / "copy")
    ledger.claim(1, 3, CONTEXT, ALL)
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "copy", folder)
    assert ledger.claimed(1, 3) is None


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_what_is_erased_is_in_no_file_any_more(folder: Path) -> None:
    def kept(secret: bytes) -> bool:
        return any(secret in path.read_bytes() for path in folder.iterdir())

    ledger = MaskLedger(folder, HOME)
    seed = ledger.seed(1)
    assert kept(seed)
    ledger.pin(1, STATE)
    assert not kept(seed)
    assert kept(STATE.own)
    ledger.forget(1, 1)
    assert not kept(STATE.own)
    assert kept(STATE.at(2).own)
    ledger.seed(2)
    assert not kept(STATE.at(2).own)


def test_no_error_shows_a_secret(folder: Path) -> None:
    ledger = MaskLedger(folder, HOME, lambda size: b"secret! " * (size // 8))
    ledger.seed(1)
    with (folder / LEDGER).open("ab") as stream:
        stream.write(b"secret! ")
    with pytest.raises(RecordError) as refused:
        ledger.seed(1)
    shown = [repr(ledger), *(repr(one) + str(one) for one in (refused.value, refused.value.__cause__))]
    assert "secret!" not in "".join(shown)
