"""Adversarial super-resolution by four."""

from types import MappingProxyType

from shared.imaging.networks import EDSR, AdversarialPair, RelativisticPair, RRDBNet
from shared.imaging.superres4 import SuperResolution4
from shared.imaging.superres_gan import AdversarialSuperResolution
from shared.imaging.tasks import Networks, register


@register
class AdversarialSuperResolution4(AdversarialSuperResolution):
    """As :class:`AdversarialSuperResolution`, with more to invent: what it adds is no finding."""

    name = "superres4_gan"
    title = "Super-resolution ×4, adversarial"
    networks: Networks = MappingProxyType(
        {"srgan": lambda: AdversarialPair(EDSR(4, blocks=4)), "esrgan": lambda: RelativisticPair(RRDBNet(4))}
    )
    factor, patch = SuperResolution4.factor, SuperResolution4.patch
