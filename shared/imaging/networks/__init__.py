"""The networks, one idea a file; all of them small enough for a hospital's processor."""

from shared.imaging.networks.blocks import seeded
from shared.imaging.networks.convgru import ConvGRU
from shared.imaging.networks.discriminator import AdversarialPair, Discriminator, RelativisticPair
from shared.imaging.networks.dncnn import DnCNN
from shared.imaging.networks.edsr import EDSR
from shared.imaging.networks.fcn import FCN
from shared.imaging.networks.restormer import Restormer
from shared.imaging.networks.rrdb import RRDBNet
from shared.imaging.networks.srresnet import SRResNet
from shared.imaging.networks.unet import DeepUNet, UNet
from shared.imaging.networks.unet25d import UNet25D

__all__ = [
    "EDSR",
    "FCN",
    "AdversarialPair",
    "ConvGRU",
    "DeepUNet",
    "Discriminator",
    "DnCNN",
    "RRDBNet",
    "RelativisticPair",
    "Restormer",
    "SRResNet",
    "UNet",
    "UNet25D",
    "seeded",
]
