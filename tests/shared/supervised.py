"""A supervisor as a program of its own: ``python -m tests.shared.supervised FOLDER PATIENCE SCRIPT...``.

Each script is Python that a child runs; one that begins with ``#`` is not vital. The child finds ``FOLDER`` in its
arguments. What the supervisor says goes to standard output, and so does the status that it ends with.
"""

import sys

from shared.supervisor import Child, Patience, Supervisor


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    folder, patience, *scripts = sys.argv[1:]
    first, longest, healthy, grace = (float(word) for word in patience.split(","))
    children = [
        Child(
            f"child-{number}",
            [sys.executable, "-c", script, folder],
            {"NUMBER": str(number)},
            vital=not script.startswith("#"),
        )
        for number, script in enumerate(scripts)
    ]
    status = Supervisor(children, say=say, patience=Patience(first, longest, healthy, grace)).run()
    say(f"status {status}")


if __name__ == "__main__":
    main()
