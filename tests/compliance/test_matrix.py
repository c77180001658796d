"""The matrix over this repository, and what it finds wrong with others."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from compliance.compliance_cli import app
from compliance.controls import Control, Status, catalogue
from compliance.matrix import carried, exists, matrix
from shared.errors import RecordError, UsageError

TESTS = Path(__file__).parents[1]
CONTROL = Control("HIPAA-1-x", "t", ("s",), "e.", ("compliance.log:AuditLog.act",), ("l",), "c.", Status.ENFORCED)


def folder(tmp_path: Path, text: str) -> Path:
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_one.py").write_text(f"import pytest\n{text}")
    return tests


def test_every_enforced_control_of_this_release_has_its_code_and_a_test_that_is_run() -> None:
    found = matrix(TESTS)
    assert not found.faults
    found.require_whole()
    assert len(found.rows) == len(catalogue())


def test_every_place_in_the_code_is_there_also_of_controls_that_are_not_enforced() -> None:
    assert not [place for one in catalogue() for place in one.code if not exists(place)]


def test_a_control_without_a_test_does_not_pass(tmp_path: Path) -> None:
    found = matrix(folder(tmp_path, "def test_x(): ...\n"), [CONTROL])
    assert found.faults == ("HIPAA-1-x is enforced, and no test that is run carries it",)
    with pytest.raises(RecordError, match="HIPAA-1-x") as caught:
        found.require_whole()
    assert caught.value.exit_code == 9
    assert not matrix(tmp_path / "tests", [replace(CONTROL, status=Status.PARTLY, missing="m.")]).faults


@pytest.mark.parametrize(
    "text",
    [
        '@pytest.mark.control("HIPAA-1-x")\ndef test_x(): ...\n',
        '@pytest.mark.control("GDPR-2-y", "HIPAA-1-x")\nasync def test_x(): ...\n',
        'pytestmark = pytest.mark.control("HIPAA-1-x")\ndef test_x(): ...\n',
        'pytestmark = [pytest.mark.slow, pytest.mark.control("HIPAA-1-x")]\ndef test_x(): ...\n',
        '@pytest.mark.control("HIPAA-1-x")\nclass TestX:\n    def test_x(self): ...\n',
    ],
)
def test_an_id_is_found_on_a_function_a_class_and_a_module(tmp_path: Path, text: str) -> None:
    other = replace(CONTROL, id="GDPR-2-y", status=Status.PLANNED, missing="m.")
    found = matrix(folder(tmp_path, text), [CONTROL, other])
    assert not found.faults
    name = "test_one.py::TestX::test_x" if "class" in text else "test_one.py::test_x"
    assert found.rows[0].tests == (f"tests/{name}",)


@pytest.mark.parametrize("mark", ["skip", "xfail", "live", 'skip(reason="r")'])
def test_a_test_that_is_not_run_or_may_fail_carries_no_enforced_control(tmp_path: Path, mark: str) -> None:
    text = f'@pytest.mark.{mark}\n@pytest.mark.control("HIPAA-1-x")\ndef test_x(): ...\n'
    found = matrix(folder(tmp_path, text), [CONTROL])
    assert "no test that is run" in found.faults[0]
    assert found.rows[0].tests  # it stands in the matrix all the same


def test_a_helper_or_a_comment_is_no_test(tmp_path: Path) -> None:
    text = '# @pytest.mark.control("HIPAA-1-x")\n@pytest.mark.control("HIPAA-1-x")\ndef helper(): ...\n'
    assert matrix(folder(tmp_path, text), [CONTROL]).faults


def test_an_id_with_a_typo_is_a_fault(tmp_path: Path) -> None:
    text = '@pytest.mark.control("HIPAA-1-x", "HIPAA-1-z")\ndef test_x(): ...\n'
    assert matrix(folder(tmp_path, text), [CONTROL]).faults == (
        "tests/test_one.py::test_x carries HIPAA-1-z, which is no control",
    )


@pytest.mark.parametrize("args", ["", "NAME", '"HIPAA-1-x", other="x"', "f'HIPAA'"])
def test_ids_stand_in_quotes(tmp_path: Path, args: str) -> None:
    tests = folder(tmp_path, f"@pytest.mark.control({args})\ndef test_x(): ...\n")
    with pytest.raises(UsageError, match=r"test_one.py, line 2"):
        list(carried(tests))


def test_code_that_is_gone_is_a_fault(tmp_path: Path) -> None:
    tests = folder(tmp_path, '@pytest.mark.control("HIPAA-1-x")\ndef test_x(): ...\n')
    for place in ("compliance.gone", "compliance.log:gone", "compliance.log:AuditLog.gone"):
        assert matrix(tests, [replace(CONTROL, code=(place,))]).faults == (f"HIPAA-1-x: there is no {place}",)
    assert exists("compliance.log")
    assert exists("nowhere.at_all:x")  # a room that is not installed says nothing about it


def test_nothing_is_imported_to_find_the_code() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from compliance.matrix import matrix; m = matrix();"
        "print(len(m.rows), sorted(n for n in sys.modules if n.split('.')[0] in ('client', 'server', 'torch')))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_the_command_prints_it_as_text_json_and_a_page(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["matrix"])
    assert run.exit_code == 0
    assert "HIPAA-164.312-b-audit" in run.output
    told = json.loads(CliRunner().invoke(app, ["matrix", "--json"]).output)
    assert {"id", "sources", "enforced", "code", "evidence", "cannot", "status", "tests"} <= told["controls"][0].keys()
    page = tmp_path / "matrix.html"
    assert CliRunner().invoke(app, ["matrix", "--html", str(page)]).exit_code == 0
    text = page.read_text()
    assert all(one.id in text for one in catalogue())
    assert "<script" not in text
    assert "http://" not in text
    assert "https://" not in text


def test_the_command_fails_where_a_control_lacks_its_test(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["matrix", "--tests", str(folder(tmp_path, ""))])
    assert isinstance(done.exception, RecordError)
    assert "HIPAA-164.312-b-audit" in done.output  # printed all the same
    gone = CliRunner().invoke(app, ["matrix", "--tests", str(tmp_path / "gone")])
    assert isinstance(gone.exception, UsageError)
    (tmp_path / "tests" / "test_bad.py").write_text("def (")
    bad = CliRunner().invoke(app, ["matrix", "--tests", str(tmp_path / "tests")])
    assert isinstance(bad.exception, UsageError)
