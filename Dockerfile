# mt without a GPU, run by a user who is not root. The folder of your text and runs is /work:
#
#   docker build --tag mt --build-arg PIP_EXTRA_INDEX_URL=ADDRESS .
#   docker run --rm --volume "$PWD:/work" --user "$(id -u):$(id -g)" mt demo
#
# ADDRESS is PyTorch's index of CPU builds, which its "Get started" page names. Without it torch brings CUDA on x86, and
# the image has some gigabytes more. --cpus 4 limits the processors: mt starts as many processes as it has of them.

FROM python:3.11-slim AS build
ARG PIP_EXTRA_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/mt
WORKDIR /source
# torch, the largest part, apart from the rest: a change of the source does not load it again
COPY constraints.txt ./
RUN /opt/mt/bin/pip install --no-cache-dir --constraint constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY mt mt
COPY data data
COPY configs configs
COPY benchmarks benchmarks
COPY tools/studies tools/studies
RUN /opt/mt/bin/pip install --no-cache-dir --constraint constraints.txt ".[ctranslate2]"

FROM python:3.11-slim
COPY --from=build /opt/mt /opt/mt
# writable for any user that --user names: caches go there
RUN useradd --create-home mt && chmod 777 /home/mt && install --directory --owner mt /work
ENV PATH=/opt/mt/bin:$PATH HOME=/home/mt PYTHONUNBUFFERED=1
USER mt
WORKDIR /work
ENTRYPOINT ["mt"]
CMD ["--help"]
