"""Files per CPU-second of de-identification, beside public tools on the same CT slices.

    python -m benchmarks.deid_peers [--peers PYTHON] [--files 200] [--repeat 3]

PYTHON is the interpreter of an environment with dicom-anonymizer, dicognito and dcmanon; tools that it lacks are
named. Each tool runs in a process of its own, which measures itself from the first file to the last, children included,
without imports. Speed says nothing of what leaks: the tools do not do the same.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

PRIVATE = 179
SIZE = 512

MEASURE = """
import json, multiprocessing, os, resource, sys, time
from pathlib import Path
source, out, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
files = sorted(source.iterdir())
def cpu():
    uses = [resource.getrusage(one) for one in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)
def report(started, used):
    written = len(list(out.rglob("*.dcm")))
    print(json.dumps({"wall": time.perf_counter() - started, "cpu": cpu() - used, "out": written}))
def each(one):
    if workers == 1:
        for path in files:
            one(path)
        return
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        list(pool.imap_unordered(one, files, chunksize=8))
        pool.close(); pool.join()
"""

TOOLS = {
    "dicom-anonymizer": """
from dicomanonymizer.simpledicomanonymizer import anonymize_dicom_file
def one(path): anonymize_dicom_file(str(path), str(out / path.name), delete_private_tags=True)
""",
    "dicognito": """
import pydicom
from dicognito.anonymizer import Anonymizer
tool = Anonymizer(seed="benchmark")
def one(path):
    dataset = pydicom.dcmread(path)
    tool.anonymize(dataset)
    dataset.save_as(out / path.name)
""",
    "dcmanon": """
from dcmanon import Anonymizer
tool = Anonymizer()
def one(path): (out / path.name).write_bytes(tool.anonymize(str(path)))
""",
}

# What a second worker is worth on this machine whatever it runs: hashing needs no memory, no disk and no lock.
CEILING = """
import hashlib
def one(path):
    block = path.read_bytes()[:65536]
    for _ in range(60):
        hashlib.sha256(block).digest()
    (out / path.name).write_bytes(b"")
"""

RUN = "\nstarted, used = time.perf_counter(), cpu()\neach(one)\nreport(started, used)\n"

OURS = """
from client.deid import Profile, SiteKey, deidentify_folder
profile, key = Profile.load("basic"), SiteKey(b"k" * 32)
{switch}
started, used = time.perf_counter(), cpu()
deidentify_folder(source, out, profile=profile, key=key, log=None, reports=out.parent / "reports", workers=workers)
report(started, used)
"""
WITHOUT_CHECK = """
import client.deid.single
client.deid.single.check = lambda *_: ()
client.deid.single.Known.of = classmethod(lambda *_: None)
"""


def make_slices(folder: Path, count: int) -> None:
    """CT slices of one patient with the private attributes of a scanner."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(count):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.99.3.{number}"
        dataset = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.826.0.1.99.1", "1.2.826.0.1.99.2"
        dataset.FrameOfReferenceUID, dataset.Modality, dataset.Manufacturer = "1.2.826.0.1.99.4", "CT", "Scanners Inc"
        dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "Mustermann^Erika", "PID-4711", "19570321"
        dataset.PatientSex, dataset.PatientAge, dataset.AccessionNumber = "F", "067Y", "ACC7654321"
        dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = dataset.AcquisitionDate = "20240229"
        dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "101112"
        dataset.ReferringPhysicianName, dataset.InstitutionName = "Sawbones^Leonard", "Saint Elsewhere Hospital"
        dataset.StudyDescription, dataset.SeriesDescription = "CT abdomen", "axial 3mm"
        dataset.ImageType, dataset.KVP, dataset.Exposure = ["ORIGINAL", "PRIMARY", "AXIAL"], "120", "200"
        dataset.SeriesNumber, dataset.InstanceNumber = "2", str(number)
        dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing, dataset.RescaleSlope, dataset.RescaleIntercept = [0.7, 0.7], "1", "-1024"
        block = dataset.private_block(0x0019, "ACME CT 1.0", create=True)
        for element in range(PRIVATE):
            block.add_new(element, "LO", f"value {element} of {number}")
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Rows = dataset.Columns = SIZE
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
        dataset.PixelData = rng.integers(0, 4096, (SIZE, SIZE), dtype=np.uint16).tobytes()
        pydicom.dcmwrite(folder / f"{number:04d}.dcm", dataset, enforce_file_format=True)


def measure(python: str, program: str, source: Path, workers: int) -> dict[str, float] | str:
    """Run one tool; its times, or why it did not run."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        out.mkdir()
        done = subprocess.run(
            [python, "-c", MEASURE + program, str(source), str(out), str(workers)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def main() -> None:
    """Measure all tools with one and two workers and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", default=sys.executable, help="interpreter of the environment with the other tools")
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each, of which the fastest counts")
    asked = parser.parse_args()
    assert find_spec("client.deid"), "run it from the repository"
    programs = {"hashing, for scale": (sys.executable, CEILING + RUN)}
    programs |= {name: (asked.peers, program + RUN) for name, program in TOOLS.items()}
    programs["fedward without checker"] = (sys.executable, OURS.replace("{switch}", WITHOUT_CHECK))
    programs["fedward"] = (sys.executable, OURS.replace("{switch}", ""))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        make_slices(source, asked.files)
        print(f"{'tool':26}{'workers':>8}{'files/CPU s':>13}{'files/s':>9}{'written':>9}{'gain':>7}")
        for name, (python, program) in programs.items():
            alone = 0.0
            for workers in (1, 2):
                results = [measure(python, program, source, workers) for _ in range(asked.repeat)]
                times = [one for one in results if not isinstance(one, str)]
                if not times:
                    print(f"{name:26}{workers:>8}  did not run: {results[0]}")
                    continue
                best = min(times, key=lambda one: one["wall"])
                rate = asked.files / best["wall"]
                gain = f"{rate / alone:6.2f}x" if alone else ""
                alone = alone or rate
                print(
                    f"{name:26}{workers:>8}{asked.files / best['cpu']:>13.0f}{rate:>9.0f}{best['out']:>9.0f}{gain:>7}"
                )


if __name__ == "__main__":
    main()
