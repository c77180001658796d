"""The SuperLink as one process: what it keeps, what it opens, and what Flower alone would let a node do."""

import hashlib
import os
import signal
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
