"""The networks, one idea a file; all of them small enough for a hospital's processor."""

from shared.imaging.networks.blocks import seeded
from shared.imaging.networks.convgru import ConvGRU
from shared.imaging.networks.discriminator import AdversarialPair, Discriminator
from shared.imaging.networks.dncnn import DnCNN
from shared.imaging.networks.edsr import EDSR
from shared.imaging.networks.fcn import FCN
from shared.imaging.networks.unet import UNet
from shared.imaging.networks.unet25d import UNet25D

__all__ = ["EDSR", "FCN", "AdversarialPair", "ConvGRU", "Discriminator", "DnCNN", "UNet", "UNet25D", "seeded"]
