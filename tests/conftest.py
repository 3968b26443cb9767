"""What all tests share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # `import laws` from any folder of tests
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("RAY_worker_niceness", "0")  # tests share two cores with nobody who must go first


@pytest.fixture(autouse=True)
def _same_seed() -> None:
    torch.manual_seed(0)
