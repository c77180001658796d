"""The newest masked answers of this hospital, so that one that was lost on its way is sent again and not made again.

A coordinator or a link that was killed, or a line that broke, may lose an answer for which this hospital has trained,
has paid and has used up its masks. The very same request then gets the very same bytes, if this hospital still allows
it (its patients are counted in the index of the cohort): no image is looked at, nothing is charged, no mask is used,
and nobody learns what the first copy would not have told. Any other request is a new one. An answer is one of the
register of bases and consents, and of the day, that it was asked for under: where somebody has said no since, or his
consent may have ended, or the basis was taken away, it stays lost (GDPR Art. 7(3)).

One file for each kind of request, ``NODE/answers/train.bin`` and ``evaluate.bin`` (0600): the SHA-256 of the request
with the register and the day, that of what follows, the length of the checkpoint that went with the answer, the
checkpoint, the upload. It is no record of anything: where it is missing, torn or cannot be written, an answer that is
lost stays lost. Virtual hospitals keep none.
"""

import contextlib
import hashlib
from pathlib import Path

from flwr.app import RecordDict

from client import eligible
from client.records import read_register
from client.session import Session
from shared.errors import OutputError
from shared.files import atomic_file, canonical_json, private_folder
from shared.wire import EvaluateReply, EvaluateRequest, MaskedBody, TrainReply, TrainRequest

ANSWERS = "answers"
PRIVATE = 0o600
_BYTES = hashlib.sha256().digest_size
_LENGTH = 4  # bytes


def asked_under(session: Session, request: TrainRequest | EvaluateRequest) -> bytes:
    """What names a request and the state of consent in which it is answered; ask before the answer is made.

    It is the SHA-256 of everything in the request (its header, which has the model's digest, its layout, its masks, its
    checkpoint), of the digest of the register of bases and consents, and of the day (UTC).

    Raises:
        PolicyError: Others may read the register.
        RecordError: The register is damaged.
    """
    facts = {
        "kind": request.kind,
        "header": vars(request.header),
        "layout": request.layout,
        "masking": request.masking.hex(),
        "record": request.record,
        "register": read_register(session.node)[1],
        "day": eligible.today().isoformat(),
    }
    return hashlib.sha256(canonical_json(facts)).digest()


def kept_answer(session: Session, request: TrainRequest | EvaluateRequest, key: bytes) -> RecordDict | None:
    """What this hospital has answered to this very request, or None where it has not, or no longer may or knows.

    Args:
        session: The open node.
        request: The request.
        key: Of :func:`asked_under`, now.
    """
    if not request.masking or session.node.virtual:
        return None
    try:
        raw = _path(session, request).read_bytes()
    except OSError:
        return None
    kept = raw[2 * _BYTES :]
    if raw[: 2 * _BYTES] != key + hashlib.sha256(kept).digest():
        return None
    end = _LENGTH + int.from_bytes(kept[:_LENGTH])
    record, upload = kept[_LENGTH:end].decode(), kept[end:]
    reply = TrainReply if isinstance(request, TrainRequest) else EvaluateReply
    return reply(request.header, session.node.site, MaskedBody(upload), record).to_record()


def keep_answer(session: Session, request: TrainRequest | EvaluateRequest, key: bytes, answer: RecordDict) -> None:
    """Keep ``answer`` until the next one of its kind; best effort, since the answer itself must not fail for it.

    Args:
        session: The open node.
        request: The request.
        key: Of :func:`asked_under`, from before the answer was made: who withdraws meanwhile is in this one.
        answer: The answer.
    """
    reply = TrainReply if isinstance(request, TrainRequest) else EvaluateReply
    given = reply.from_record(answer)
    body, record = given.body, given.record.encode()
    if session.node.virtual or not isinstance(body, MaskedBody):
        return
    path = _path(session, request)
    with contextlib.suppress(OutputError):
        private_folder(path.parent)
        with atomic_file(path, mode=PRIVATE) as stream:
            head = len(record).to_bytes(_LENGTH) + record
            digest = hashlib.sha256(head)
            digest.update(body.upload)
            for part in (key, digest.digest(), head, body.upload):
                stream.write(part)


def _path(session: Session, request: TrainRequest | EvaluateRequest) -> Path:
    return session.node.folder / ANSWERS / f"{request.kind.partition('.')[0]}.bin"
