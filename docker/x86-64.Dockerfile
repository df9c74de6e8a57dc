# A client on x86-64, with a GPU or without: any base will do that has, or can install, Python 3.10 or later.
# Build from the top of the repository, after `make wheel`: docker build -f docker/x86-64.Dockerfile -t fedmeter .
ARG BASE=docker.io/nvidia/cuda:12.6.3-base-ubuntu24.04
FROM ${BASE}
RUN python3 -c 'import ensurepip' 2>/dev/null || (apt-get update && \
    apt-get install --yes --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*)
COPY constraints.txt dist/fedmeter-*-py3-none-any.whl /tmp/fedmeter/
# `train` for workloads on PyTorch; by default the device half alone, which trains `linear` and workloads of your own.
ARG EXTRA=
RUN python3 -m venv --system-site-packages /opt/fedmeter && \
    wheel=$(ls /tmp/fedmeter/*.whl) && \
    /opt/fedmeter/bin/pip install --no-cache-dir --constraint /tmp/fedmeter/constraints.txt "${wheel}${EXTRA:+[${EXTRA}]}" && \
    rm -r /tmp/fedmeter
ENV PATH=/opt/fedmeter/bin:${PATH}
ENTRYPOINT ["python3", "-m", "fl.client"]
