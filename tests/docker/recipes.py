"""What the Dockerfiles say, read: stages, instructions, and the build step that makes a wheel of some rooms."""

import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

HOUSE = Path(__file__).parents[2]
FOLDER = HOUSE / "docker"


@dataclass(frozen=True)
class Stage:
    """One stage: its base, its name, and its instructions after ``FROM`` as (word, rest)."""

    base: str
    name: str
    steps: tuple[tuple[str, str], ...]

    def all(self, word: str) -> list[str]:
        return [rest for name, rest in self.steps if name == word]

    def one(self, word: str) -> str:
        (rest,) = self.all(word)
        return rest

    def form(self, word: str) -> list[str]:
        """An instruction in exec form."""
        line = self.one(word)
        found: list[str] = json.loads(line[line.index("[") :])
        return found

    @property
    def environment(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for line in self.all("ENV") for pair in shlex.split(line))


def stages(image: str) -> list[Stage]:
    """The stages of an image's Dockerfile, in order."""
    text = (FOLDER / f"{image}.Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"(?m)^#.*\n", "", text)
    found: list[Stage] = []
    arguments: dict[str, str] = {}
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "ARG" and not found:
            arguments |= dict([rest.split("=", 1)])
        elif word == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append(Stage(arguments.get(base.strip("${}"), base), name, ()))
        elif word:
            last = found.pop()
            found.append(Stage(last.base, last.name, (*last.steps, (word, rest))))
    return found


def lay_out(image: str, source: Path) -> None:
    """Copy to ``source`` what the image's first stage copies from the source tree."""
    for line in stages(image)[0].all("COPY"):
        *wanted, target = line.split()
        for one in wanted:
            if (HOUSE / one).is_dir():
                shutil.copytree(HOUSE / one, source / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (source / target).mkdir(parents=True, exist_ok=True)
                shutil.copy(HOUSE / one, source / target)


def wheel_command(image: str, python: str, wheels: Path) -> list[str]:
    """The command of the first stage that makes the wheel, for this machine."""
    (line,) = [rest for rest in stages(image)[0].all("RUN") if "pip wheel" in rest]
    return [{"python": python, "/wheel": str(wheels)}.get(word, word) for word in shlex.split(line)]


def extra_of(image: str) -> str:
    """The extra of fedward with which the second stage installs the wheel."""
    (found,) = re.findall(r"fedward\[(\w+)\]", " ".join(stages(image)[1].all("RUN")))
    return str(found)
