"""Expert determinations: signed by whom they name, changed by nobody, and read in one way only."""

import json
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.deid.determination import make_key, read_determination, sign
from shared.errors import PolicyError, UsageError
from tests.client.deid.experts import determination


def test_the_commands_make_a_key_sign_and_show(tmp_path: Path) -> None:
    run = CliRunner()
    key, draft, signed = (str(tmp_path / name) for name in ("expert.key", "draft.json", "signed.json"))
    made = run.invoke(app, ["expert", "key", key])
    assert (made.exit_code, (tmp_path / "expert.key").stat().st_mode & 0o777) == (0, 0o600)
    fingerprint = made.output.split()[-1]
    Path(draft).write_text(
        json.dumps({"expert": "E", "scope": "s", "profile_sha256": "0" * 64, "expires": "2030-01-01"})
    )
    assert run.invoke(app, ["expert", "sign", draft, signed, "--key", key]).exit_code == 0
    shown = run.invoke(app, ["expert", "show", signed])
    assert shown.exit_code == 0
    assert fingerprint in shown.output


@pytest.mark.control("HIPAA-164.514-b1-determination")
@pytest.mark.parametrize("field", ["expert", "scope", "profile_sha256", "expires", "public_key", "signature"])
def test_nothing_can_be_changed(tmp_path: Path, field: str) -> None:
    path = determination(tmp_path, "0" * 64)
    row = json.loads(path.read_text())
    row[field] = {"expires": "2998-12-31"}.get(field, row[field][:-1] + ("1" if row[field][-1] != "1" else "2"))
    path.write_text(json.dumps(row))
    with pytest.raises(PolicyError, match="signature"):
        read_determination(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"expert": ""},
        {"expires": "soon"},
        {"profile_sha256": "abc"},
        {"approved": "yes"},
        {"signature": None},
        {"public_key": None},
    ],
)
def test_what_is_no_determination(tmp_path: Path, changes: dict[str, str | None]) -> None:
    path = determination(tmp_path, "0" * 64)
    row = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in row.items() if value is not None}))
    with pytest.raises(UsageError, match="no expert determination"):
        read_determination(path)


def test_a_key_is_private_and_never_replaced(tmp_path: Path) -> None:
    determination(tmp_path, "0" * 64)
    key = tmp_path / "expert.key"
    with pytest.raises(UsageError, match="there already"):
        make_key(key)
    key.chmod(0o644)
    with pytest.raises(PolicyError, match="others may read"):
        sign(tmp_path / "draft.json", key, tmp_path / "other.json")
    key.chmod(0o600)
    key.write_text("no key")
    with pytest.raises(UsageError, match="no private key"):
        sign(tmp_path / "draft.json", key, tmp_path / "other.json")


def test_an_expired_determination_is_shown_as_such(tmp_path: Path) -> None:
    path = determination(tmp_path, "0" * 64, expires="2020-02-29")
    assert "EXPIRED on 2020-02-29" in CliRunner().invoke(app, ["expert", "show", str(path)]).output
    found = read_determination(path)
    assert not found.expired(date(2020, 2, 29))
    assert found.expired(date(2020, 3, 1))
    path = determination(tmp_path, "0" * 64)
    assert "EXPIRED" not in CliRunner().invoke(app, ["expert", "show", str(path)]).output


def test_signing_replaces_nothing_unasked(tmp_path: Path) -> None:
    before = determination(tmp_path, "0" * 64).read_bytes()
    (tmp_path / "draft.json").write_text((tmp_path / "draft.json").read_text().replace("tests", "others"))
    words = ["expert", "sign", *(str(tmp_path / name) for name in ("draft.json", "determination.json"))]
    words += ["--key", str(tmp_path / "expert.key")]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, UsageError)
    assert "--overwrite" in refused.exception.hint
    assert (tmp_path / "determination.json").read_bytes() == before
    assert CliRunner().invoke(app, [*words, "--overwrite"]).exit_code == 0
    assert read_determination(tmp_path / "determination.json").scope == "others"
    words[3] = str(tmp_path / "expert.key")  # the key as OUT
    assert isinstance(CliRunner().invoke(app, [*words, "--overwrite"]).exception, UsageError)
    assert (tmp_path / "expert.key").read_text().startswith("-----BEGIN")
