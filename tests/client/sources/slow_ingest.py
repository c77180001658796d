"""An ingest with a pause before every file, for a test that kills it: NODE URL CREDENTIALS."""

import sys
import time
from collections.abc import Iterable
from pathlib import Path

from client.deid import Profile
from client.ingest import ingest
from client.node import Node
from client.sources.credentials import Credentials
from client.sources.dicomweb import DicomWeb
from client.sources.intake import Intake
from client.sources.selection import Instance, Selection
from client.sources.source import Study


class Slow(DicomWeb):
    def fetch(self, study: Study, wanted: Iterable[Instance], intake: Intake) -> None:
        for one in wanted:
            time.sleep(0.2)
            super().fetch(study, [one], intake)


if __name__ == "__main__":
    folder, url, credentials = sys.argv[1:]
    source = Slow(url, credentials=Credentials.load(Path(credentials)))
    ingest(Node.open(Path(folder)), source, Selection(), profile=Profile.load("basic"))
