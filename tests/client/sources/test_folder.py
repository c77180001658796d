"""Folders, file-sets with a DICOMDIR, and zip archives: what is read, and what is refused with its reason."""

import os
import shutil
import stat
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydicom.fileset import FileSet

from client.deid import Profile
from client.ingest import Ingested, check_apart, ingest
from client.node import Node
from client.sources.archive import Limits, members_of, read_member
from client.sources.folder import Folder
from client.sources.intake import MalformedError
from client.sources.selection import Selection
from shared.errors import DataError, UsageError


def take_in(node: Node, root: Path, **selected: object) -> Ingested:
    return ingest(node, Folder(root), Selection(**selected), profile=Profile.load("basic"))  # type: ignore[arg-type]


def reasons(done: Ingested) -> dict[str, str]:
    return {line["where"]: line["reason"] for line in done.tally.lines if "where" in line}


def zipped(path: Path, files: Sequence[Path], name: str = "{}.dcm") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, file in enumerate(files):
            archive.write(file, name.format(number))
    return path


def test_a_folder_is_read_to_its_depths(node: Node, images: Path) -> None:
    done = take_in(node, images / "H1", modalities=frozenset({"MR"}))
    assert (done.tally.studies, done.tally.released, done.tally.incomplete) == (2, 10, False)
    assert len(done.cohort.entries) == 2


def test_what_is_no_image_is_named(node: Node, images: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    shutil.copytree(images / "H1", source)
    (source / "readme.txt").write_text("nothing")
    (source / "cut.dcm").write_bytes(next(source.rglob("001.dcm")).read_bytes()[:700])
    os.mkfifo(source / "pipe")
    (source / "loop").symlink_to(source, target_is_directory=True)
    done = take_in(node, source)
    assert set(reasons(done)) == {"readme.txt", "cut.dcm", "pipe", "loop"}
    assert done.tally.incomplete
    assert done.tally.released == 10
    assert stat.S_IMODE(done.report.stat().st_mode) == 0o600


def test_the_same_file_twice_is_one_and_another_with_its_uid_is_named(node: Node, images: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    shutil.copytree(images / "H1", source)
    first = sorted(source.rglob("001.dcm"))[0]
    shutil.copy(first, source / "zz-same.dcm")
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    (source / "zz-other.dcm").write_bytes(data)
    done = take_in(node, source)
    # Files of the root come first, in order of their names.
    assert set(reasons(done).values()) == {"another file has its SOP Instance UID and other content"}
    assert done.tally.released == 10


def test_a_node_is_kept_apart_from_its_images(tmp_path: Path) -> None:
    for node, source in ((tmp_path / "n", tmp_path), (tmp_path, tmp_path / "n"), (tmp_path, tmp_path)):
        with pytest.raises(UsageError, match="lie in each other"):
            check_apart(node, source)


# --- DICOMDIR -------------------------------------------------------------------------------------------------------


@pytest.fixture
def disc(tmp_path: Path, files: list[Path]) -> Path:
    fileset = FileSet()
    for path in files[:10]:
        fileset.add(path)
    out = tmp_path / "disc"
    fileset.write(out)
    return out


def test_a_file_set_is_what_its_index_names(node: Node, disc: Path, files: list[Path]) -> None:
    shutil.copy(files[12], disc / "LEFTOVER.dcm")
    (disc / "VIEWER").mkdir()
    (disc / "VIEWER" / "run.exe").write_bytes(b"MZ")
    done = take_in(node, disc)
    assert (done.tally.released, done.tally.lines) == (10, [])


def test_names_of_a_disc_may_come_in_small_letters(node: Node, disc: Path) -> None:
    for path in sorted(disc.rglob("*"), reverse=True):
        path.rename(path.with_name(path.name.lower()))
    assert take_in(node, disc).tally.released == 10


def test_files_that_an_index_names_in_vain_are_told(node: Node, disc: Path) -> None:
    gone = next(path for path in sorted(disc.rglob("*")) if path.is_file() and path.name != "DICOMDIR")
    gone.unlink()
    done = take_in(node, disc)
    assert list(reasons(done).values()) == ["named by the DICOMDIR, but not there"]
    assert done.tally.released == 9


def test_an_index_cannot_name_files_elsewhere(node: Node, disc: Path, files: list[Path], tmp_path: Path) -> None:
    shutil.copy(files[12], tmp_path / "SECRET")
    victim = next(path for path in sorted(disc.rglob("*")) if path.is_file() and path.name != "DICOMDIR")
    victim.unlink()
    victim.symlink_to(tmp_path / "SECRET")
    assert take_in(node, disc).tally.released == 9


def test_a_damaged_index_is_no_image_and_hides_nothing(node: Node, disc: Path) -> None:
    index = disc / "DICOMDIR"
    index.write_bytes(index.read_bytes()[:400])
    done = take_in(node, disc)
    assert list(reasons(done)) == ["DICOMDIR"]
    assert done.tally.released == 10


# --- archives -------------------------------------------------------------------------------------------------------


def test_an_archive_in_a_folder_and_by_itself(node: Node, files: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    archive = zipped(folder / "export.zip", files)
    done = take_in(node, folder)
    assert done.tally.released == 20
    assert list(folder.iterdir()) == [archive]
    other = Node.create(tmp_path / "other", site="H2", purpose="tests")
    assert take_in(other, archive).tally.released == 20


def test_names_that_lead_out_are_refused_and_write_nothing(node: Node, files: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "in"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "slip.zip", "w") as archive:
        for name, file in zip(("../../slip.dcm", "/slip.dcm", "..\\slip.dcm", "C:/slip.dcm"), files[5:], strict=False):
            archive.write(file, name)
            archive.filelist[-1].filename = name  # as an attacker writes it
        for file in files[:5]:
            archive.write(file, f"{file.parent.name}/{file.name}")
    before = set(tmp_path.rglob("*"))
    done = take_in(node, folder)
    assert done.tally.released == 5
    assert len(reasons(done)) == 4
    assert {path for path in set(tmp_path.rglob("*")) - before if node.folder not in path.parents} == set()


def test_a_bomb_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(8):
            archive.writestr(f"{number}.dcm", b"\0" * (1 << 20))
    with pytest.raises(MalformedError, match="beyond all measure"):
        list(members_of(bomb, Limits(member=1 << 20)))
    with pytest.raises(MalformedError, match="more than 4 files"):
        list(members_of(bomb, Limits(members=4)))
    assert {why for _, _, why in members_of(bomb, Limits(member=1 << 19, ratio=10_000))} == {
        "a member of an archive that is too large"
    }
    source = Folder(bomb, limits=Limits(members=4))
    with pytest.raises(DataError, match="an archive of more than 4 files"):
        source.studies(Selection())
    assert [problem.reason for problem in source.problems()] == ["an archive of more than 4 files"]


def test_two_members_of_one_name_are_two(files: list[Path], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(tmp_path / "twins.zip", "w") as archive:
        for file in files[:2]:
            archive.write(file, "image.dcm")
    source = Folder(tmp_path / "twins.zip")
    (study,) = source.studies(Selection())
    assert len(source.instances(study, Selection())) == 2


def test_a_member_that_lies_about_its_length_is_cut_off(tmp_path: Path) -> None:
    liar = tmp_path / "liar.zip"
    with zipfile.ZipFile(liar, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", b"\0" * (1 << 20))
    data = bytearray(liar.read_bytes())
    for magic, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.index(magic) + place, 1000)
    liar.write_bytes(data)
    with pytest.raises(MalformedError):
        read_member(liar, 0, Limits())


def test_encrypted_and_unusual_members_are_named(node: Node, files: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    zipped(folder / "good.zip", files[:5])
    with zipfile.ZipFile(folder / "odd.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.write(files[5], "lzma.dcm")
    locked = zipped(folder / "locked.zip", files[6:7])
    data = bytearray(locked.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    data[data.index(b"PK\x03\x04") + 6] |= 1
    locked.write_bytes(data)
    (folder / "broken.zip").write_bytes(b"PK\3\4" + b"\0" * 50)
    done = take_in(node, folder)
    assert reasons(done) == {
        "odd.zip!lzma.dcm": "a member of an archive in an unusual compression",
        "locked.zip!0.dcm": "an encrypted member of an archive",
        "broken.zip": "a damaged archive",
    }
    assert done.tally.released == 5


def test_an_index_in_an_archive_is_no_image(node: Node, disc: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "disc"), "zip", disc)
    done = take_in(node, Path(archive))
    assert (done.tally.released, done.tally.lines) == (10, [])
