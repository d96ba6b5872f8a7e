import subprocess
import sys


def test_importing_analysis_loads_nothing_heavier_than_torch() -> None:
    heavy = ["matplotlib", "timm", "torchvision", "lightning", "sklearn", "PIL"]
    code = f"import sys, acmix.analysis; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
