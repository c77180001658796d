"""What a child of a link's worker does, and which modules it had to import for that."""

import json
import sys

import tests.federation.toy  # noqa: F401  # the task of the tests
from client import link_work


def work(strings: list[bytes]) -> list[bytes]:
    before = set(sys.modules)
    answer = link_work.work(strings)
    return [json.dumps(sorted(set(sys.modules) - before)).encode(), *answer]
