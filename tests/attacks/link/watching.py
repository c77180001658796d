"""What can be seen of processes from the outside: command lines, environments, sockets, and every call of connect."""

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

HOOK = '''"""Writes down whom every Python process asks for a connection; found by Python at its start."""
import os, socket, sys
_OUT = os.environ.get("FEDWARD_TEST_CONNECTS")
def _hook(event, arguments):
    if event in {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.bind"}:
        target = arguments[1:] if event != "socket.getaddrinfo" else arguments[:2]
        line = f"{os.getpid()} {event} {target!r}\\n".encode()
        handle = os.open(_OUT, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)
if _OUT:
    sys.addaudithook(_hook)
'''


def hooked(folder: Path, house: Path, out: Path) -> dict[str, str]:
    """The environment in which every Python process writes its connections to ``out``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(HOOK)
    return {"PYTHONPATH": f"{folder}:{house}", "FEDWARD_TEST_CONNECTS": str(out)}


@dataclass(frozen=True)
class Connect:
    """One attempt to reach somebody: an address and a port, or a name that was looked up."""

    event: str
    target: str
    port: int = 0

    @property
    def outside(self) -> bool:
        """Whether it leaves this machine."""
        try:
            address = ipaddress.ip_address(self.target)
        except ValueError:
            return self.target not in {"localhost", "", "None"} and not self.target.startswith("/")
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None  # as gRPC writes it
        return not (mapped or address).is_loopback


def recorded(out: Path) -> Iterator[Connect]:
    """What the hook wrote."""
    for line in out.read_text().splitlines():
        _, event, rest = line.split(" ", 2)
        if event == "socket.bind" or rest == "(None,)":  # sent on a socket that has its peer already
            continue
        if unix := re.fullmatch(r"\('(/[^']*)',\)", rest):
            yield Connect(event, unix[1])
            continue
        found = re.search(r"'([^']*)', (\d+|None|'\d+')", rest)
        if found:
            yield Connect(event, found[1], int(found[2].strip("'")) if found[2] != "None" else 0)
        else:
            yield Connect(event, rest)


def traced(out: Path) -> Iterator[Connect]:
    """What ``strace -f -e trace=connect,sendto,sendmsg`` wrote of IPv4 and IPv6."""
    for line in out.read_text(errors="replace").splitlines():
        if "sin_port" in line or "sin6_port" in line:
            call = re.search(r"(connect|sendto|sendmsg)\(", line)
            port = re.search(r"sin6?_port=htons\((\d+)\)", line)
            host = re.search(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"', line)
            if call and port and host:
                yield Connect(call[1], host[1] or host[2], int(port[1]))


def listeners(pids: Iterable[int]) -> set[tuple[str, int]]:
    """Addresses and ports on which any of the processes listens."""
    inodes = set()
    for pid in pids:
        try:
            for link in Path(f"/proc/{pid}/fd").iterdir():
                found = re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink()))
                if found:
                    inodes.add(found[1])
        except OSError:
            continue
    found_all = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                host, port = fields[1].split(":")
                found_all.add((_address(host), int(port, 16)))
    return found_all


def _address(raw: str) -> str:
    words = [bytes.fromhex(raw[n : n + 8])[::-1] for n in range(0, len(raw), 8)]
    return str(ipaddress.ip_address(b"".join(words)))


def told(pid: int) -> bytes:
    """Command line and environment of a process, as others on the machine may read them."""
    found = b""
    for name in ("cmdline", "environ", "comm"):
        try:
            found += Path(f"/proc/{pid}/{name}").read_bytes() + b"\n"
        except OSError:
            continue
    return found
