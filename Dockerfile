# The NGC PyTorch image, or any other that has torch; a plain Python or Debian image gets a torch
# of its own: --build-arg FROM_IMAGE_NAME=python:3.12-slim
ARG FROM_IMAGE_NAME=nvcr.io/nvidia/pytorch:25.10-py3
FROM ${FROM_IMAGE_NAME}

# What a base without torch gets, and from which index (pip's own, if empty).
ARG TORCH_VERSION=2.13.0
ARG TORCH_INDEX_URL=

WORKDIR /workspace/wav2vec2
# Debian's Python is for Debian's packages alone, unless it is told otherwise.
ENV PYTHONUNBUFFERED=1 PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore

# Dependencies in a layer of their own: a change of the sources does not install them again.
COPY requirements.txt requirements-quickstart.txt requirements-decode.txt scripts/docker/install_dependencies.sh /tmp/install/
RUN TORCH_VERSION=${TORCH_VERSION} TORCH_INDEX_URL=${TORCH_INDEX_URL} \
    sh /tmp/install/install_dependencies.sh && rm -r /tmp/install

COPY . .
# Whoever runs the container may read the sources, however they were checked out, and have results
# and corpora in it that are not mounted.
RUN chmod -R a+rX . && mkdir -p results datasets && chmod 1777 results datasets

HEALTHCHECK CMD ["python3", "-c", "import torch, soundfile, common, wav2vec2"]
ARG REVISION=unknown
ENV SOURCE_REVISION=${REVISION}
LABEL org.opencontainers.image.title="wav2vec2-recipes" \
      org.opencontainers.image.description="Pre-training, fine-tuning and inference of wav2vec 2.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
