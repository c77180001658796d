"""How much burned-in text is found, how much picture that costs, and how fast.

    python -m benchmarks.redaction [--pages 40] [--clean 20] [--seed 7]

Pages are drawn from the fonts of this machine (Debian's fonts-dejavu-core, fonts-liberation, fonts-freefont-ttf and
fonts-wqy-zenhei), in five scripts, 8 to 40 pixels high, upright, turned by a quarter either way and slightly slanted,
on phantoms of five kinds, of 8, 12 and 16 bits, grey either way and RGB. A string counts as covered where at least
95 in 100 pixels of its ink are blanked; the mask ratio is the blanked
area over the area of the rectangles around the strings as they were written.
"""

import argparse
import time
from collections import Counter

import numpy as np

from client.deid.codec import read
from client.deid.pixels import clear, look
from client.deid.streams import UnclearError
from client.deid.tables import vr_of
from tests.client.deid.files import to_bytes
from tests.client.deid.pixels.rendering import CR, DX, FONTS, MG, SC, US, XA, Page, background, dicom, pages

FORMS = (
    (8, "MONOCHROME2"),
    (12, "MONOCHROME2"),
    (8, "RGB"),
    (16, "MONOCHROME2"),
    (12, "MONOCHROME1"),
    (8, "MONOCHROME1"),
)
CLASSES = (US, SC, CR, DX, MG, XA)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pages", type=int, default=40)
    parser.add_argument("--clean", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    rng = np.random.default_rng(asked.seed)
    covered: Counter[str] = Counter()
    strings: Counter[str] = Counter()
    held: Counter[str] = Counter()
    ratios: list[float] = []
    released = leaking = frames = 0
    started = time.process_time()
    missed: list[str] = []
    for number, (kind, page) in enumerate(pages(asked.pages, rng, cjk=(FONTS / "wqy").exists())):
        bits, photometric = FORMS[number % len(FORMS)]
        part10 = read(to_bytes(dicom(page, sop_class=CLASSES[number % 6], bits=bits, photometric=photometric)), vr_of)
        why = look(part10)
        assert why
        frames += 1
        try:
            done = clear(part10, why)
        except UnclearError as error:
            held[str(error)] += 1
            continue
        released += 1
        mask = np.zeros(page.values.shape, bool)
        for _, top, left, bottom, right in done.boxes:
            mask[top:bottom, left:right] = True
        ratios.append(mask.sum() / max(sum(one.room for one in page.written), 1))
        whole = True
        for one in page.written:
            ok = one.covered(mask)
            whole &= ok
            for group in (one.script, f"{one.size:2d} px", f"angle {one.angle:g}", kind, f"{bits} bit {photometric}"):
                strings[group] += 1
                covered[group] += ok
            if not ok:
                missed.append(f"{kind} {one.script} {one.size} px, angle {one.angle:g}, {bits} bit {photometric}")
        leaking += not whole
    spent = time.process_time() - started
    table(strings, covered)
    every = sum(strings[script] for script in ("latin", "digits", "cyrillic", "greek", "cjk"))
    hit = sum(covered[script] for script in ("latin", "digits", "cyrillic", "greek", "cjk"))
    print(f"strings covered     {hit} of {every} in released pages")
    print(f"pages released      {released} of {frames}; with a string not covered: {leaking}; held: {dict(held)}")
    print(
        f"mask over text      median {np.median(ratios):.2f}, mean {np.mean(ratios):.2f}, largest {max(ratios):.2f}; "
        f"at 2 or more: {sum(one >= 2 for one in ratios)} of {len(ratios)}"
    )
    print(f"pages per CPU-s     {frames / spent:.2f} (detection, blanking, detection again)")
    for line in missed:
        print("  missed:", line)
    clean(asked.clean, rng)


def table(strings: Counter[str], covered: Counter[str]) -> None:
    print(f"{'':24}{'strings':>9}{'covered':>9}{'share':>8}")
    for group in sorted(strings):
        print(f"{group:24}{strings[group]:>9}{covered[group]:>9}{covered[group] / strings[group]:>8.3f}")


def clean(count: int, rng: np.random.Generator) -> None:
    """Pictures without text must come back as they are."""
    touched = 0
    started = time.process_time()
    for number in range(count):
        page = Page(background(("us", "ct", "mr", "xr", "dark")[number % 5], rng, 512, 512))
        bits, photometric = FORMS[number % len(FORMS)]
        part10 = read(to_bytes(dicom(page, sop_class=US, bits=bits, photometric=photometric)), vr_of)
        why = look(part10)
        assert why
        try:
            touched += clear(part10, why).part10 is not part10
        except UnclearError:
            touched += 1
    spent = time.process_time() - started
    print(f"clean pictures      {count - touched} of {count} bit-identical; {count / spent:.2f} frames per CPU-s")


if __name__ == "__main__":
    main()
