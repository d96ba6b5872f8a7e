"""The zoo on timm. Importing this package registers the names, so that `timm.create_model` knows them too."""

from acmix.models import leaves, pvt, resnet, san, swin
from acmix.models.registry import create_model, list_models

__all__ = ["create_model", "leaves", "list_models", "pvt", "resnet", "san", "swin"]
