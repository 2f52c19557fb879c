# For CPUs:
#   docker build --tag attrbind .
#   docker run --rm --volume "$PWD:/work" attrbind run text_processor=ablation tracker=none
# For NVIDIA GPUs, on x86; the host has their driver and the NVIDIA Container Toolkit:
#   docker build --tag attrbind --build-arg DEVICE=cuda .
#   docker run --rm --gpus all --volume "$PWD:/work" --volume "$HOME/.cache/huggingface:/models" attrbind run model=sd15 ..
FROM python:3.11-slim

ARG DEVICE=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# The CPU's torch comes from PyTorch's own index. The lock is content with it: torch==2.13.0 allows 2.13.0+cpu. PyPI's
# torch for Linux on x86 brings CUDA's libraries along. Packages come first, since they change less often than the code.
COPY requirements.lock /build/
RUN case "$DEVICE" in \
      cpu) pip install --index-url https://download.pytorch.org/whl/cpu \
             "$(grep '^torch==' /build/requirements.lock)" ;; \
      cuda) ;; \
      *) echo "DEVICE=$DEVICE; choose cpu or cuda" >&2; exit 1 ;; \
    esac \
 && pip install --requirement /build/requirements.lock

COPY . /build/source
RUN pip install --no-deps --no-build-isolation /build/source && rm -r /build

# Anybody may run it: docker run --user "$(id -u):$(id -g)" writes files that are yours.
ENV HOME=/tmp USER=attrbind HF_HOME=/models
WORKDIR /work
ENTRYPOINT ["attrbind"]
CMD ["--help"]
