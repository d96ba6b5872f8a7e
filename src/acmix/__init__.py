"""ACmix: self-attention and convolution in one operator."""
