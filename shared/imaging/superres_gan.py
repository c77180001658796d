"""Adversarial super-resolution by two: images that a second network cannot tell from references."""

from types import MappingProxyType

from torch import nn

from shared.imaging.networks import EDSR, AdversarialPair, RelativisticPair, RRDBNet
from shared.imaging.superres import SuperResolution
from shared.imaging.tasks import Batch, Networks, Objective, register

WEIGHT = 3e-3
# The discriminator's gradient is hundreds of times as long as the generator's once both have learnt a little, and would
# leave it nothing of the bound where the two are clipped as one. Adam does not see this factor.
DISCRIMINATOR_WEIGHT = 1e-2


@register
class AdversarialSuperResolution(SuperResolution):
    """A generator under the L1 loss and the judgement of a discriminator (SRGAN: Ledig et al. 2017, arXiv:1609.04802).

    The pair of networks says what the two pay: ``srgan`` asks whether an image is a reference, ``esrgan`` which of two
    is (Wang et al. 2018, arXiv:1809.00219).

    Sharper to the eye than L1 alone, whose best answer to a doubt is the median of all that is likely, at some cost in
    PSNR. What it adds is likely, not measured: texture in it is no finding.
    """

    name = "superres_gan"
    title = "Super-resolution ×2, adversarial"
    networks: Networks = MappingProxyType(
        {"srgan": lambda: AdversarialPair(EDSR()), "esrgan": lambda: RelativisticPair(RRDBNet())}
    )

    def objectives(self, network: nn.Module, batch: Batch) -> tuple[Objective, ...]:
        """The generator's L1 and adversarial loss, and the discriminator's loss, on one and the same fake.

        Both networks see images, the discriminator even the references themselves, so under privacy the gradients of
        both are clipped as one.
        """
        pair = network
        if not isinstance(pair, AdversarialPair):
            raise TypeError(f"the task {self.name} trains an AdversarialPair, not a {type(network).__name__}")
        inputs, targets = batch
        fake = pair.generator(inputs).float()
        fools, told_apart = pair.judged(fake, targets)
        return (
            Objective(self.loss(fake, targets) + WEIGHT * fools, pair.generator),
            Objective(DISCRIMINATOR_WEIGHT * told_apart, pair.discriminator),
        )
