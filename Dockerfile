# The base image of cloud-train: Python, the dependencies of the built-in trainers, and the clouds' SDKs for the stores. Packaging a job adds
# cloud-train itself and your code on top, so the base changes only when the dependencies do.
#
#   docker build -t cloud-train-worker:0.1.0 .                        # the tag is the version from `cloud-train --version`
#   docker build --build-arg PYTHON=nvidia/cuda-image-with-python …   # another image with Python 3.11 or later and pip
#
# Everything is pinned by digest: the Python image below, and each package in requirements.lock. To update:
#   docker buildx imagetools inspect python:3.12-slim   # shows the digest; put it below
#   make lock                                           # rewrites requirements.lock, with the versions of constraints.txt
#
# Wheels in ./wheels beside this file replace those of the package index (for example a CPU build of torch): tools/own_wheels.py.
ARG PYTHON=python:3.12-slim@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea
FROM ${PYTHON}
COPY requirements.lock tools/own_wheels.py wheels* /build/
RUN python3 /build/own_wheels.py /build/requirements.lock /build >/build/own.txt \
    && python3 -m pip install --no-cache-dir --no-compile --require-hashes --only-binary :all: --find-links /build -r /build/own.txt \
    && rm -rf /build
# The worker handles signals and reaps processes as process 1; it needs no shell and no root.
ENV HOME=/tmp PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /workspace
LABEL org.opencontainers.image.title="cloud-train worker base" \
      org.opencontainers.image.licenses="Apache-2.0"
