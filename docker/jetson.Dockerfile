# A client on a Jetson. BASE is an image on L4T of the board's own release with Python 3.10 or later (JetPack 6 and 7);
# one that holds NVIDIA's torch keeps it, since the client's environment sees the packages of the system.
# docker build -f docker/jetson.Dockerfile --build-arg BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0 -t fedmeter .
ARG BASE
FROM ${BASE}
RUN python3 -c 'import ensurepip' 2>/dev/null || (apt-get update && \
    apt-get install --yes --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*)
COPY constraints.txt dist/fedmeter-*-py3-none-any.whl /tmp/fedmeter/
# No extra installs torch here: its wheels on the index do not know this GPU.
RUN python3 -m venv --system-site-packages /opt/fedmeter && \
    wheel=$(ls /tmp/fedmeter/*.whl) && \
    /opt/fedmeter/bin/pip install --no-cache-dir --constraint /tmp/fedmeter/constraints.txt "${wheel}" && \
    rm -r /tmp/fedmeter
ENV PATH=/opt/fedmeter/bin:${PATH}
ENTRYPOINT ["python3", "-m", "fl.client"]
