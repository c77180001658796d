from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Proof(_message.Message):
    __slots__ = ("old_size", "new_size", "hashes")
    OLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    NEW_SIZE_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    old_size: int
    new_size: int
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, old_size: _Optional[int] = ..., new_size: _Optional[int] = ..., hashes: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Head(_message.Message):
    __slots__ = ("checkpoint", "endorsement", "proofs")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    ENDORSEMENT_FIELD_NUMBER: _ClassVar[int]
    PROOFS_FIELD_NUMBER: _ClassVar[int]
    checkpoint: bytes
    endorsement: bytes
    proofs: _containers.RepeatedCompositeFieldContainer[Proof]
    def __init__(self, checkpoint: _Optional[bytes] = ..., endorsement: _Optional[bytes] = ..., proofs: _Optional[_Iterable[_Union[Proof, _Mapping]]] = ...) -> None: ...

class Cosignature(_message.Message):
    __slots__ = ("origin", "size", "line")
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    origin: str
    size: int
    line: bytes
    def __init__(self, origin: _Optional[str] = ..., size: _Optional[int] = ..., line: _Optional[bytes] = ...) -> None: ...

class Seen(_message.Message):
    __slots__ = ("origin", "size")
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    origin: str
    size: int
    def __init__(self, origin: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class TurnRequest(_message.Message):
    __slots__ = ("own", "cosignatures", "seen")
    OWN_FIELD_NUMBER: _ClassVar[int]
    COSIGNATURES_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    own: Head
    cosignatures: _containers.RepeatedCompositeFieldContainer[Cosignature]
    seen: _containers.RepeatedCompositeFieldContainer[Seen]
    def __init__(self, own: _Optional[_Union[Head, _Mapping]] = ..., cosignatures: _Optional[_Iterable[_Union[Cosignature, _Mapping]]] = ..., seen: _Optional[_Iterable[_Union[Seen, _Mapping]]] = ...) -> None: ...

class TurnReply(_message.Message):
    __slots__ = ("others", "cosignatures", "wanted")
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    COSIGNATURES_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    others: _containers.RepeatedCompositeFieldContainer[Head]
    cosignatures: _containers.RepeatedCompositeFieldContainer[Cosignature]
    wanted: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, others: _Optional[_Iterable[_Union[Head, _Mapping]]] = ..., cosignatures: _Optional[_Iterable[_Union[Cosignature, _Mapping]]] = ..., wanted: _Optional[_Iterable[int]] = ...) -> None: ...
