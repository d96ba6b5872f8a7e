"""Object detection and instance segmentation on torchvision's detectors."""
