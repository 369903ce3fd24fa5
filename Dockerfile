# The base image of cloud-train: Python, what the built-in trainers need, and the clouds' SDKs for the stores. cloud-train itself is laid on
# top of it, with your code, when a job is packaged, so the base changes only when the dependencies do.
#
#   docker build -t cloud-train-worker:0.1.0 .                        # the tag is the version that `cloud-train --version` prints
#   docker build --build-arg PYTHON=nvidia/cuda-image-with-python …   # another image with Python 3.11 or later and pip
#
# Wheels that lie in ./wheels beside this file are preferred to those of the index (a CPU build of torch, say).
ARG PYTHON=python:3.12-slim
FROM ${PYTHON}
COPY constraints.txt wheels* /build/
RUN python3 -m pip install --no-cache-dir --no-compile --find-links /build -c /build/constraints.txt \
        numpy pillow pydantic ruamel.yaml safetensors scikit-learn tensorboardX torch psutil \
        azure-identity azure-storage-blob boto3 google-auth obstore requests \
    && rm -rf /build
# The worker listens to signals and buries processes as process 1; it needs no shell and no root.
ENV HOME=/tmp PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /workspace
LABEL org.opencontainers.image.title="cloud-train worker base" \
      org.opencontainers.image.licenses="Apache-2.0"
