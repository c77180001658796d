"""The keys of links: on P-384, for their owner alone, in one form."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.errors import OutputError, PolicyError, UsageError
from shared.link_keys import make_key, public_der, public_key, read_key


def written(path: Path, key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey, password: bytes = b"") -> Path:
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock))
    path.chmod(0o600)
    return path


def test_a_key_reads_back_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    key = make_key(tmp_path / "a.key")
    assert (tmp_path / "a.key").stat().st_mode & 0o777 == 0o600
    assert read_key(tmp_path / "a.key").private_numbers() == key.private_numbers()
    der = public_der(key.public_key())
    assert len(der) == 120
    assert public_der(public_key(der)) == der


def test_a_key_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        make_key(tmp_path / "file" / "a.key")


def test_other_keys_are_refused_in_one_line(tmp_path: Path) -> None:
    others = {
        "curve": written(tmp_path / "1", ec.generate_private_key(ec.SECP256R1())),
        "kind": written(tmp_path / "2", Ed25519PrivateKey.generate()),
        "locked": written(tmp_path / "3", ec.generate_private_key(ec.SECP384R1()), b"secret"),
    }
    for path in others.values():
        with pytest.raises(UsageError, match=r"P-384|damaged") as caught:
            read_key(path)
        assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"\xff", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_damaged_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.key").write_bytes(content)
    (tmp_path / "a.key").chmod(0o600)
    with pytest.raises(UsageError, match="is damaged"):
        read_key(tmp_path / "a.key")


def test_a_key_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    make_key(tmp_path / "a.key")
    (tmp_path / "a.key").chmod(0o640)
    with pytest.raises(PolicyError, match="others may read") as caught:
        read_key(tmp_path / "a.key")
    assert "chmod 600" in caught.value.hint


def test_a_key_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file") as caught:
        read_key(tmp_path / "a.key", missing="make one")
    assert caught.value.hint == "make one"
