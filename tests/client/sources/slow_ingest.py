"""An ingest with a pause before every file, for a test that kills it: NODE URL CREDENTIALS [WORKERS]."""

import sys
import time
from collections.abc import Iterable

from client import ingest_cli
from client.sources import dicomweb
from client.sources.intake import Intake
from client.sources.selection import Instance
from client.sources.source import Study
from shared.cli import main


class Slow(dicomweb.DicomWeb):
    def fetch(self, study: Study, wanted: Iterable[Instance], intake: Intake) -> None:
        for one in wanted:
            time.sleep(0.2)
            super().fetch(study, [one], intake)


if __name__ == "__main__":
    assert ingest_cli
    dicomweb.DicomWeb = Slow  # type: ignore[misc]
    folder, url, credentials, *workers = sys.argv[1:]
    command = ["node", "ingest", folder, "--dicomweb", url, "--credentials", credentials]
    sys.argv[1:] = [*command, "--workers", *workers] if workers else command
    main()
