"""What a folder of released files was made under before: another profile or key must not mix with it, or replace it."""

from pathlib import Path

from client.deid.place import profile_of
from client.deid.profile import Profile
from client.deid.pseudonyms import SiteKey
from client.deid.report import key_of
from shared.errors import UsageError

_RELEASED = "*/*/*/*.dcm"


def check_same(out: Path, reports: Path, profile: Profile, key: SiteKey, *, overwrite: bool = False) -> None:
    """Refuse to release into a folder that holds files of another profile or site key.

    The profile is the one that a released file names; the key the one that the last report noted, where there is one.

    Args:
        out: The folder for released files.
        reports: The folder with the report on it.
        profile: The profile of the run that is to begin.
        key: Its site key.
        overwrite: Whether files of another profile may be replaced. Those of another key would not be: they have
            other names, and stay beside.

    Raises:
        UsageError: The profile or the key is another.
    """
    released = next(out.glob(_RELEASED), None)
    if released is None:
        return
    if key_of(reports) not in {"", key.fingerprint}:
        raise UsageError(
            f"{out} was released under another site key, says the report in {reports}",
            hint="name that key with --key or --node, or choose another OUT with reports of its own",
        )
    method = profile_of(released)
    if method and profile.sha256 not in method and not overwrite:
        raise UsageError(
            f"{out} holds files that were released under another profile than {profile.name} as it is now",
            hint="choose another OUT, or replace them with --overwrite",
        )
