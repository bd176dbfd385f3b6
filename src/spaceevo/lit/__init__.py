"""Data and training: the one data module and the Lightning modules of the training stages."""

from spaceevo.torchvision_shim import ensure_torchvision

ensure_torchvision()  # before any module of this package: Lightning itself imports torchvision, through torchmetrics
