"""Foreign weights: the authors' checkpoints, and checkpoint files of any make read safely."""

from acmix.interop.checkpoint import read_checkpoint, read_state_dict
from acmix.interop.misfits import MisfitError, Misfits
from acmix.interop.official import load_official

__all__ = ["MisfitError", "Misfits", "load_official", "read_checkpoint", "read_state_dict"]
