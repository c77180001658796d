"""A data set on its way into a node: what arrives in the cohort is what lay in the files, and nothing came past."""

import json
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from client.cohort import Cohort, Split
from client.cohort_scale import CT_WINDOW
from client.data_cli import app
from client.deid import Profile
from client.importing.record import Terms, records
from client.importing.run import Imported, import_dataset
from client.importing.settings import Settings
from client.importing.source import look
from client.importing.write import files
from client.node import Node
from compliance.log import verify
from shared.errors import DataError, FedwardError, PolicyError, RecordError, UsageError
from tests.client.importing import made
from tests.client.importing.made import AXIAL, ct, liver

TERMS = Terms("CC BY-NC-ND 4.0\nNo commercial use.", "https://lits.example", "A. Officer")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node.create(tmp_path / "node", site="H1", purpose="tests")


def take(node: Node, root: Path, settings: Settings | None = None) -> Imported:
    return import_dataset(node, root, settings or made.settings("lits", "CT"), TERMS, profile=Profile.load("basic"))


def reasons(done: Imported) -> dict[str, str]:
    return {one.where: one.reason for one in done.looked.problems}


def released(node: Node) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted((node.folder / "released").rglob("*.dcm"))]


def test_a_lits_folder_becomes_a_cohort_with_its_values_labels_and_places(node: Node, tmp_path: Path) -> None:
    done = take(node, made.lits(tmp_path / "lits"))
    assert not done.ingested.tally.incomplete
    assert done.ingested.tally.released == 3 * (2 * 4 + 1)
    cohort = Cohort.open(node.folder / "cohort")
    assert len(cohort.entries) == 3
    low, high = CT_WINDOW
    truths = [np.clip((ct(seed=seed).transpose(2, 1, 0)[:, ::-1, :] - low) / (high - low), 0, 1) for seed in range(3)]
    for entry in cohort.entries:
        study = cohort.load(entry.key).studies[0]
        assert study.label is not None
        assert np.array_equal(study.label, liver().transpose(2, 1, 0)[:, ::-1, :])
        assert any(np.abs(study.reference - truth).max() < 1e-6 for truth in truths)
        assert study.spacing == pytest.approx((0.8, 0.8))
        assert 0.02 < float(np.std(study.noisy - study.reference)) < 0.1  # 30 HU of 400, clipped to the window
    places = sorted({tuple(map(float, one.ImagePositionPatient)) for one in released(node) if one.Modality == "CT"})
    assert np.allclose(places, [(-40.0, 30 - 23 * 0.8, z) for z in (-100.0, -95.0, -90.0, -85.0)], atol=1e-5)


def test_nothing_of_the_source_names_is_released_and_the_record_keeps_them(node: Node, tmp_path: Path) -> None:
    done = take(node, made.lits(tmp_path / "lits"))
    for path in (node.folder / "released").rglob("*"):
        assert "SET" not in str(path.relative_to(node.folder))
        assert not path.is_file() or b"SET-" not in path.read_bytes()
    assert stat.S_IMODE(done.record.stat().st_mode) == 0o600
    body = records(node)[0].body
    assert body["terms"]["text"] == TERMS.text
    assert body["terms"]["accepted_by"] == "A. Officer"
    assert {name for case in body["cases"] for name in case["files"]} == {
        f"{part}" for n in range(3) for part in (f"volume-{n}.nii", f"segmentation-{n}.nii.gz")
    }
    assert body["cases"][0]["labels"] == {"0": "background", "1": "liver", "2": "tumour"}
    assert body["cases"][0]["noisy"] == "simulated: filtered back-projection noise of 30 HU, seed 3"
    entries = [json.loads(line) for line in (node.folder / "audit" / "log.jsonl").read_bytes().splitlines()]
    ended = [one for one in entries if one["action"] == "data.import" and one["outcome"] == "ok"]
    assert ended[0]["detail"]["record_sha256"] == records(node)[0].digest
    assert ended[0]["detail"]["terms_sha256"] == TERMS.digest
    assert (ended[0]["detail"]["files"], ended[0]["detail"]["simulated"]) == (6, 3)
    assert verify(node.folder / "audit" / "log.jsonl").entries == len(entries)


def test_a_second_run_takes_in_what_is_new_and_no_more(node: Node, tmp_path: Path) -> None:
    root = made.lits(tmp_path / "lits")
    take(node, root)
    again = take(node, root)
    assert (again.ingested.tally.unchanged, again.ingested.tally.fetched) == (3, 0)
    made.nifti(root / "more" / "volume-9.nii", ct(seed=9))
    more = take(node, root)
    assert (more.ingested.tally.unchanged, more.ingested.tally.fetched) == (3, 8)
    body = records(node)[0].body
    assert len(body["cases"]) == 4
    assert [one["studies"] for one in body["imports"]] == [3, 3, 4]
    assert len(Cohort.open(node.folder / "cohort").entries) == 4


def test_an_import_that_is_broken_off_goes_on(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = made.lits(tmp_path / "lits")
    from client.importing import source

    real, calls = source.files, []

    def torn(*given: object):  # type: ignore[no-untyped-def]
        for number, one in enumerate(real(*given)):  # type: ignore[arg-type]
            calls.append(number)
            if len(calls) == 13:
                raise KeyboardInterrupt
            yield one

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(source, "files", torn)
        take(node, root)
    done = take(node, root)
    assert not done.ingested.tally.incomplete
    assert len(done.ingested.cohort.entries) == 3
    assert len(released(node)) == 27
    assert len({one.SOPInstanceUID for one in released(node)}) == 27


def spoilt(root: Path) -> dict[str, str]:
    """A LiTS folder with one patient who is well and one of each kind of damage; what is said of each."""
    made.lits(root, 1)
    said: dict[str, str] = {}

    def add(number: int, reason: str, values: object = None, label: object = None, **given: object) -> None:
        image = ct(seed=number) if values is None else values
        made.nifti(root / f"volume-{number}.nii", image, **given)  # type: ignore[arg-type]
        made.nifti(root / f"segmentation-{number}.nii", liver() if label is None else label)  # type: ignore[arg-type]
        said[f"volume-{number}.nii"] = reason

    add(1, "segmentation-1.nii is 4 x 24 x 15", label=liver()[:15])
    add(2, "labels that nothing says what to make of: 3, 7", label=np.where(liver() == 2, 7, liver() * 3))
    nan = ct().astype(np.float32)
    nan[1, 2, 3], nan[2, 2, 3] = np.nan, np.inf
    add(3, "2 of its values are not finite", values=nan)
    add(4, "lies elsewhere than volume-4.nii", affine=AXIAL + np.array([[0, 0, 0, 3], *[[0] * 4] * 3]))
    add(5, "no whole numbers", label=liver() + np.float32(0.5))
    add(6, "no Hounsfield units", values=ct().astype(np.float32) * 1e6)
    add(7, "are those of volume-0.nii: one patient under two names", values=ct(seed=0).astype(np.float32))
    add(8, "4 axes", values=np.zeros((4, 4, 4, 2), np.int16))
    add(9, "more than one file", values=ct(seed=9))
    shutil.copy(root / "volume-9.nii", root / "segmentation-9.nii")
    (root / "b").mkdir()
    shutil.copy(root / "volume-9.nii", root / "b" / "volume-9.nii")
    said |= dict.fromkeys(("b/volume-9.nii", "segmentation-9.nii"), "more than one file")
    made.nifti(root / "segmentation-10.nii", liver())
    said["segmentation-10.nii"] = "its image is missing"
    (root / "volume-..%2f..%2fetc.nii").write_bytes(b"")
    said["volume-..%2f..%2fetc.nii"] = "none of the layout"
    outside = made.nifti(root.parent / "outside.nii", ct(seed=77))
    (root / "volume-11.nii").symlink_to(outside)
    said["volume-11.nii"] = "leads out of the folder"
    (root / "loop").symlink_to(root, target_is_directory=True)
    said["loop"] = "not followed"
    return said


def test_each_kind_of_damage_gets_a_line_and_the_rest_comes_in(node: Node, tmp_path: Path) -> None:
    root = tmp_path / "lits"
    root.mkdir()
    said = spoilt(root)
    done = take(node, root)
    found = reasons(done)
    assert set(found) == set(said)
    for where, reason in said.items():
        assert reason in found[where], where
        assert "\n" not in found[where]
    assert done.ingested.tally.incomplete
    assert done.ingested.tally.released == 9
    assert {line["where"]: line["reason"] for line in done.ingested.tally.lines} == found


@pytest.mark.system("dicom3tools")
def test_dciodvfy_finds_no_error_in_what_is_written(tmp_path: Path) -> None:
    made.lits(tmp_path / "lits", 1)
    made.nifti(tmp_path / "mr" / "a.nii", np.abs(ct()))
    made.png(tmp_path / "png" / "clean" / "a.png", np.arange(600, dtype=np.uint16).reshape(20, 30))
    for layout, modality, root in (("lits", "CT", "lits"), ("nifti", "MR", "mr"), ("png", "MR", "png")):
        given = made.settings(layout, modality)
        ready = look(tmp_path / root, given, {}).ready[0]
        content = replace(ready.case.read(), noisy=ready.case.read().reference)
        for number, (_, data) in enumerate(files(content, ready.naming)):
            path = tmp_path / f"{layout}-{number}.dcm"
            path.write_bytes(data)
            done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
            assert not [line for line in done.stderr.splitlines() if line.startswith("Error")], done.stderr


def test_nothing_of_use_is_one_line(node: Node, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="there are no files"):
        take(node, tmp_path / "empty")
    (tmp_path / "empty" / "README").write_text("x")
    (tmp_path / "empty" / "labels.txt").write_text("x")
    with pytest.raises(DataError, match="there are no files"):
        take(node, tmp_path / "empty")
    (tmp_path / "empty" / "volume.nrrd").write_text("x")
    with pytest.raises(DataError, match=r"its name is none of the layout lits \(1\)"):
        take(node, tmp_path / "empty")
    with pytest.raises(UsageError, match="there is no folder"):
        take(node, tmp_path / "missing")
    assert not (node.folder / "imports" / "set.json").exists()


def test_a_data_set_keeps_its_settings_and_terms(node: Node, tmp_path: Path) -> None:
    root = made.lits(tmp_path / "lits", 1)
    take(node, root)
    with pytest.raises(UsageError, match="other settings before: body_part"):
        take(node, root, made.settings("lits", "CT", body_part="LIVER"))
    with pytest.raises(UsageError, match="under other terms"):
        import_dataset(
            node,
            root,
            made.settings("lits", "CT"),
            Terms("other", "", "B"),
            profile=Profile.load("basic"),
        )
    (node.folder / "imports" / "set.json").write_text('{"format": 1}')
    with pytest.raises(RecordError, match="no record of an import"):
        take(node, root)


def test_files_that_change_meanwhile_are_not_taken_in(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = made.lits(tmp_path / "lits", 2)
    from client.importing import run

    real = run.write_record

    def later(*given: object) -> object:
        made.nifti(root / "volume-1.nii", ct(seed=55))
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "write_record", later)
    done = take(node, root)
    assert done.ingested.tally.released == 9
    assert {line["reason"] for line in done.ingested.tally.lines} == {"its files were changed while they were read"}


# --- the command ----------------------------------------------------------------------------------------------------


def command(node: Node, root: Path, licence: Path, *more: str) -> object:
    words = ["import", str(node.folder), str(root), "--layout", "lits", "--dataset", "LiTS", "--who", "A. Officer"]
    return CliRunner().invoke(app, [*words, "--licence", str(licence), *more])


def test_the_command_wants_the_terms_accepted_and_quotes_them(node: Node, tmp_path: Path) -> None:
    root, licence = made.lits(tmp_path / "lits", 1), tmp_path / "LICENCE"
    licence.write_text("CC BY-NC-ND 4.0\nAttribution to Bilic et al.\n")
    refused = command(node, root, licence).exception  # type: ignore[attr-defined]
    assert isinstance(refused, UsageError)
    assert "not accepted" in refused.message
    assert not (node.folder / "cohort").exists()
    done = command(node, root, licence, "--accept-terms", "--url", "https://lits.example")
    assert done.exit_code == 0, done  # type: ignore[attr-defined]
    assert "cohort: 1 patient to train on" in done.output  # type: ignore[attr-defined]
    shown = CliRunner().invoke(app, ["show", str(node.folder)]).output
    for words in (
        "LiTS: 1 study, 1 labelled",
        "| CC BY-NC-ND 4.0",
        "by A. Officer",
        "https://lits.example",
        "2 = tumour",
    ):
        assert words in shown
    told = json.loads(CliRunner().invoke(app, ["show", str(node.folder), "--json"]).output)
    assert told[0]["record_sha256"] == records(node)[0].digest


def test_the_command_says_what_did_not_come_in(node: Node, tmp_path: Path) -> None:
    root, licence = made.lits(tmp_path / "lits", 1), tmp_path / "LICENCE"
    licence.write_text("terms")
    (root / "volume-1.nii").write_bytes(b"")
    done = command(node, root, licence, "--accept-terms")
    error = done.exception  # type: ignore[attr-defined]
    assert isinstance(error, FedwardError)
    assert error.exit_code == 3
    assert "volume-1.nii: it is no NIfTI file" in done.output  # type: ignore[attr-defined]
    labels = tmp_path / "labels.toml"
    labels.write_text('[labels]\n1 = "kidney"\n')
    wrong = command(node, root, licence, "--accept-terms", "--labels", str(labels)).exception  # type: ignore[attr-defined]
    assert isinstance(wrong, UsageError)
    assert "become no class of CT" in wrong.message


def test_a_virtual_hospital_takes_no_data_in(tmp_path: Path) -> None:
    node = Node.create(tmp_path / "v", site="H1", purpose="tests", seed=1)
    licence = tmp_path / "LICENCE"
    licence.write_text("terms")
    error = command(node, made.lits(tmp_path / "lits", 1), licence, "--accept-terms").exception  # type: ignore[attr-defined]
    assert isinstance(error, PolicyError)


def test_labels_may_be_told_by_a_file(node: Node, tmp_path: Path) -> None:
    root, licence, labels = made.lits(tmp_path / "lits", 1), tmp_path / "LICENCE", tmp_path / "labels.toml"
    licence.write_text("terms")
    labels.write_text('[labels]\n0 = "background"\n1 = "background"\n2 = "liver"\n')
    assert command(node, root, licence, "--accept-terms", "--labels", str(labels)).exit_code == 0  # type: ignore[attr-defined]
    cohort = Cohort.open(node.folder / "cohort")
    study = cohort.load(cohort.patients(Split.TRAIN)[0]).studies[0]
    assert study.label is not None
    assert int((study.label == 1).sum()) == int((liver() == 2).sum())
    assert study.label.max() == 1
