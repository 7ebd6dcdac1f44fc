ARG FROM_IMAGE_NAME=nvcr.io/nvidia/pytorch:25.10-py3
FROM ${FROM_IMAGE_NAME}

WORKDIR /workspace/wav2vec2

# Dependencies in a layer of their own.  The base image's torch stays exactly as it is: pip is told
# its version as a constraint, and the build fails if the version changed all the same.
COPY requirements.txt .
RUN python3 -c 'import torch; print(f"torch=={torch.__version__}")' > /tmp/torch.txt \
    && pip install --no-cache-dir -r requirements.txt -c /tmp/torch.txt \
    && python3 -c 'import torch; print(f"torch=={torch.__version__}")' | diff /tmp/torch.txt - \
    && rm /tmp/torch.txt

COPY . .
ENV PYTHONUNBUFFERED=1
