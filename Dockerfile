# The image of openwit's workers on Dataflow, Flink and Spark (docs/running.md). It holds the package and its
# dependencies at the versions that are tested, and Beam's boot program, which starts the worker.
FROM python:3.11-slim

COPY --from=apache/beam_python3.11_sdk:2.77.0 /opt/apache/beam /opt/apache/beam

WORKDIR /openwit
COPY constraints.txt pyproject.toml README.md LICENSE beam_job.py ./
COPY pipeline pipeline
COPY queries queries
COPY dedup dedup
COPY train train
RUN pip install --no-cache-dir --constraint constraints.txt ".[crawl,overlap,gcp,s3]" && pip check

ENTRYPOINT ["/opt/apache/beam/boot"]
