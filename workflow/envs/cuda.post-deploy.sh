#!/usr/bin/env bash
# Generated from pyproject.toml and constraints.txt by `clipaffect docs`; do not edit.
set -euo pipefail
pip() { python -m pip --no-input --disable-pip-version-check --retries 2 --timeout 20 "$@"; }
# On Linux the plain wheel of torch is the CUDA build, several GB with its libraries.
pip install --quiet --requirement /dev/stdin <<'PACKAGES'
ai-edge-litert==2.3.0
altair==6.3.0
annotated-doc==0.0.7
annotated-types==0.8.0
anyio==4.16.0
attrs==26.1.0
av==18.1.0
backports.strenum==1.2.8
click==8.5.1
cloudpickle==3.1.2
filelock==4.2.11
flatbuffers==25.12.19
fsspec==2026.9.0
ftfy==6.3.1
h11==0.16.0
h5py==3.16.0
hf-xet==1.8.0
httpcore2==2.16.2
httpx2==2.16.2
huggingface_hub==2.4.0
idna==3.20
Jinja2==3.1.6
joblib==1.6.0
jsonschema==4.26.0
jsonschema-specifications==2025.9.1
markdown-it-py==4.3.0
MarkupSafe==3.0.4
mdurl==0.1.2
ml_dtypes==0.6.0
mpmath==1.3.0
narwhals==2.29.0
networkx==3.6.1
numpy==2.4.6
onnx==1.23.2
onnx-ir==1.1.0
onnxscript==0.7.2
open_clip_torch==3.3.0
opencv-python-headless==5.0.0.93
packaging==25.0
pandas==3.1.1
pillow==13.0.0
protobuf==7.36.2
pyarrow==26.0.1
pydantic==2.14.3
pydantic_core==2.50.4
Pygments==2.21.0
python-dateutil==2.9.0.post0
PyYAML==6.0.3
referencing==0.37.0
regex==2026.11.15
rich==15.0.0
rpds-py==2026.9.1
safetensors==0.8.0
scikit-learn==1.9.1
scipy==1.17.1
shellingham==1.5.4
six==1.17.0
sympy==1.14.0
threadpoolctl==3.8.0
timm==1.0.31
torch==2.13.0
torchvision==0.28.0
tqdm==4.70.1
truststore==0.10.5
typer==0.29.2
typing_extensions==4.16.0
typing-inspection==0.4.5
vl-convert-python==1.9.0.post1
wcwidth==0.9.4
PACKAGES
python -c 'import torch; assert torch.version.cuda, "torch is a CPU build"'
