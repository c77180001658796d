"""Not one planted identifier may come out, wherever it was planted."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import ExplicitVRBigEndian

from client.deid import Profile, Status
from tests.attacks.deid.planting import (
    TELLING,
    Hospital,
    Secret,
    ct,
    data,
    everything,
    found,
    nested,
    put,
    rows,
    secret,
    tag_of,
)
from tests.client.deid.experts import determination, digest_of

# Sequences that Table E.1-1 does not name and that a careless tool does not enter: codes, references, functional
# groups, and one that no dictionary knows.
SEQUENCES = (0x00089215, 0x00081115, 0x52009229, 0x0040A170, 0x00189346)
UNKNOWN_SEQUENCE = 0x00187771

# What the file cannot do without is replaced, not removed, so these rows are looked at one by one elsewhere.
SET_BY_THE_FILE = {0x00080018, 0x0020000D, 0x0020000E, 0x00020003, 0x00041511}

# "Retain" means retain: what the options of research keep as it is (PS3.15 E.3.3, Retain Patient Characteristics).
KEPT_BY_RESEARCH = "retain_patient_characteristics"


@pytest.fixture
def research(tmp_path: Path) -> Profile:
    return load_research(tmp_path)


def load_research(folder: Path) -> Profile:
    return Profile.load("research", determination=determination(folder / "expert", digest_of("research")))


def profile_of(name: str, folder: Path) -> Profile:
    return load_research(folder) if name == "research" else Profile.load(name)


def table_secrets(profile: str) -> list[Secret]:
    """A secret for every row of Table E.1-1 that the profile may not keep."""
    secrets = []
    for number, row in enumerate(rows()):
        tag = tag_of(str(row["tag"]))
        options = row.get("options", {})
        assert isinstance(options, dict)
        kept = profile == "research" and options.get(KEPT_BY_RESEARCH) == "K"
        times = profile == "research" and row["vr"] == "TM" and "retain_long_modified_dates" in options
        zone = tag == 0x00080201
        ages = profile == "safe-harbor" and tag == 0x00101010
        if tag is None or tag in SET_BY_THE_FILE or tag >> 16 in (0, 2, 4) or kept or times or zone or ages:
            continue
        secrets.append(secret(tag, str(row["vr"]), number))
    return secrets


def everywhere(dataset: FileDataset, planted: Dataset, depth: int) -> None:
    """Put ``planted`` below ``depth`` sequences of several kinds."""
    if depth == 0:
        dataset.update(planted)
        return
    for top in (SEQUENCES, (UNKNOWN_SEQUENCE,)):
        for start in range(len(top)):
            dataset.update(nested(planted, depth, top[start:] + top[:start]))


@pytest.mark.control("HIPAA-164.514-b2-identifiers")
@pytest.mark.parametrize("implicit", [False, True], ids=["explicit", "implicit"])
@pytest.mark.parametrize("depth", [0, 1, 3, 8])
@pytest.mark.parametrize("profile", ["basic", "safe-harbor", "research"])
def test_every_row_of_the_table_at_every_depth(tmp_path: Path, profile: str, depth: int, implicit: bool) -> None:
    hospital = Hospital(tmp_path, profile_of(profile, tmp_path))
    secrets = table_secrets(profile)
    assert len(secrets) > 570
    dataset = ct(implicit=implicit)
    planted = Dataset()
    for one in secrets:
        put(planted, one)
    everywhere(dataset, planted, depth)
    hospital.add("slice", dataset)
    planted_bytes = data(dataset)
    assert all(found(planted_bytes, one.traces) for one in secrets if one.traces), "the test itself must plant"

    report = hospital.release()

    assert report.released == 1
    [content] = hospital.released().values()
    leaked = [one for one in secrets if found(content, one.traces)]
    assert not leaked


def test_binary_values_of_the_table_are_gone(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, Profile.load("basic"))
    dataset = ct()
    binary = [one for one in table_secrets("basic") if not one.traces]
    for one in binary:
        put(dataset, one)
    hospital.add("slice", dataset)
    hospital.release()
    [out] = hospital.datasets()
    assert binary
    assert not [one for one in binary if one.tag in out]


def text_attributes() -> list[tuple[int, str]]:
    """Every attribute of PS3.6 that holds characters, one of each row."""
    characters = {"LO", "SH", "ST", "LT", "UT", "UC", "UR", "CS", "PN", "AE"}
    return [(tag, entry[0]) for tag, entry in DicomDictionary.items() if entry[0] in characters]


@pytest.mark.control("HIPAA-164.514-b2-identifiers")
@pytest.mark.parametrize("value", TELLING)
@pytest.mark.parametrize("profile", ["basic", "research"])
def test_known_identifiers_in_every_text_attribute_of_the_dictionary(tmp_path: Path, profile: str, value: str) -> None:
    """SoftwareVersions, SequenceName, CodeMeaning and 2,000 others: the patient's own identifiers are found in all."""
    hospital = Hospital(tmp_path, profile_of(profile, tmp_path))
    untouched = set(ct().keys()) | SET_BY_THE_FILE
    dataset = ct()
    inner = Dataset()
    for tag, vr in text_attributes():
        if tag in untouched or tag >> 16 in (0, 2, 4):
            continue
        shown = {"CS": f"{value[:12].upper()}", "UR": f"urn:x:{value}"}.get(vr, f"x_{value}2")
        if vr == "CS" and "-" in value:
            continue
        for target in (dataset, inner):
            put(target, Secret(tag, vr, shown, ()))
    dataset.update(nested(inner, 2, SEQUENCES))
    hospital.add("slice", dataset)
    hospital.release()
    [content] = hospital.released().values()
    assert not found(content, [value.encode(), value[:12].encode()])


@pytest.mark.parametrize(
    "shape",
    ["ERIKA MUSTERMANN", "mustermann,erika", "E.Mustermann", "tseMUSTERMANN3d", "Mústermann", "ＭＵＳＴＥＲＭＡＮＮ",
     "seen 21.03.1957", "seen on 1957-03-21", "born 21Mar1957", "PID 4711 0815", "pid_47110815_x", "acc-7654321",
     "1.2.826.0.1.4711.1"],
)  # fmt: skip
def test_known_identifiers_however_they_are_written(tmp_path: Path, shape: str) -> None:
    hospital = Hospital(tmp_path, Profile.load("basic"))
    dataset = ct()
    dataset.SoftwareVersions = shape
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99X", shape
    dataset.AnatomicRegionSequence = [code]
    hospital.add("slice", dataset)
    hospital.release()
    [out] = hospital.datasets()
    assert out.SoftwareVersions == "REMOVED"
    assert out.AnatomicRegionSequence[0].CodeMeaning == "REMOVED"


NAMES = {
    "ISO_IR 100": "Müller^Jürgen",
    "ISO_IR 144": "Люкceмбypг^Иван",
    "ISO_IR 126": "Διονυσιος^Νικος",
    "ISO_IR 127": "قباني^لنزار",
    "ISO_IR 138": "שרון^דבורה",
    "ISO_IR 192": "Wáng^XiǎoDōng=王^小东",
    "GB18030": "Wang^XiaoDong=王^小东",
    "\\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "\\ISO 2022 IR 149": "Hong^Gildong=洪^吉洞=홍^길동",
}


@pytest.mark.control("HIPAA-164.514-b2-identifiers")
@pytest.mark.parametrize("character_set", NAMES)
def test_names_in_every_script(tmp_path: Path, character_set: str) -> None:
    hospital = Hospital(tmp_path, Profile.load("basic"))
    name = NAMES[character_set]
    dataset = ct()
    dataset.SpecificCharacterSet = character_set.split("\\")
    dataset.PatientName = name
    words = [
        word for group in name.split("=") for word in [group.replace("^", " "), *group.split("^")] if len(word) > 1
    ]
    dataset.SoftwareVersions = words
    dataset.ImageComments = dataset.StudyDescription = name
    hospital.add("slice", dataset)
    hospital.release()
    [content] = hospital.released().values()
    [out] = hospital.datasets()
    assert out.SoftwareVersions == "REMOVED"
    python = {"ISO_IR 100": "latin-1", "ISO_IR 192": "utf-8", "GB18030": "gb18030", "ISO_IR 144": "iso8859_5",
              "ISO_IR 126": "iso8859_7", "ISO_IR 127": "iso8859_6", "ISO_IR 138": "iso8859_8",
              "\\ISO 2022 IR 87": "iso2022_jp", "\\ISO 2022 IR 149": "euc_kr"}[character_set]  # fmt: skip
    encoded = [word.encode(python, "ignore") for word in words]
    assert not found(content, [one for one in encoded if len(one) > 2])


def test_names_among_the_values_of_an_image_type(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, Profile.load("basic"))
    dataset = ct()
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "ERIKA", "M"]
    dataset.ScanOptions = ["WU", "BO"]
    dataset.OperatorsName = "Wu^Bo"
    hospital.add("slice", dataset)
    hospital.release()
    [out] = hospital.datasets()
    assert list(out.ImageType) == ["ORIGINAL", "PRIMARY", "REMOVED", "M"]
    assert "ScanOptions" not in out


def test_umlauts_spelt_out_are_the_same_name(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, Profile.load("basic"))
    dataset = ct()
    dataset.PatientName = "Müller-Lüdenscheidt^Jörg"
    dataset.SoftwareVersions = ["Mueller", "LUEDENSCHEIDT", "mullerludenscheidt"]
    hospital.add("slice", dataset)
    hospital.release()
    assert hospital.datasets()[0].SoftwareVersions == "REMOVED"


@pytest.mark.control("HIPAA-164.514-b2-C-dates")
@pytest.mark.parametrize("value", ["built 2019-07-21", "for Dr. House", "call +44 20 7946 0123", "a@hospital.example"])
def test_what_looks_like_a_date_a_number_or_an_address(tmp_path: Path, value: str) -> None:
    """Nobody's header says it, yet it does not look like a version or a kernel."""
    hospital = Hospital(tmp_path, Profile.load("basic"))
    dataset = ct()
    dataset.SoftwareVersions = dataset.Manufacturer = value
    dataset.SequenceName = "*tfl3d1_16"
    hospital.add("slice", dataset)
    hospital.release()
    [out] = hospital.datasets()
    assert out.SequenceName == "*tfl3d1_16"
    assert (out.SoftwareVersions, out.Manufacturer) == ("REMOVED", "REMOVED")


def test_names_in_tables_and_numbers(tmp_path: Path) -> None:
    """Lookup tables and arrays of numbers hold any bytes; a name in them is found."""
    hospital = Hospital(tmp_path, Profile.load("basic"))
    dataset = ct()
    lut = Dataset()
    lut.LUTDescriptor = [8, 0, 16]
    lut.add_new(0x00283006, "OW", b"\1\2Mustermann\3\4\5\6")
    dataset.ModalityLUTSequence = [lut]
    dataset.add_new(0x00189219, "SS", 1)
    dataset.add_new(0x00081161, "UL", [int.from_bytes(b"Must", "little"), int.from_bytes(b"erma", "little"), 0x6E6E])
    hospital.add("slice", dataset)
    hospital.release()
    [content] = hospital.released().values()
    [out] = hospital.datasets()
    assert not found(content, [b"Mustermann"])
    assert out[0x00189219].value == 1


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """An explicit VR element with a long length."""
    return (
        (tag >> 16).to_bytes(2, "little")
        + (tag & 0xFFFF).to_bytes(2, "little")
        + vr
        + b"\0\0"
        + len(value).to_bytes(4, "little")
        + value
    )


def implicit(tag: int, value: bytes, length: int | None = None) -> bytes:
    """An implicit VR element."""
    size = len(value) if length is None else length
    return (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little") + size.to_bytes(4, "little") + value


ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
SECRET = b"UnhidableQz7"


def _un_defined() -> bytes:
    item = implicit(0x00100010, SECRET) + implicit(0x00081140, implicit(ITEM, implicit(0x00104000, SECRET)))
    return element(0x00081140, b"UN", implicit(ITEM, item))


def _un_undefined() -> bytes:
    item = implicit(0x00104000, SECRET)
    body = implicit(ITEM, item, 0xFFFFFFFF) + implicit(ITEM_END, b"") + implicit(SEQUENCE_END, b"")
    head = element(0x00081140, b"UN", b"")[:-4]
    return head + b"\xff\xff\xff\xff" + body


def _un_text() -> bytes:
    return element(0x00080081, b"UN", SECRET)


def _un_unknown_attribute() -> bytes:
    return element(0x00187773, b"UN", implicit(ITEM, implicit(0x00100010, SECRET)))


def _wrong_vr() -> bytes:
    """Rows of an overlay description, a number in the dictionary, written as text."""
    return element(0x00189004, b"UT", SECRET) + element(0x00181319, b"UT", SECRET)


def _private(vr: bytes) -> Callable[[], bytes]:
    def make() -> bytes:
        creator = b"\x09\x00\x10\x00LO\x08\x00ACME 1.1"
        return creator + element(0x00091001, vr, SECRET + b" ")

    return make


def _private_sequence() -> bytes:
    creator = b"\x09\x00\x10\x00LO\x08\x00ACME 1.1"
    inside = element(0x00091002, b"UN", implicit(ITEM, implicit(0x00100010, SECRET)))
    return creator + element(0x00091001, b"SQ", implicit(ITEM, inside))


def _group_length_and_padding() -> bytes:
    return element(0xFFFCFFFC, b"OB", SECRET)


@pytest.mark.control("HIPAA-164.514-b2-identifiers")
@pytest.mark.parametrize("profile", ["basic", "research"])
@pytest.mark.parametrize(
    "hidden",
    [_un_defined, _un_undefined, _un_text, _un_unknown_attribute, _wrong_vr, _private(b"UN"), _private(b"OB"),
     _private(b"UT"), _private_sequence, _group_length_and_padding],
)  # fmt: skip
def test_secrets_in_unknown_and_private_encodings(tmp_path: Path, profile: str, hidden: Callable[[], bytes]) -> None:
    hospital = Hospital(tmp_path, profile_of(profile, tmp_path))
    whole = data(ct())
    planted = hidden()
    tag = int.from_bytes(planted[:2], "little") << 16 | int.from_bytes(planted[2:4], "little")
    # Elements stand in the order of their tags: find the place by walking with pydicom.
    following = next((one for one in ct() if one.tag > tag), None)
    at = (
        len(whole)
        if following is None
        else whole.index(
            bytes.fromhex(f"{following.tag.group:04x}")[::-1] + bytes.fromhex(f"{following.tag.elem:04x}")[::-1], 350
        )
    )
    hospital.add("slice", whole[:at] + planted + whole[at:])
    report = hospital.release()
    assert report.released == 1, next(report.records()).reason
    [content] = hospital.released().values()
    assert SECRET not in content


def test_safe_private_attributes_are_checked_like_all_others(tmp_path: Path, research: Profile) -> None:
    hospital = Hospital(tmp_path, research)
    dataset = ct()
    block = dataset.private_block(0x0019, "GEMS_ACQU_01", create=True)
    block.add_new(0x9E, "LO", "for Mustermann")
    block.add_new(0x27, "DS", "0.5")
    block.add_new(0x28, "LO", "not in the list")
    hospital.add("slice", dataset)
    hospital.release()
    [out] = hospital.datasets()
    kept = out.private_block(0x0019, "GEMS_ACQU_01")
    assert kept[0x27].value == 0.5
    assert kept[0x9E].value == "REMOVED"
    assert 0x28 not in kept


def test_around_the_data_set(tmp_path: Path) -> None:
    """Preamble, file meta information, file and folder names."""
    hospital = Hospital(tmp_path, Profile.load("basic"))
    dataset = ct()
    dataset.preamble = b"Mustermann Erika".ljust(128)
    dataset.file_meta.SourceApplicationEntityTitle = "AESECRET"
    dataset.file_meta.SendingApplicationEntityTitle = "AESECRET"
    dataset.file_meta.ImplementationVersionName = "AESECRET"
    dataset.file_meta.PrivateInformationCreatorUID = "1.2.826.0.1.4711.9"
    dataset.file_meta.PrivateInformation = b"AESECRET"
    hospital.add("Mustermann_Erika/19570321/scan.dcm", dataset)
    hospital.release()
    [(name, content)] = hospital.released().items()
    assert not found(content + name.encode(), [b"aesecret", b"mustermann", b"erika", b"1.2.826.0.1.4711"])
    assert content[:128] == b"\0" * 128


def test_every_uid_of_the_patient_is_replaced(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, Profile.load("basic"))
    hospital.add("slice", ct())
    hospital.release()
    [content] = hospital.released().values()
    assert b"1.2.826.0.1.4711" not in content


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian])
def test_other_byte_orders(tmp_path: Path, syntax: str) -> None:
    hospital = Hospital(tmp_path, Profile.load("basic"))
    dataset = ct()
    secrets = [one for one in table_secrets("basic") if one.vr in {"LO", "SH", "PN", "ST", "UT"}]
    for one in secrets:
        put(dataset, one)
    dataset.PixelData = bytes(128)
    dataset.file_meta.TransferSyntaxUID = syntax
    hospital.add("slice", dataset)
    assert hospital.release().released == 1
    [content] = hospital.released().values()
    assert not [one for one in secrets if found(content, one.traces)]


def test_nothing_of_a_quarantined_file_is_copied(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, Profile.load("basic"))
    hospital.add("good", ct())
    pdf = ct(2)
    pdf.SOPClassUID = "1.2.840.10008.5.1.4.1.1.104.1"
    pdf.EncapsulatedDocument = b"%PDF-1.4 Mustermann "
    cda = ct(3)
    cda.SOPClassUID = "1.2.840.10008.5.1.4.1.1.104.2"
    report = ct(4)
    report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    strange = ct(5)
    strange.SOPClassUID = "1.2.826.0.1.999"
    burned = ct(6)
    burned.BurnedInAnnotation = "YES"
    screen = ct(7)
    screen.ImageType = ["DERIVED", "SECONDARY", "SCREEN SAVE"]
    for number, one in enumerate((pdf, cda, report, strange, burned, screen)):
        hospital.add(f"held{number}", one)
    outcome = hospital.release()
    assert (outcome.released, outcome.quarantined, outcome.refused) == (1, 6, 0)
    assert len(hospital.released()) == 1
    reasons = {record.path: record.reason for record in outcome.records() if record.status is Status.QUARANTINED}
    assert set(reasons) == {f"held{number}" for number in range(6)}
    assert all(reasons.values())


def test_overlays_and_curves(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, Profile.load("basic"))
    dataset = ct()
    for group in (0x6000, 0x601E):
        dataset.add_new(group << 16 | 0x0010, "US", 8)
        dataset.add_new(group << 16 | 0x0022, "LO", "QzOverlay")
        dataset.add_new(group << 16 | 0x1500, "LO", "QzOverlay")
        dataset.add_new(group << 16 | 0x3000, "OW", b"QzOverlay ")
    dataset.add_new(0x50000022, "LO", "QzCurve ")
    dataset.add_new(0x50003000, "OW", b"QzCurve ")
    hospital.add("slice", dataset)
    hospital.release()
    [out] = hospital.datasets()
    assert not [one.tag for one in everything(out) if one.tag.group & 0xFF00 in (0x6000, 0x5000)]


@pytest.mark.parametrize(("bit", "signed"), [(15, False), (12, False), (15, True), (13, True)])
def test_overlay_bits_in_the_pixels(tmp_path: Path, bit: int, signed: bool) -> None:
    """Bits that Bits Stored does not cover: an overlay hidden there is cleared, and the picture stays as it is."""
    hospital = Hospital(tmp_path, Profile.load("basic"))
    dataset = ct()
    dataset.PixelRepresentation = int(signed)
    pixels = bytearray(dataset.PixelData)
    pixels[2 * 20 + 1] |= 1 << (bit - 8)
    dataset.PixelData = bytes(pixels)
    hospital.add("slice", dataset)
    assert hospital.release().released == 1
    [out] = hospital.datasets()
    assert out.PixelData == ct().PixelData


def test_negative_pixels_are_no_overlay(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, Profile.load("basic"))
    dataset = ct()
    dataset.PixelRepresentation = 1
    dataset.PixelData = b"\x00\xf8\xff\xff" * 32  # -2048 and -1, sign-extended over 16 bits
    hospital.add("slice", dataset)
    assert hospital.release().released == 1


def test_bytes_behind_the_pixels_and_pictures_inside_items(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, Profile.load("basic"))
    dataset = ct()
    dataset.PixelData += b"QzBehindThePixels "
    icon = Dataset()
    icon.add_new(0x7FE00010, "OW", b"QzIconPixels")
    dataset.AnatomicRegionSequence = [icon]
    dataset.add_new(0x7FE00002, "OV", b"QzOffset" * 2)
    hospital.add("slice", dataset)
    assert hospital.release().released == 1
    [content] = hospital.released().values()
    assert not found(content, [b"QzBehind", b"QzIcon", b"QzOffset"])
    assert len(hospital.datasets()[0].PixelData) == 128
