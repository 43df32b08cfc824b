"""Matrix products of a dense layer, with the faster of torch's two CPU libraries.

torch.mm calls MKL, which keeps its AVX-512 kernels for Intel's processors and gives others those of
AVX2; oneDNN, in the same torch, uses AVX-512 wherever the processor has it. Both are float32
throughout. Measured in GFLOP/s on one core, large products, and the three products of a layer
768 x 768 at 32 rows and of one 256 x 256 at 64 rows:

| | MKL | oneDNN |
|---|---|---|
| AMD EPYC (Zen 4 or later) | 106; 75; - | 230; 130 to 165; - |
| Intel Xeon (with AMX) | 140; 92 to 141; 109 to 148 | 140; 89 to 108; 65 to 106 |

So a whole step at width 256 and 64 rows takes 1.40 times as long with oneDNN on the latter, one at
768 and 32 rows 1.21 times. torch reaches oneDNN's dense product only by the operator that its
compiler emits; a torch without that operator, float64 and other devices take torch.mm. The choice
depends on nothing that is measured at run time, so the same machine gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor


def _mkl_is_at_home() -> bool:
    """Whether torch has MKL and this is a processor of Intel's, as far as Linux tells."""
    processor = Path("/proc/cpuinfo")
    return (
        torch.backends.mkl.is_available()
        and processor.exists()
        and "GenuineIntel" in processor.read_text()
    )


HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
TAKES_ONEDNN = HAS_ONEDNN and not _mkl_is_at_home()


def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W' (+ bias): (B, in) and (out, in) to (B, out), of x's precision; no autograd."""
    if TAKES_ONEDNN and x.dtype == torch.float32 and x.device.type == "cpu":
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product
    if bias is None:
        return torch.mm(x, weight.t())
    return torch.addmm(bias, x, weight.t())
