"""What detection and segmentation share: a network of the zoo as a backbone."""
