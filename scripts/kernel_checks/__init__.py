"""Parts of scripts/check_kernels.py: cases with their truths, builds of the kernels without torch, runs."""
