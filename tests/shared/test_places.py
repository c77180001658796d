"""Countries by their codes and addresses in a network: one form each, anything else refused."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.places import COUNTRIES, Address, sound_address, sound_country, sound_host

PORTS = st.integers(1, 65535)
LABELS = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)


def test_the_list_of_countries_is_that_of_iso_3166() -> None:
    assert len(COUNTRIES) == 249
    assert {"DE", "CN", "US", "GB", "FR", "CH", "JP", "BR", "IN", "ZA"} <= COUNTRIES


@pytest.mark.parametrize("code", ["", "de", "UK", "EU", "XX", "DEU", "D", "DE ", "ＤＥ"])
def test_what_is_no_country_is_refused(code: str) -> None:
    with pytest.raises(ValueError, match="ISO 3166-1"):
        sound_country(code)


@given(st.lists(LABELS, min_size=1, max_size=4).map(".".join) | st.ip_addresses().map(str), PORTS)
def test_an_address_reads_back(host: str, port: int) -> None:
    address = Address(host, port)
    assert Address.parse(str(address)) == address
    assert sound_address(str(address)) == str(address)
    assert sound_host(host) == host


@given(st.ip_addresses(v=6), PORTS)
def test_an_ipv6_address_stands_in_brackets(host: ipaddress.IPv6Address, port: int) -> None:
    assert str(Address(str(host), port)) == f"[{host}]:{port}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:",
        ":443",
        "host:0",
        "host:65536",
        "host:0443",
        "host:+443",
        "host: 443",
        "host:４４３",
        "Host:443",
        "https://host:443",
        "host/x:443",
        "user@host:443",
        "-a:443",
        "a..b:443",
        "a_b:443",
        "1.2.3:443",
        "1.2.3.4.5:443",
        "::1:443",
        "[::1]",
        "[127.0.0.1]:443",
        "[fe80::1%eth0]:443",
        "[0:0:0:0:0:0:0:1]:443",
        "a" * 64 + ":443",
        "host:443\n",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be host:port"):
        Address.parse(text)


@given(st.text(max_size=20))
def test_any_text_is_an_address_in_its_one_form_or_refused(text: str) -> None:
    try:
        found = Address.parse(text)
    except ValueError:
        return
    assert str(found) == text
    assert 1 <= found.port <= 65535
