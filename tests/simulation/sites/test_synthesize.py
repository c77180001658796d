import errno
import hashlib
import json
from pathlib import Path

import pydicom
import pytest

from shared.errors import DataError, OutputError, UsageError
from simulation.sites import synthesize as module
from simulation.sites.specs import SITES, choose_sites
from simulation.sites.synthesize import Synthesized, synthesize


def make(out: Path, *, sites: str = "H4,H8", patients: int = 3, seed: int = 1, workers: int = 1) -> Synthesized:
    return synthesize(out, sites=choose_sites(sites), patients=patients, size=48, slices=2, seed=seed, workers=workers)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def two_sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two") / "sites"
    make(out)
    return out


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers(two_sites: Path, tmp_path: Path) -> None:
    make(tmp_path / "again", workers=2)
    assert digests(two_sites) == digests(tmp_path / "again")


def test_another_seed_gives_other_patients(two_sites: Path, tmp_path: Path) -> None:
    make(tmp_path / "other", patients=1, sites="H8", seed=2)
    assert not set(digests(two_sites).values()) & set(digests(tmp_path / "other").values())


def test_a_patient_does_not_depend_on_the_others(two_sites: Path, tmp_path: Path) -> None:
    make(tmp_path / "alone", patients=1, sites="H8")
    alone = digests(tmp_path / "alone")
    alone.pop("manifest.json")
    assert alone.items() <= digests(two_sites).items()


def test_the_manifest_counts_what_is_there(two_sites: Path) -> None:
    manifest = json.loads((two_sites / "manifest.json").read_text())
    assert manifest["seed"] == 1
    for site in manifest["sites"]:
        folder = two_sites / site["id"]
        assert site["patients"] == len(list(folder.iterdir())) == 3
        assert site["studies"] == len(list(folder.glob("*/*"))) == 4
        assert site["files"] == len(list(folder.rglob("*.dcm"))) == 4 * 5


def test_folders_are_site_patient_study_series(two_sites: Path) -> None:
    for path in two_sites.rglob("00?.dcm"):
        site, patient, study, series, _ = path.relative_to(two_sites).parts
        ds = pydicom.dcmread(path)
        assert patient == ds.PatientID
        assert ds.AccessionNumber in study
        assert int(series) == ds.SeriesNumber
        assert ds.StationName.startswith(site)


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    synthesize(
        tmp_path / "p",
        sites=SITES[6:7],
        patients=2,
        size=32,
        slices=1,
        seed=0,
        workers=1,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 2), (2, 2)]


class TestOutput:
    def test_an_earlier_result_is_replaced(self, tmp_path: Path) -> None:
        make(tmp_path / "out", patients=2, sites="H8")
        make(tmp_path / "out", patients=1, sites="H8", seed=5)
        assert len(list((tmp_path / "out" / "H8").iterdir())) == 1
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_an_empty_folder_is_used(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        make(tmp_path / "out", patients=1, sites="H8")
        assert (tmp_path / "out" / "manifest.json").is_file()

    @pytest.mark.parametrize("content", ["holiday.jpg", "manifest.json"])
    def test_other_peoples_files_are_not_touched(self, content: str, tmp_path: Path) -> None:
        (tmp_path / content).write_text("[]")
        with pytest.raises(UsageError, match="holds other files"):
            make(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [content]

    def test_a_file_in_the_place_of_the_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("")
        with pytest.raises(UsageError, match="is a file"):
            make(tmp_path / "out")

    def test_a_full_disk_leaves_nothing_behind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make(tmp_path / "out", patients=1, sites="H8")
        before = digests(tmp_path)
        written = Path.write_bytes

        def full(self: Path, data: bytes) -> int:
            if self.name == "seg.dcm":
                raise OSError(errno.ENOSPC, "No space left on device")
            return written(self, data)

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputError, match="No space left") as caught:
            make(tmp_path / "out", patients=1, sites="H8", seed=9)
        assert "free some space" in caught.value.hint
        assert digests(tmp_path) == before

    def test_a_failure_in_a_worker_is_the_same_failure(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError):
            make(Path("/proc/nowhere/out"), workers=2)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"), [("patients", 0), ("size", 16), ("slices", 0), ("seed", -1), ("workers", 0)]
)
def test_numbers_out_of_range_are_named(name: str, value: int, tmp_path: Path) -> None:
    numbers = {"patients": 1, "size": 48, "slices": 1, "seed": 0, "workers": 1, name: value}
    with pytest.raises(UsageError, match=f"{name} must be"):
        synthesize(tmp_path / "out", sites=SITES[:1], **numbers)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_no_site_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no site"):
        synthesize(tmp_path / "out", sites=(), patients=1, size=48, slices=1, seed=0, workers=1)


def test_a_missing_atlas_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Path:
        raise DataError(f"no {name}")

    monkeypatch.setattr(module, "atlas_file", missing)
    with pytest.raises(DataError, match="no t1"):
        make(tmp_path / "out", sites="H1")
    assert list(tmp_path.iterdir()) == []
