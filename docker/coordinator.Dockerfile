# syntax=docker/dockerfile:1
# The coordinator: the ServerApp behind its gate; no hospital's code, and no DICOM library.
#
#   docker build --file docker/coordinator.Dockerfile --tag fedward-coordinator .
#
# The first stage has this room and what lies below it, and nothing else of the source tree: the wheel that it makes
# cannot hold the hospital's code.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS wheel
RUN python -m pip install --no-cache-dir --disable-pip-version-check setuptools==84.2.1
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY shared/ shared/
COPY compliance/ compliance/
COPY server/ server/
RUN python -m pip wheel --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir /wheel .

FROM ${BASE} AS environment
# Where torch comes from; for GPUs there is no reason: it only adds.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv --without-pip /opt/fedward
COPY constraints.txt /tmp/constraints.txt
RUN python -m pip --python /opt/fedward/bin/python install --no-cache-dir --disable-pip-version-check --no-deps \
        --index-url "${TORCH_INDEX}" --constraint /tmp/constraints.txt torch
COPY --from=wheel /wheel/ /wheel/
RUN python -m pip --python /opt/fedward/bin/python install --no-cache-dir --disable-pip-version-check \
        --constraint /tmp/constraints.txt "fedward[server] @ file:///wheel/$(ls /wheel)"

FROM ${BASE}
RUN python -m pip uninstall --yes --quiet pip setuptools wheel \
    && groupadd --gid 10001 fedward \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /state --shell /usr/sbin/nologin fedward \
    && install --directory --mode 0700 --owner 10001 --group 10001 /state
COPY --from=environment /opt/fedward /opt/fedward
# Only /state and /tmp are written, so that the root file system can be read-only.
ENV PATH=/opt/fedward/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    FLWR_HOME=/tmp/flwr \
    FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /state
VOLUME ["/state"]
# The gate, and the audit exchange one above it.
EXPOSE 8443 8444
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=30s --start-period=90s --retries=3 CMD ["fedward", "server", "health", "9095"]
ENTRYPOINT ["fedward"]
CMD ["server", "start", "/state/coordinator", "--listen", "0.0.0.0:8443", "--health", "9095"]
