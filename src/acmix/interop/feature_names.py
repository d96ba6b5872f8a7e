"""How the names of a network's tensors change where timm lists its feature maps."""

__all__ = ["plain_name"]


def plain_name(name: str) -> str:
    """A name that is the same in a classification network and in the same network as a list of its features.

    There timm joins the parts of its stages' names, or puts `model.` before all names.

    Args:
        name: Of a parameter or buffer in either of the two.
    """
    return name.removeprefix("model.").replace(".", "_")
