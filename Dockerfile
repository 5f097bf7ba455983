# The image of openwit's workers on Dataflow, Flink and Spark (docs/running.md). It holds the package and its
# dependencies at the versions that are tested, and Beam's boot program, which starts the worker.
#
# Both bases are fixed by digest, so that a build today and one next year begin with the same bytes. Python's stands
# below. Beam's has to be given, since it could not be looked up where this file was written:
#   docker buildx imagetools inspect apache/beam_python3.11_sdk:2.77.0
#   docker build --build-arg BEAM_SDK=apache/beam_python3.11_sdk:2.77.0@sha256:... .
ARG BEAM_SDK
FROM ${BEAM_SDK} AS beam

# 3.11.16-slim-trixie, the index of all architectures
FROM python:3.11.16-slim-trixie@sha256:9c900dea9e8fb7e16277c179b555cc72d29a352dbc33cff48ad5a0412fd5bfc7

COPY --from=beam /opt/apache/beam /opt/apache/beam

WORKDIR /openwit
COPY constraints.txt pyproject.toml README.md LICENSE NOTICE beam_job.py ./
COPY openwit openwit
COPY pipeline pipeline
COPY queries queries
COPY dedup dedup
COPY train train
# The compiler is for openwit's own C modules, which the workers' search and matching are several times as fast with.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
    && pip install --no-cache-dir --constraint constraints.txt ".[crawl,overlap,gcp,s3]" && pip check \
    && apt-get purge -y --auto-remove gcc libc6-dev && rm -rf /var/lib/apt/lists/*

# Beam's boot program would make a virtual environment for each worker, below /opt, where only root can.
ENV RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1

# Outside the sources, all that a worker imports is there.
RUN useradd --create-home --home-dir /home/worker --uid 10001 worker && rm -rf /openwit
WORKDIR /home/worker
ARG WORKER=10001
USER ${WORKER}
RUN python -c "import pipeline.cli, pipeline.compact, pipeline.crawl, pipeline.report, pipeline.flow.beam_graphs, pipeline.takedown.cli, queries.job, dedup.overlap, gcsfs, s3fs"

ENTRYPOINT ["/opt/apache/beam/boot"]
