"""``fedward data import`` and ``fedward data show``: other people's data, and where it is from."""

import textwrap
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared import console
from shared.errors import PartialError, UsageError

if TYPE_CHECKING:
    from rich.progress import Progress

    from client.importing.record import Terms
    from client.importing.run import Imported
    from client.importing.settings import Settings
    from client.node import Node

if find_spec("pydicom") is None:  # as every group that needs the libraries of a hospital: it is not there without them
    raise ModuleNotFoundError("the DICOM libraries are not installed", name="pydicom")

app = typer.Typer(help="Images from elsewhere: data sets of others, and virtual hospitals.", no_args_is_help=True)

_NODE = "The node's folder, from 'fedward node init'."
_LAYOUT = "How its files are named: lits, nifti, brainweb, dicom or png (docs/import.md)."
_DATASET = "Its short name; Patient IDs of files that name nobody begin with it."
_LICENCE = "Text file with the terms on which it may be used."
_ACCEPT = "Say that you have read these terms and that they are kept here."
_LABELS = "TOML file that says which class each label becomes."
_AFFINE = "Which counts where a NIfTI file's two disagree: sform or qform."
_NOISE = "Noise where there is no noisy series: HU (CT), or a share of the 99.5th percentile (MR). 0: the default."
_HU = "Of PNG of CT: Hounsfield units of black and of the brightest value."
_SPACING = "Of PNG: mm between pixels, and between slices."
_OVERWRITE = "Take in anew what was taken in under another profile, and replace it."
_BODY = "Body Part Examined. Default: HEAD for MR, ABDOMEN for CT, or as the DICOM files say."


@app.callback()
def data() -> None:
    """Images from elsewhere: data sets of others, and virtual hospitals."""


@app.command("import")
def import_command(
    node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The data set; read recursively, never changed.")],
    *,
    layout: Annotated[str, typer.Option(help=_LAYOUT)],
    dataset: Annotated[str, typer.Option(metavar="NAME", help=_DATASET)],
    licence: Annotated[Path, typer.Option(metavar="FILE", help=_LICENCE)],
    who: Annotated[str, typer.Option(help="Who accepts the terms; stands in the record.")],
    accept_terms: Annotated[bool, typer.Option("--accept-terms", help=_ACCEPT)] = False,
    url: Annotated[str, typer.Option(help="Where it is from, as text; nothing is fetched.")] = "",
    modality: Annotated[str, typer.Option(help="MR or CT, where the layout does not say.")] = "",
    labels: Annotated[Path | None, typer.Option(metavar="FILE", help=_LABELS)] = None,
    affine: Annotated[str, typer.Option(help=_AFFINE)] = "",
    noise: Annotated[float, typer.Option(min=0, max=1000, help=_NOISE, show_default="30 HU; 0.06")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=2**53 - 1, help="Of that noise.")] = 0,
    hu: Annotated[tuple[float, float] | None, typer.Option(metavar="LOW HIGH", help=_HU)] = None,
    spacing: Annotated[tuple[float, float], typer.Option(metavar="PIXEL SLICE", help=_SPACING)] = (1.0, 1.0),
    body_part: Annotated[str, typer.Option(help=_BODY)] = "",
    profile: Annotated[str, typer.Option(help="Profile of de-identification.")] = "basic",
    workers: Annotated[int, typer.Option(min=1, help="Processes that de-identify.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help=_OVERWRITE)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the totals as JSON.")] = False,
) -> None:
    """Take a data set of NIfTI, MINC, DICOM or PNG files into a node: as DICOM, de-identified, with its provenance.

    Every study is looked through before any is taken in. The same command goes on where it was broken off.

    Exit status 0: all of it came in. 3: some did not; a line says of each why. 4: nothing of it can be used.
    """
    from client.deid import Profile
    from client.importing.run import import_dataset
    from client.ingest_cli import Bar

    target = _target(node, folder)
    terms = _accepted(licence, url, who, accepted=accept_terms)
    options = (affine, noise, seed, hu, spacing, body_part)
    settings, chosen = _settings(layout, dataset, modality, labels, *options), Profile.load(profile)
    with ExitStack() as stack:
        done = import_dataset(
            target,
            folder,
            settings,
            terms,
            profile=chosen,
            workers=workers,
            overwrite=overwrite,
            on_look=_Looking(stack, quiet=as_json).show,
            on_progress=Bar(stack, quiet=as_json).show,
        )
    _tell(done, as_json=as_json)


def _target(node: Path, folder: Path) -> "Node":
    """The node, which must be a real one, if the folder is there too."""
    from client.node import Node

    target = Node.open(node)
    target.require_real()
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", hint="name the folder of the data set")
    return target


def _accepted(licence: Path, url: str, who: str, *, accepted: bool) -> "Terms":
    from client.importing.record import Terms

    terms = Terms.load(licence, url=url, who=who)
    if not accepted:
        raise UsageError(
            f"the terms in {licence} are not accepted", hint="read them; if they are kept here, add --accept-terms"
        )
    return terms


class _Looking:
    """A progress bar that ends with the last study: its thread must not be there when worker processes are made."""

    def __init__(self, stack: ExitStack, *, quiet: bool) -> None:
        self._own, self._quiet = stack.enter_context(ExitStack()), quiet
        self._progress: Progress | None = None

    def show(self, done: int, total: int) -> None:
        """Show how many studies were looked through."""
        if self._progress is None:
            self._progress = self._own.enter_context(console.progress(quiet=self._quiet))
            self._task = self._progress.add_task("Looking through studies", total=total)
        self._progress.update(self._task, completed=done, total=total)
        if done == total:
            self._own.close()


def _settings(
    layout: str,
    dataset: str,
    modality: str,
    labels: Path | None,
    affine: str,
    noise: float,
    seed: int,
    hu: tuple[float, float] | None,
    spacing: tuple[float, float],
    body_part: str,
) -> "Settings":
    from client.importing.degraded import Degradation
    from client.importing.labels import NAMES, LabelMap
    from client.importing.settings import LAYOUTS, Settings, labels_of

    own = LAYOUTS.get(layout, "")
    if own and modality and modality.upper() != own:
        raise UsageError(f"the layout {layout} is of {own}", hint="leave out --modality")
    if layout == "dicom" and labels is not None and not modality:
        raise UsageError("--labels needs to know whose classes they are", hint="add --modality MR or --modality CT")
    given = own or modality.upper()
    if given and given not in NAMES:
        raise UsageError(f"'{modality}' is no modality that is trained on", hint="MR or CT")
    maps = {one: labels_of(layout, one) for one in NAMES}
    if labels is not None and given:
        maps[given] = LabelMap.load(labels, given)
    return Settings(
        layout,
        dataset,
        given,
        maps,
        Degradation(seed, noise),
        form=affine,
        window=hu if hu and any(hu) else None,
        spacing=spacing,
        body_part=body_part.upper(),
    )


def _tell(done: "Imported", *, as_json: bool) -> None:
    from client.cohort import Split

    tally, looked = done.ingested.tally, done.looked
    sides = {side.value: len(done.ingested.cohort.patients(side)) for side in Split}
    simulated = sum(one.noisy.startswith("simulated") for one in looked.ready)
    problems = [{"where": one.where, "reason": one.reason} for one in looked.problems]
    if as_json:
        totals = {**tally.counts, "simulated": simulated, "cohort": sides, "problems": problems}
        console.emit_json({**totals, "record": str(done.record), "report": str(done.ingested.report)})
    else:
        for one in looked.problems:
            console.say(f"{one.where}: {one.reason}")
        studies = console.plural(tally.studies, "study", "studies")
        console.say(f"{studies}, {tally.unchanged} of them here before; {simulated} with simulated noise")
        console.say(f"{tally.released} of {console.plural(tally.fetched, 'file')} released; {done.ingested.report}")
        console.say(f"provenance: {done.record}")
        console.say(f"cohort: {console.plural(sides['train'], 'patient')} to train on, {sides['held_out']} held out")
    if tally.incomplete:
        raise PartialError(
            f"not everything came in: {len(looked.problems)} of the data set cannot be used, "
            f"{tally.quarantined} files wait for a person, {tally.refused + tally.missing} were refused",
            hint=f"{done.ingested.report} names each of them and says why",
        )


@app.command("show")
def show_command(
    node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON.")] = False,
) -> None:
    """Say which data sets a node holds: where they are from, on which terms, and what was made of them."""
    from client.importing.record import records
    from client.node import Node

    found = records(Node.open(node))
    if as_json:
        console.emit_json([dict(one.body) | {"record_sha256": one.digest} for one in found])
        return
    if not found:
        console.say("no data set was imported into this node")
    for one in found:
        body, terms = one.body, one.body["terms"]
        cases = body["cases"]
        labelled, simulated = sum(c["labelled"] for c in cases), sum(c["noisy"].startswith("simulated") for c in cases)
        console.say(f"{body['dataset']}: {console.plural(len(cases), 'study', 'studies')}, {labelled} labelled")
        console.say(f"  from {body['url'] or 'a place that was not told'}, layout {body['settings']['layout']}")
        if simulated:
            console.say(
                f"  noise simulated in {simulated}: {cases[0]['noisy']}"
                if simulated == len(cases)
                else f"  noise simulated in {simulated}"
            )
        became = sorted({f"{name} = {kind}" for c in cases for name, kind in c["labels"].items()})
        console.say(f"  labels: {', '.join(became) or 'none'}")
        for each in body["imports"]:
            console.say(f"  imported {each['time']} by {each['who']}, fedward {each['fedward']}")
        console.say(f"  terms, accepted {terms['accepted']} by {terms['accepted_by']}, SHA-256 {terms['sha256']}:")
        for line in terms["text"].splitlines():
            for part in textwrap.wrap(line, 110) or [""]:
                console.say(f"  | {part}")
