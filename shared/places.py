"""Where somebody is: a country by its code, and an address in a network."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

_CODES: Final = (
    "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY "
    "BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK "
    "FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR "
    "IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK "
    "ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM "
    "PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF "
    "TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW"
)
COUNTRIES: Final = frozenset(_CODES.split())
"""The officially assigned codes of ISO 3166-1 alpha-2."""

_HOST: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


def sound_country(code: str) -> str:
    """``code``, if it is one of ISO 3166-1 alpha-2 in capitals.

    Raises:
        ValueError: It is none.
    """
    if code not in COUNTRIES:
        raise ValueError("must be a country's code of two capitals (ISO 3166-1 alpha-2), such as DE, CN or US")
    return code


def sound_host(host: str) -> str:
    """``host``, if it is a name in lower case (RFC 1123, section 2.1) or an IP address, which comes in its one form.

    Raises:
        ValueError: It is neither. A name whose last part is digits alone is refused: it would be read as an address.
    """
    if "%" not in host:  # which would name a network card of this machine
        try:
            return str(ipaddress.ip_address(host))
        except ValueError:
            if _HOST.fullmatch(host) and not host.rpartition(".")[2].isdigit():
                return host
    raise ValueError("must be a host's name in lower case, or an IP address")


@dataclass(frozen=True)
class Address:
    """Where a service listens.

    Attributes:
        host: A name in lower case or an IP address, without brackets.
        port: 1 to 65535.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """The address that ``text`` is: ``host:port``, an IPv6 address in square brackets (RFC 3986, section 3.2.2).

        Raises:
            ValueError: It is none, or not written in the one form that :meth:`__str__` has.
        """
        host, _, port = text.rpartition(":")
        try:
            if host.startswith("["):
                host = str(ipaddress.IPv6Address(host[1:-1]))  # and no name, and none of IPv4
            found = cls(sound_host(host), int(port))
        except ValueError:
            found = None
        if found is None or str(found) != text or not 1 <= found.port <= 65535:
            raise ValueError("must be host:port, such as fl.example.org:9443 or 192.0.2.7:9443")
        return found

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def sound_address(text: str) -> str:
    """``text``, if :meth:`Address.parse` takes it.

    Raises:
        ValueError: It does not.
    """
    return str(Address.parse(text))
