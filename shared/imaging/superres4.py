"""Super-resolution by four: the reference image from a sixteenth of its k-space."""

from functools import partial
from types import MappingProxyType

from shared.imaging.networks import EDSR, SRResNet
from shared.imaging.superres import SuperResolution
from shared.imaging.tasks import Networks, register


@register
class SuperResolution4(SuperResolution):
    """As :class:`SuperResolution`, of a sixteenth of what is measured there: most of an answer is likely, not seen."""

    name = "superres4"
    title = "Super-resolution ×4"
    networks: Networks = MappingProxyType({"edsr": partial(EDSR, 4), "srresnet": partial(SRResNet, 4)})
    factor = 4
    patch = 16
