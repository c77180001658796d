"""Who was scanned, when, and by whom: identifiers in every place where real headers hold them.

Everything is invented, but complete: direct identifiers, free text that repeats the name, sequences two and three
levels deep, private blocks, dates over years. De-identification is judged by what it does with these.
"""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid

from simulation.sites.names import Name, draw_name, draw_staff
from simulation.sites.specs import CtProtocol, SiteSpec

LOCAL_CODES = "99FEDWARD"
PRIVATE_CREATOR = "FEDWARD SIMULATED 1.0"
PRIVATE_GROUP = 0x0029
FIRST_DAY = date(2016, 1, 4)
NINETY = 90
OLDEST_INDEX = 1  # this patient of every site is past ninety
LOCAL_SCRIPT_SHARE = 0.5

# Private attributes that PS3.15 table E.3.10-1 lists as safe: group, creator, element, VR, value.
SAFE_PRIVATE: dict[tuple[str, str], tuple[int, str, int, str, object]] = {
    ("SIEMENS", "MR"): (0x0019, "SIEMENS MR HEADER", 0x0C, "IS", "0"),
    ("Philips Medical Systems", "MR"): (0x2005, "Philips MR Imaging DD 001", 0x0E, "FL", 1.0),
    ("GE MEDICAL SYSTEMS", "MR"): (0x0043, "GEMS_PARM_01", 0x39, "IS", ["0", "0", "0", "0"]),
    ("GE MEDICAL SYSTEMS", "CT"): (0x0019, "GEMS_ACQU_01", 0x27, "DS", "0.5"),
}


@dataclass(frozen=True)
class Person:
    """A patient. ``weight`` in kg, ``height`` in m; the rest as in the header."""

    name: Name
    id: str
    national_id: str
    birth: date
    sex: str
    address: str
    phone: str
    mother: str
    weight: float
    height: float


@dataclass(frozen=True)
class Visit:
    """One study of a patient: when, under which numbers, and by whom. ``start`` in seconds after midnight."""

    index: int
    day: date
    start: int
    accession: str
    study_id: str
    request_id: str
    referring: str
    performing: str
    reading: str
    operator: str


def clock(seconds: int) -> str:
    """Seconds after midnight as a DICOM time."""
    return f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}"


def day(value: date) -> str:
    """A DICOM date."""
    return f"{value:%Y%m%d}"


def age_at(birth: date, when: date) -> int:
    """Full years."""
    return when.year - birth.year - ((when.month, when.day) < (birth.month, birth.day))


def draw_person(rng: np.random.Generator, site: SiteSpec, index: int) -> Person:
    """Patient ``index`` of a site; the first one always has a name in the site's own script."""
    sex = "F" if rng.random() < 0.5 else "M"
    script = site.script if index == 0 or rng.random() < LOCAL_SCRIPT_SHARE else "latin"
    name = draw_name(rng, script, sex)
    if index == OLDEST_INDEX:
        birth = FIRST_DAY - timedelta(days=int(rng.integers(int(365.25 * (NINETY + 1)), int(365.25 * 96))))
    else:
        birth = date(1932, 1, 1) + timedelta(days=int(rng.integers(365 * 66)))
    digits = rng.integers(0, 10, 10)
    return Person(
        name=name,
        id=f"{site.id}{rng.integers(10**6, 10**7)}",
        national_id=f"{day(birth)[2:]}-{''.join(map(str, digits[:4]))}",
        birth=birth,
        sex=sex,
        address=f"{rng.integers(1, 200)} Orchard Lane, {rng.integers(10000, 99999)} Testville",
        phone=f"+44 20 7946 0{''.join(map(str, digits[4:7]))}",  # a range reserved for fiction
        mother=draw_name(rng, "latin", "F").dicom,
        weight=round(float(rng.normal(74, 13)), 1),
        height=round(float(rng.normal(1.70, 0.09)), 2),
    )


def draw_visits(rng: np.random.Generator, index: int) -> tuple[Visit, ...]:
    """The studies of patient ``index``: two for every sixth patient and three for every other sixth, else one."""
    count = {2: 2, 5: 3}.get(index % 6, 1)
    when = FIRST_DAY + timedelta(days=int(rng.integers(0, 365 * 6)))
    visits = []
    for number in range(count):
        visits.append(
            Visit(
                index=number,
                day=when,
                start=int(rng.integers(7 * 3600, 18 * 3600)),
                accession=f"A{rng.integers(10**7, 10**8)}",
                study_id=str(rng.integers(10**4, 10**5)),
                request_id=f"R{rng.integers(10**6, 10**7)}",
                referring=draw_staff(rng),
                performing=draw_staff(rng),
                reading=draw_staff(rng),
                operator=draw_staff(rng),
            )
        )
        when += timedelta(days=int(rng.integers(60, 500)))
    return tuple(visits)


def code(value: str, meaning: str) -> Dataset:
    """An item of the site's own coding scheme (PS3.3 section 8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, LOCAL_CODES, meaning
    return item


def _text_context(title: str, text: str) -> Dataset:
    """A content item of value type TEXT (PS3.3 section 10.2)."""
    item = Dataset()
    item.ValueType = "TEXT"
    item.ConceptNameCodeSequence = [code("CTX1", title)]
    item.TextValue = text
    return item


def add_patient(ds: Dataset, site: SiteSpec, person: Person, visit: Visit) -> None:
    """Patient and Patient Study modules (PS3.3 C.7.1.1, C.7.2.2)."""
    ds.PatientName = person.name.dicom
    ds.PatientID, ds.IssuerOfPatientID = person.id, site.title
    ds.PatientBirthDate, ds.PatientSex = day(person.birth), person.sex
    ds.PatientAge = f"{age_at(person.birth, visit.day):03d}Y"
    ds.PatientWeight, ds.PatientSize = person.weight, person.height
    ds.PatientAddress, ds.PatientTelephoneNumbers = person.address, person.phone
    ds.PatientMotherBirthName = person.mother
    ds.OtherPatientNames = person.name.dicom
    other = Dataset()
    other.PatientID, other.IssuerOfPatientID, other.TypeOfPatientID = person.national_id, "National register", "TEXT"
    ds.OtherPatientIDsSequence = [other]
    ds.Occupation, ds.CountryOfResidence = "Beekeeper", "Testland"
    ds.PatientComments = f"{person.name.plain} asks to be called at {person.phone}."
    ds.AdditionalPatientHistory = f"Seen by {visit.referring.replace('^', ' ').strip()}; lives at {person.address}."


def add_study(ds: Dataset, site: SiteSpec, person: Person, visit: Visit, uids: dict[str, UID]) -> None:
    """General Study module and the request behind it (PS3.3 C.7.2.1, 10.6), with sequences up to three levels deep."""
    ds.StudyInstanceUID = uids["study"]
    ds.StudyDate, ds.StudyTime, ds.StudyID = day(visit.day), clock(visit.start), visit.study_id
    ds.AccessionNumber = visit.accession
    ds.StudyDescription = f"{site.protocol.modality} {'follow-up' if visit.index else 'routine'} {person.name.plain}"
    ds.ReferringPhysicianName, ds.NameOfPhysiciansReadingStudy = visit.referring, visit.reading
    ds.PhysiciansOfRecord = visit.referring
    identification = Dataset()
    identification.PersonIdentificationCodeSequence = [code(f"DOC{visit.accession[1:5]}", visit.referring)]
    identification.PersonTelephoneNumbers = person.phone[:-3] + "000"
    identification.InstitutionName = site.title
    ds.ReferringPhysicianIdentificationSequence = [identification]
    ds.ProcedureCodeSequence = [code(f"{site.protocol.modality}01", site.description)]
    reference = Dataset()
    reference.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management (retired)
    reference.ReferencedSOPInstanceUID = uids["previous"]
    ds.ReferencedStudySequence = [reference]
    protocol = code("PROT1", f"{site.description} protocol")
    protocol.ProtocolContextSequence = [_text_context("Remark", f"Ask {person.name.plain} to breathe gently")]
    performed = code("PROT1", f"{site.description} protocol")
    performed.ProtocolContextSequence = [_text_context("Remark", f"{person.name.plain} ({person.id}) was calm")]
    request = Dataset()
    request.RequestedProcedureID, request.ScheduledProcedureStepID = visit.request_id, f"S{visit.request_id[1:]}"
    request.AccessionNumber = visit.accession
    request.StudyInstanceUID = uids["study"]
    request.RequestedProcedureDescription = f"{site.description} for {person.name.plain}"
    request.ScheduledProcedureStepDescription = site.description
    request.ScheduledProtocolCodeSequence = [protocol]
    ds.RequestAttributesSequence = [request]
    ds.PerformedProtocolCodeSequence = [performed]
    ds.RequestingPhysician, ds.RequestedProcedureDescription = visit.referring, f"{site.description} routine"
    ds.AdmissionID = f"ADM{visit.request_id[1:]}"
    ds.PerformedProcedureStepStartDate, ds.PerformedProcedureStepStartTime = ds.StudyDate, ds.StudyTime
    ds.PerformedProcedureStepID = f"P{visit.request_id[1:]}"
    ds.PerformedProcedureStepDescription = site.description


def add_equipment(ds: Dataset, site: SiteSpec, visit: Visit) -> None:
    """General Equipment module (PS3.3 C.7.5.1)."""
    ds.Manufacturer, ds.ManufacturerModelName = site.vendor, site.model
    ds.InstitutionName, ds.InstitutionAddress = site.title, "1 Hospital Road, Testville"
    ds.InstitutionalDepartmentName = "Radiology"
    ds.StationName = f"{site.id}STN1"
    ds.DeviceSerialNumber = f"{sum(map(ord, site.title)) * 97 % 90000 + 10000}"
    ds.DeviceUID = generate_uid(entropy_srcs=[site.id, "device"])
    ds.SoftwareVersions = "syn 1.0"
    ds.PerformingPhysicianName, ds.OperatorsName = visit.performing, visit.operator
    ds.DateOfLastCalibration, ds.TimeOfLastCalibration = day(visit.day.replace(day=1)), "060000"


def add_private(ds: Dataset, site: SiteSpec, person: Person) -> None:
    """Private blocks: the name in the open, identifiers in a private sequence, and one attribute known to be safe."""
    block = ds.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    block.add_new(0x10, "LO", person.name.plain)
    block.add_new(0x11, "DS", "1.25")
    item = Dataset()
    item.PatientID, item.PatientName = person.id, person.name.dicom
    inner = item.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    inner.add_new(0x10, "LO", f"{person.name.plain} {person.national_id}")
    block.add_new(0x12, "SQ", [item])
    safe = SAFE_PRIVATE.get((site.vendor, site.protocol.modality))
    if safe:
        group, creator, element, vr, value = safe
        ds.private_block(group, creator, create=True).add_new(element, vr, value)


def injected(site: SiteSpec) -> bool:
    """Whether the patient got contrast agent."""
    return isinstance(site.protocol, CtProtocol) and site.protocol.phase != "native"
