"""A release: any content, any kind of file, one hospital as two witnesses, hostile words (docs/release.md)."""

import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.app import close_sessions
from compliance.bundle_check import check_bundle
from compliance.bundle_form import MANIFEST, SIGNATURE
from compliance.endorse import Endorsement, site_origin
from compliance.model_cli import app as model_app
from compliance.note import Signer, write_note
from compliance.place import Place
from shared.errors import FedwardError
from tests.compliance.test_bundle import seal
from tests.federation.released import SITES, Ended

HTML = "<img src=x onerror=alert(1)>\u202egnp.exe [a](javascript:alert(1)) =cmd|' /C calc'!A0"


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_sessions()


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    made = Ended.make(tmp_path_factory.mktemp("federation"))
    made.witnessed(*SITES)
    made.release(made.root / "out", *SITES)
    return made


@pytest.fixture
def folder(ended: Ended, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ended.root / "out", tmp_path / "release"))


BOMBS = {
    "deep": b'{"a":' * 60_000,
    "digits": b'{"v":' + b"9" * 6_000 + b"}",
    "surrogate": b'{"v":"\\ud800"}',
    "binary": bytes(range(256)),
    "nan": b'{"v":NaN}',
    "list": b"[]",
    "empty": b"",
}


@pytest.mark.parametrize("what", BOMBS)
@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "history.json",
        "layout.json",
        "entry.json",
        "endorsement.json",
        "statements/H1.json",
        "charter.toml",
        "authority.pem",
        "model.json",
        "model.safetensors",
        "SIGNATURE",
        "checkpoints/coordinator",
    ],
)
def test_a_release_with_any_content_is_refused_with_a_documented_status(
    ended: Ended, folder: Path, name: str, what: str
) -> None:
    """Docs: exit 2 the folder is no release; 9 something does not hold. The coordinator itself signs what it likes."""
    (folder / name).write_bytes(BOMBS[what])
    if name not in {MANIFEST, SIGNATURE}:
        seal(folder, Place.open(ended.coordinator.folder).signer)
    done = CliRunner().invoke(model_app, ["verify", str(folder), "--charter", ended.charter.sha256])
    error = done.exception
    assert error is not None
    code = (
        error.exit_code if isinstance(error, FedwardError) else error.code if isinstance(error, SystemExit) else error
    )
    assert code in {2, 9}, repr(code)


def test_one_hospital_with_two_log_keys_is_one_witness(ended: Ended, folder: Path) -> None:
    """Docs: the checkpoint "is cosigned by --quorum hospitals of the charter". H1 and the coordinator collude."""
    node = ended.node("H1")
    identity = node.identity
    origin = site_origin("H1", identity.public_key().public_bytes_raw())
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = folder / "checkpoints" / "coordinator"
    raw = path.read_bytes().decode()
    text, lines = raw.split("\n\n", 1)
    first = [line + "\n" for line in lines.splitlines() if "/H1/" in line or "/hub/" in line]
    assert len(first) == 2
    other = Signer(origin, Ed25519PrivateKey.generate())
    for site in SITES:
        (folder / "statements" / f"{site}.json").unlink()
        (folder / "checkpoints" / "sites" / site).unlink()
    (folder / "endorsements").mkdir(exist_ok=True)
    mine = (ended.root / "H1" / "audit" / "endorsement.json").read_bytes()
    second = Endorsement.make(origin, other.public, identity, now=datetime.now(UTC) - timedelta(minutes=1))
    (folder / "endorsements" / "H1.json").write_bytes(mine)
    second.save(folder / "endorsements" / "H1b.json")
    second.save(folder / "endorsements" / "H2.json")
    path.write_bytes(write_note(text + "\n", *first, other.cosign(text + "\n", datetime.now(UTC))))
    seal(folder, Place.open(ended.coordinator.folder).signer, sites=[])
    try:
        report = check_bundle(folder, charter=ended.charter.sha256, quorum=2)
    except FedwardError:
        return
    assert not report.holds
    about = {one.what: one for one in report.findings}.get("checkpoints/coordinator")
    assert about is None or about.verdict.value != "ok", about


@pytest.mark.parametrize("how", ["fifo", "folder", "socket", "link", "fifo beside", "dot", "newline"])
def test_what_is_no_plain_file_hangs_nothing_and_is_told(folder: Path, how: str) -> None:
    """Docs: "none is missing, there is none beside them, and each is a plain file"."""
    path = folder / "model.json"
    if how == "fifo":
        path.unlink()
        os.mkfifo(path)
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "link":
        path.rename(folder.parent / "m")
        path.symlink_to(folder.parent / "m")
    elif how == "fifo beside":
        os.mkfifo(folder / "x")
    elif how == "dot":
        (folder / ".hidden").write_text("x")
    elif how == "newline":
        (folder / "a\nok           SIGNATURE: holds").write_text("x")
    else:
        import socket

        path.unlink()
        here = Path.cwd()
        os.chdir(folder)
        try:
            socket.socket(socket.AF_UNIX).bind("model.json")
        finally:
            os.chdir(here)
    ended_: list[Any] = []
    thread = threading.Thread(target=lambda: ended_.append(CliRunner().invoke(model_app, ["verify", str(folder)])))
    thread.daemon = True
    thread.start()
    thread.join(20)
    assert ended_, "it hangs"
    done = ended_[0]
    assert done.exit_code != 0 or done.exception is not None
    assert "\nok           SIGNATURE: holds" not in done.output


def test_no_pseudonym_patient_count_or_path_is_in_a_release(ended: Ended, folder: Path) -> None:
    whole = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    for word in (b"PATIENT-", str(ended.root).encode(), b"/tmp", b"identity.key"):
        assert word not in whole, word


def test_a_card_shows_hostile_words_of_provider_and_hospital_as_they_are(ended: Ended, tmp_path: Path) -> None:
    """Docs: "Text from outside is shown as it is and carries neither mark-up nor links"."""
    cells = [
        {
            "task": "toy",
            "grouping": "sex | x",
            "group": HTML.replace("\u202e", "")[:60],
            "n": 21,
            "metrics": {"psnr": 30.0},
        }
    ]
    (tmp_path / "q.json").write_text(json.dumps({"cells": cells}))
    path = ended.state("H1", name="hostile", quality=tmp_path / "q.json", within=tmp_path)
    text = (
        HTML.replace("\u202e", "")
        + "\n## 9. Fake\n| a | b |\n![x](http://evil.example/p.png) http://evil.example www.evil.example"
    )
    ended.release(
        tmp_path / "out", statements=(path,), intended_use=(text,), facts={"provider": text}, version="1", reason=text
    )
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    for bad in (r"^## 9\. Fake", r"(?<!\\)!\[x\]", r"(?<!\\)<img", r"(?<!\\)\]\(javascript", r"(?<![\\\w])http://evil"):
        assert not re.search(bad, card, flags=re.MULTILINE), bad
    assert len(re.findall(r"^## \d", card, flags=re.MULTILINE)) == 9
